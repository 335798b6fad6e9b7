"""What BasicSR's log line and TensorBoard show of a training: losses by name, images per second, memory."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, distributed

from dscsr_arch.errors import DscsrError
from dscsr_model.training.clock import TrainingClock
from dscsr_model.training.ranks import together

BASICSR_NAMES = {"pixel": ("pix", "pix_style"), "perceptual": ("percep", "style")}
"""What SRModel calls its losses, and the style of a PerceptualLoss."""


def loss_sections(train: Mapping[Any, Any]) -> dict[str, Any]:
    """The sections of losses that are asked for, by names without ``_opt`` (the optimizer's is called ``optim_g``)."""
    return {str(key).removesuffix("_opt"): value for key, value in train.items() if str(key).endswith("_opt") and value}


def named(name: str, loss: Any, suffix: str = "") -> dict[str, Tensor]:
    """Terms of a loss as they are logged.

    Args:
        name: Of the loss.
        loss: A scalar, logged as ``l_<name>``; or BasicSR's PerceptualLoss's pair (perceptual, style), of which each
            may be None, logged as ``l_<name>`` and ``l_<name>_style``. SRModel's losses are called as SRModel does:
            ``l_pix``, ``l_percep``, ``l_style``.
        suffix: Ends the names.

    Raises:
        DscsrError: It is neither.
    """
    names = BASICSR_NAMES.get(name, (name, f"{name}_style"))
    given = loss if isinstance(loss, tuple) else (loss,)
    terms = [term for term in given if term is not None]
    if len(given) > 2 or not terms or not all(isinstance(term, Tensor) and term.dim() == 0 for term in terms):
        got = ", ".join(str(tuple(term.shape) if isinstance(term, Tensor) else term) for term in terms)
        raise DscsrError(
            f"`{name}_opt` to give a number, or a pair (perceptual, style)",
            f"something else ({got})" if terms else "neither",
            "Set its `reduction` to mean or sum, and a weight.",
        )
    return {f"l_{key}{suffix}": term for key, term in zip(names, given, strict=False) if term is not None}


def reduced(losses: Mapping[str, Tensor]) -> dict[str, float]:
    """Mean of each loss over all ranks. Reads from the device and talks to the other ranks: only when asked to log."""
    if not losses:
        return {}
    values = torch.stack([loss.detach().float().mean() for loss in losses.values()])
    if together():
        distributed.all_reduce(values)
        values /= distributed.get_world_size()
    return dict(zip(losses, values.tolist(), strict=True))


class Throughput:
    """Images per second between two readings, all ranks together, from the end of the first step on."""

    def __init__(self, clock: TrainingClock, world_size: int) -> None:
        self._clock = clock
        self._world_size = world_size
        self._images = 0
        self._since: float | None = None

    def add(self, images: int) -> None:
        """Count the images of a step of this rank."""
        if self._since is None:
            self._since = self._clock.seconds
        else:
            self._images += images

    def read(self) -> float | None:
        """Images per second since the last reading, or None where no step was timed; starts anew."""
        now = self._clock.seconds
        rate = (
            self._images * self._world_size / (now - self._since) if self._images and self._since is not None else None
        )
        self._images, self._since = 0, now
        return rate


def peak_memory_gib(device: torch.device) -> float:
    """The most memory in use so far, in GiB: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

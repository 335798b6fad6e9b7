"""What keeps a run from being ruined: steps that are not finite are skipped and counted, then end it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dscsr_arch.errors import DscsrError


class TrainingStoppedError(DscsrError):
    """Too many steps in a row were not finite."""


class StepGuard:
    """Takes optimizer steps, but not those whose loss or gradients are not finite.

    On the CPU the flag is read at once. A fused optimizer on a GPU gets it as a tensor, so that nothing waits for
    the device; the counters stay there until somebody asks.

    Args:
        max_bad_steps: So many bad steps in a row stop the run.
        device: Where the losses are.
    """

    def __init__(self, max_bad_steps: int, device: torch.device) -> None:
        self.max_bad_steps = max_bad_steps
        self._total = torch.zeros((), dtype=torch.int64, device=device)
        self._in_row = torch.zeros((), dtype=torch.int64, device=device)

    @property
    def total(self) -> int:
        """Steps skipped so far; reads from the device."""
        return int(self._total)

    @property
    def in_row(self) -> int:
        """Steps skipped since the last good one; reads from the device."""
        return int(self._in_row)

    def step(self, optimizer: Optimizer, loss: Tensor, norm: Tensor, scaler: torch.amp.GradScaler) -> None:
        """Step if all is finite, and count.

        Args:
            optimizer: Its gradients are complete, unscaled and clipped.
            loss: Total loss of the step, a scalar.
            norm: Norm of all gradients, a scalar.
            scaler: The loss scaler; enabled for fp16 only. It looks for overflow itself.
        """
        bad = ~(torch.isfinite(loss.detach()) & torch.isfinite(norm))
        self._total += bad
        self._in_row += bad
        self._in_row *= bad
        if scaler.is_enabled():
            scaler.step(optimizer)
            scaler.update()
        elif optimizer.defaults.get("fused"):
            optimizer.found_inf, optimizer.grad_scale = bad.float(), None  # type: ignore[attr-defined]
            optimizer.step()
        elif not bad:
            optimizer.step()

    def check(self, iteration: int, losses: Mapping[str, float], last_checkpoint: str | None) -> None:
        """Stop a run that does not recover.

        Raises:
            TrainingStoppedError: ``max_bad_steps`` in a row were bad.
        """
        if self.in_row >= self.max_bad_steps:
            terms = ", ".join(f"{name} {value:.3g}" for name, value in losses.items())
            raise TrainingStoppedError(
                f"Expected finite losses and gradients, but got none in the last {self.in_row} steps, up to iteration "
                f"{iteration:,} ({terms}). The weights on disk are good: the last checkpoint is "
                f"{last_checkpoint or 'none yet'}. Resume from it with a lower learning rate, `grad_clip_norm`, or "
                "`precision: fp32` or bf16, and look at the data."
            )


def gradient_norm(parameters: list[nn.Parameter], max_norm: float | None) -> Tensor:
    """Norm of all gradients together, which are scaled down to ``max_norm`` if it is given and exceeded."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if max_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


def all_finite(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether every floating-point tensor is free of NaN and infinity."""
    floats = [tensor for tensor in state_dict.values() if tensor.is_floating_point()]
    return bool(torch.stack([torch.isfinite(tensor).all() for tensor in floats]).all()) if floats else True

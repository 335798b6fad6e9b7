"""Quantization in a training: put into the network as an option file says, calibrated on the first batch.

Formulas and papers: `dscsr_arch.quantizers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from dscsr_arch.conv_lora import lora_layers
from dscsr_arch.deployable import fused
from dscsr_arch.errors import DscsrError
from dscsr_arch.quantized_conv import ENTRIES, QuantizedConv, inject, quantized_layers
from dscsr_model.options.sections import QuantizeSection
from dscsr_model.training.ranks import together

Network = TypeVar("Network", bound=nn.Module)


def quantized(network: Network, section: Mapping[str, Any] | None) -> Network:
    """``network`` itself, in place: fused, if it can be, and quantized as ``train: quantize:`` says; None leaves it.

    Raises:
        QuantizationError: See `quantized_conv.inject`.
    """
    if section is None:
        return network
    plain = network if lora_layers(network) else fused(network)  # LoRA would be lost
    options = QuantizeSection.parse(section, "train: quantize")
    return inject(plain, options.method, options.bits, options.full_precision)  # type: ignore[return-value]


def is_calibrated(network: nn.Module) -> bool:
    """Whether all clips of a network have a value; of one without any, too."""
    return all(layer.input_levels is not None for layer in quantized_layers(network).values())


@torch.no_grad()
def calibrate(network: nn.Module, run: Callable[[], object]) -> None:
    """Let every clip begin at the mean, over the images of a batch, of the largest input (PAMS begins there, too).

    PACT's levels are those of [0, α] where no input is negative. All ranks come to the same, from all their images.

    Args:
        network: The quantized one, which computes as the plain one until now.
        run: Runs it on the batch.

    Raises:
        DscsrError: No image gave finite numbers.
    """
    layers = quantized_layers(network)
    with _watched(layers) as seen:
        run()
    sums = torch.stack([seen[name] for name in layers])  # (layers, 3): of largest inputs, their count, and negatives
    if together():
        distributed.all_reduce(sums)
    for (name, layer), (total, count, negative) in zip(layers.items(), sums.tolist(), strict=True):
        if not count:
            words = f"finite inputs of {name} to find its clip on"
            raise DscsrError(words, "none in the first batch", "Look at the data and the weights.")
        layer.calibrate(max(total / count, 1e-6), layer.method == "pams" or negative > 0)


def share_clips(network: nn.Module, other: nn.Module) -> None:
    """Give the quantized layers of ``other`` the clips of ``network``."""
    state = network.state_dict()
    clips = {name: tensor for name, tensor in state.items() if name.rpartition(".")[2] in ENTRIES}
    other.load_state_dict(clips, strict=False)


def clip_decay(network: nn.Module, decay: float) -> Tensor:
    """PACT's term of the loss: ``decay`` times the sum of the squares of the clips, in parts of where they began."""
    clips = [layer.relative_clip for layer in quantized_layers(network).values()]
    return decay * torch.stack(clips).square().sum()


@contextmanager
def _watched(layers: Mapping[str, QuantizedConv]) -> Any:
    """What comes into layers while the block runs: of its finite images the sum of largest values, count, negatives."""
    seen: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[..., None]:
        def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            images = inputs[0].float().flatten(1)
            largest, lowest = images.abs().amax(1), images.amin(1)
            finite = largest.isfinite()
            of_image = torch.stack([torch.where(finite, largest, 0), finite.float(), (finite & (lowest < 0)).float()])
            seen[name] = seen.get(name, 0) + of_image.double().sum(1)

        return look

    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()

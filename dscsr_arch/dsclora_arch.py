"""DSCLoRA: a fused SPAN that learns from a teacher by ConvLoRA, and is a plain SPAN again when it is used.

Paper: Distillation-Supervised Convolutional Low-Rank Adaptation for Efficient Image Super-Resolution,
arXiv 2504.11271, winner of the NTIRE 2025 efficient super-resolution challenge.
Code of the authors: https://github.com/Yaozzz666/DSCF-SR

Different from the original:

- ConvLoRA is put into a fused SPAN from outside (`conv_lora`), so names and files are those of SPAN.
- Updates can be merged and unmerged; ``fuse()`` leaves the plain network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dscsr_arch import conv_lora, span_arch
from dscsr_arch.architecture import StateDict
from dscsr_arch.constructor import RGB_MEAN, constructor
from dscsr_arch.conv_lora import Setting
from dscsr_arch.low_rank import lora_ranks
from dscsr_arch.span_arch import KINDS, SPAB, SPAN, has_lora, is_span, span_arguments

_HEAD_RANK = 8
"""Of ``conv_2`` and ``upsampler.0`` in the authors' code; their alpha is twice that."""


class SConvLB(SPAB):
    """SPAB whose three convolutions are plain, frozen, and carry ConvLoRA once its network is built."""


class DSCLoRA(SPAN):
    """DSCLoRA, from an image (B, num_in_ch, H, W) to (B, num_out_ch, H·upscale, W·upscale), RGB in [0, 1].

    Loads files of SPAN, expanded or fused, as its base, and its own.

    Args:
        num_in_ch: Channels of the input.
        num_out_ch: Channels of the output.
        feature_channels: Width of the network.
        upscale: One of 1, 2, 3, 4, 8.
        bias: Give the layers that `SPAN` trains as Conv3XC biases.
        img_range: The input is multiplied by it, after the mean is subtracted.
        rgb_mean: Mean of each input channel, in [0, 1]; with one channel, its luma if it is one of R, G and B.
        norm: Subtract the mean and multiply by the range.
        lora_rank: Rank of the convolutions in the blocks.
        lora_alpha: Alpha of the convolutions in the blocks.
        lora_ranks: Patterns of layer names to (rank, alpha), as `inject` takes them, in place of all defaults:
            ``block_*``: (lora_rank, lora_alpha); ``conv_2`` and ``upsampler.0``: (8, 16), or the rank that a narrow
            layer allows and twice that.
        residual: Add the image to the output, as `SPAN` does.

    Raises:
        ValueError: An argument is out of range; a pattern meets no convolution; a rank is larger than a layer allows.
    """

    @constructor(**KINDS)
    def __init__(
        self,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        feature_channels: int = 26,
        upscale: int = 4,
        bias: bool = True,
        img_range: float = 255.0,
        rgb_mean: Sequence[float] = RGB_MEAN,
        norm: bool = True,
        lora_rank: int = 2,
        lora_alpha: float = 4,
        lora_ranks: Mapping[str, Setting | None] | None = None,
        residual: bool = False,
    ) -> None:
        span = num_in_ch, num_out_ch, feature_channels, upscale, bias, img_range, rgb_mean, norm, residual
        super().__init__(*span)
        for index in range(1, len(self.blocks()) + 1):
            setattr(self, f"block_{index}", SConvLB(feature_channels, bias=bias))
        self.fuse()
        if lora_ranks is None:
            limits = {"conv_2": feature_channels, "upsampler.0": min(feature_channels, num_out_ch * upscale**2)}
            head = {name: min(_HEAD_RANK, limit) for name, limit in limits.items()}
            lora_ranks = {"block_*": (lora_rank, lora_alpha), **{name: (r, 2 * r) for name, r in head.items()}}
        conv_lora.inject(self, lora_ranks)

    def merge(self) -> DSCLoRA:
        """Write the updates into the weights; undone by ``unmerge``. A second call does nothing."""
        return conv_lora.merge(self)

    def unmerge(self) -> DSCLoRA:
        """Undo ``merge``, bit by bit. A second call does nothing."""
        return conv_lora.unmerge(self)


def _arguments(state_dict: StateDict, known: Mapping[str, Any]) -> dict[str, Any]:
    return {**span_arguments(state_dict, known), "lora_ranks": lora_ranks(state_dict)}


ARCHITECTURE = replace(
    span_arch.ARCHITECTURE,
    network=DSCLoRA,
    recognise=lambda state_dict: is_span(state_dict) and has_lora(state_dict),
    arguments=_arguments,
    width_arguments=(),
    prepare=lambda network, _: network,
    base="SPAN",
    spandrel=None,
)

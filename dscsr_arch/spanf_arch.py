"""SPANF: SPAN with a copy of the image beside its features, from the NTIRE 2025 efficient super-resolution challenge.

Code of the authors: https://github.com/Amazingren/NTIRE2025_ESR, team 24. Of the 2026 challenge, PKDSR and PDS are
SPANF with a tail of 24 and 20 channels. Formulas and names were read from their released code and files.

Different from the original:

- Released files are fused; here it also trains, as SPAN does, through merged kernels, and released files are unfused.
- ``conv_2_1`` and ``conv_cat_1``, as PDS calls its tail, have SPANF's names.
- The first block never has an attention; the original gives it one if it is as wide as the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dscsr_arch.architecture import Architecture, StateDict, count_layers
from dscsr_arch.constructor import COUNT, FLAG, Kind, check_residual, constructor, one_of
from dscsr_arch.conv3xc import Conv3XC, Kernel, merge_layers
from dscsr_arch.reparameterized import Reparameterized, in_form_of
from dscsr_arch.span_arch import MERGED_ALONE, SPAB, UPSCALES
from dscsr_arch.span_plain import PlainSPAB
from dscsr_arch.spanf_plain import PlainFirstBlock, PlainSPANF

IMAGE_KINDS = {
    "num_in_ch": COUNT,
    "num_out_ch": COUNT,
    "feature_channels": COUNT,
    "upscale": one_of(*UPSCALES),
    "num_blocks": COUNT,
    "residual": FLAG,
}
"""What the arguments of SPANF and SPANV2 have to be."""


class FirstBlock(SPAB):
    """SPAB without the attention, from an image to features: its result is ``o3``."""

    def forward(self, x: Tensor, kernels: Sequence[Kernel | None] = MERGED_ALONE) -> Tensor:  # type: ignore[override]
        """Map (B, in_channels, H, W) to (B, channels, H, W)."""
        return self.convolve(x, kernels)[1]


class SPANF(Reparameterized):
    """SPANF, from an image (B, num_in_ch, H, W) to (B, num_out_ch, H·upscale, W·upscale), RGB in [0, 1].

    Formula, with ``near`` the image's pixels, each copied upscale² times by a 3x3 convolution that may learn better:
    ``conv_2(conv_cat([near, block_n, block_1]))``, pixel shuffle.

    Args:
        num_in_ch: Channels of the input.
        num_out_ch: Channels of the output.
        feature_channels: Width of the blocks.
        upscale: One of 1, 2, 3, 4, 8.
        num_blocks: How many blocks there are, the first, without attention, too.
        tail_channels: Width between ``conv_cat`` and ``conv_2``; None: that of the blocks.
        bias: Give the Conv3XC layers biases.
        residual: Add the image to the output, whatever ``conv_near`` has become; with ``upscale`` 1 only.

    Raises:
        ValueError: An argument is out of range, or there is no image of the output's size and channels to add.
    """

    released: ClassVar[tuple[tuple[str, str], ...]] = ((r"^(conv_cat|conv_2)_\d+\.", r"\1."),)

    @constructor(
        **IMAGE_KINDS,
        tail_channels=Kind("a whole number from 1, or ~", lambda value: value is None or COUNT.accepts(value)),
        bias=FLAG,
    )
    def __init__(
        self,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        feature_channels: int = 32,
        upscale: int = 4,
        num_blocks: int = 5,
        tail_channels: int | None = None,
        bias: bool = True,
        residual: bool = False,
    ) -> None:
        super().__init__()
        check_residual(residual, (num_in_ch, num_out_ch), upscale)
        self.residual = residual
        width, tail = feature_channels, feature_channels if tail_channels is None else tail_channels
        self.upscale, self.num_blocks = upscale, num_blocks
        self.conv_near = conv_near(num_in_ch, upscale)
        self.block_1 = FirstBlock(width, bias=bias, in_channels=num_in_ch)
        for index in range(2, num_blocks + 1):
            self.add_module(f"block_{index}", SPAB(width, bias=bias))
        self.conv_cat = nn.Conv2d(width * 2 + num_in_ch * upscale**2, tail, 1)
        self.conv_2 = Conv3XC(tail, num_out_ch * upscale**2, bias=bias)
        self.depth_to_space = nn.PixelShuffle(upscale)

    def forward(self, x: Tensor) -> Tensor:
        """Super-resolve ``x`` (B, num_in_ch, H, W); see the class for range and shape."""
        kernels = merge_layers(self.layers())
        first = feature = self.block_1(x, kernels[:3])
        for index in range(1, self.num_blocks):
            feature, _ = getattr(self, f"block_{index + 1}")(feature, kernels[3 * index : 3 * index + 3])
        merged = self.conv_cat(torch.cat([self.conv_near(x), feature, first], dim=1))
        out = self.depth_to_space(self.conv_2(merged, kernels[-1]))
        return x + out if self.residual else out


@torch.no_grad()
def conv_near(channels: int, upscale: int) -> nn.Conv2d:
    """A convolution of each channel alone that, shuffled, starts as enlarging by the nearest pixel."""
    conv = nn.Conv2d(channels, channels * upscale**2, 3, padding=1, groups=channels, bias=False)
    conv.weight.zero_()
    conv.weight[:, :, 1, 1] = 1
    return conv


def image_arguments(state_dict: StateDict, first: str, last: str) -> dict[str, Any]:
    """Channels, width, scale and number of blocks by the first and the last convolution and ``conv_near``.

    The first is a Conv3XC; of it either the branches or the merged kernel is there.
    """
    features, num_in_ch = merged_weight(state_dict, first).shape[:2]
    total, near = merged_weight(state_dict, last).shape[0], state_dict["conv_near.weight"].shape[0]
    upscale = max(1, round((near / max(1, num_in_ch)) ** 0.5))
    return {
        "num_in_ch": num_in_ch,
        "num_out_ch": total // upscale**2,
        "feature_channels": features,
        "upscale": upscale,
        "num_blocks": count_layers(state_dict, r"block_(\d+)\.") - 1,
    }


def merged_weight(state_dict: StateDict, layer: str) -> Tensor:
    """Weight of a convolution, of a Conv3XC that of its shortcut or merged kernel: the channels are the same."""
    names = (f"{layer}.{kind}" for kind in ("sk.weight", "eval_conv.weight", "weight"))
    return next(state_dict[name] for name in names if name in state_dict)


def _recognise(state_dict: StateDict) -> bool:
    heads = ("block_1.c1_r", "block_1.c3_r", "conv_2")
    return {"conv_near.weight", "conv_cat.weight", "conv_cat.bias"} <= state_dict.keys() and any(
        all(f"{head}.{layer}.weight" in state_dict for head in heads) for layer in ("sk", "eval_conv")
    )


def _arguments(state_dict: StateDict, _: Mapping[str, Any]) -> dict[str, Any]:
    arguments = image_arguments(state_dict, "block_1.c1_r", "conv_2")
    tail = state_dict["conv_cat.weight"].shape[0]
    bias = any(f"conv_2.{layer}.bias" in state_dict for layer in ("sk", "eval_conv"))
    return arguments | {"tail_channels": None if tail == arguments["feature_channels"] else tail, "bias": bias}


ARCHITECTURE = Architecture(
    network=SPANF,
    recognise=_recognise,
    arguments=_arguments,
    not_in_shapes=("residual",),
    width_arguments=("feature_channels",),
    part_widths={"tail_channels": "feature_channels"},
    prepare=in_form_of,
    single_file=(PlainSPAB, PlainFirstBlock, PlainSPANF),
)

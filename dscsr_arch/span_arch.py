"""SPAN: Swift Parameter-free Attention Network for efficient super-resolution.

Paper: arXiv 2311.12770, winner of the NTIRE 2024 efficient super-resolution challenge.
Code of the authors: https://github.com/hongyuanyu/SPAN

Different from the original:

- Training runs through merged kernels, all layers of one shape merged in one batched product (``conv3xc.py``).
- ``fuse()`` merges once and for good; the original merges again at every call in eval mode.
- The mean is a buffer (not saved, as the original's files have none) and moves with the network.
- ``norm=False`` skips mean and range; such files carry a ``no_norm`` marker, spandrel's convention.
- ``bias=False`` leaves the biases of the Conv3XC layers out; the original accepts the argument and ignores
  it, and so does spandrel, which cannot load such files.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dscsr_arch.architecture import Architecture, SpandrelForm, StateDict
from dscsr_arch.constructor import (
    COUNT,
    FLAG,
    IMAGE,
    IMG_RANGE,
    RGB_MEAN,
    check_residual,
    constructor,
    input_mean,
    one_of,
)
from dscsr_arch.conv3xc import Conv3XC, Kernel, merge_layers
from dscsr_arch.errors import ArgumentError, DscsrWarning
from dscsr_arch.reparameterized import Reparameterized, in_form_of
from dscsr_arch.span_plain import PlainSPAB, PlainSPAN

UPSCALES = (1, 2, 3, 4, 8)
KINDS = {**IMAGE, "feature_channels": COUNT, "upscale": one_of(*UPSCALES), "bias": FLAG, "norm": FLAG, "residual": FLAG}
"""What its arguments have to be."""

MERGED_ALONE = (None, None, None)
"""Kernels of a block whose layers merge theirs themselves."""


class SPAB(nn.Module):
    """Swift parameter-free attention block.

    Formula, with ``c1_r`` … ``c3_r`` the convolutions: ``o1 = SiLU(c1_r(x))``, ``o2 = SiLU(c2_r(o1))``,
    ``o3 = c3_r(o2)``, result ``(o3 + x) · (sigmoid(o3) − 0.5)``.
    """

    def __init__(self, channels: int, *, bias: bool = True, in_channels: int | None = None) -> None:
        super().__init__()
        self.c1_r = Conv3XC(in_channels or channels, channels, bias=bias)
        self.c2_r = Conv3XC(channels, channels, bias=bias)
        self.c3_r = Conv3XC(channels, channels, bias=bias)

    def convolve(self, x: Tensor, kernels: Sequence[Kernel | None]) -> tuple[Tensor, Tensor]:
        """The first activation ``o1`` and, without the attention, ``o3``."""
        o1 = F.silu(self.c1_r(x, kernels[0]))
        o2 = F.silu(self.c2_r(o1, kernels[1]))
        return o1, self.c3_r(o2, kernels[2])

    def forward(self, x: Tensor, kernels: Sequence[Kernel | None] = MERGED_ALONE) -> tuple[Tensor, Tensor]:
        """Map (B, channels, H, W) to the result and the first activation ``o1``, both of the same shape.

        ``kernels`` are those of its layers in their order, if they were merged with others'.
        """
        o1, o3 = self.convolve(x, kernels)
        return (o3 + x) * (torch.sigmoid(o3) - 0.5), o1


class SPAN(Reparameterized):
    """SPAN, from an image (B, num_in_ch, H, W) to (B, num_out_ch, H·upscale, W·upscale), RGB in [0, 1].

    Args:
        num_in_ch: Channels of the input.
        num_out_ch: Channels of the output.
        feature_channels: Width of the network: 48 in the paper, 26 and 28 in challenge versions.
        upscale: One of 1, 2, 3, 4, 8.
        bias: Give the Conv3XC layers biases.
        img_range: The input is multiplied by it, after the mean is subtracted.
        rgb_mean: Mean of each input channel, in [0, 1]; with one channel, its luma if it is one of R, G and B.
        norm: Subtract the mean and multiply by the range.
        residual: Add the image to the output, so that what is learned is the difference; with ``upscale`` 1 only.

    Raises:
        ValueError: An argument is out of range, ``rgb_mean`` does not have one value per input channel, or there is no
            image of the output's size and channels to add.
    """

    mean: Tensor

    @constructor(**KINDS)
    def __init__(
        self,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        feature_channels: int = 48,
        upscale: int = 4,
        bias: bool = True,
        img_range: float = 255.0,
        rgb_mean: Sequence[float] = RGB_MEAN,
        norm: bool = True,
        residual: bool = False,
    ) -> None:
        super().__init__()
        check_residual(residual, (num_in_ch, num_out_ch), upscale)
        self.upscale = upscale
        self.residual = residual
        self.img_range = img_range
        self.norm = norm
        mean = input_mean(rgb_mean, num_in_ch) if norm else torch.tensor(rgb_mean).view(1, -1, 1, 1)
        self.register_buffer("mean", mean, persistent=False)
        if not norm:
            self.register_buffer("no_norm", torch.zeros(1))

        self.conv_1 = Conv3XC(num_in_ch, feature_channels, bias=bias)
        self.block_1 = SPAB(feature_channels, bias=bias)
        self.block_2 = SPAB(feature_channels, bias=bias)
        self.block_3 = SPAB(feature_channels, bias=bias)
        self.block_4 = SPAB(feature_channels, bias=bias)
        self.block_5 = SPAB(feature_channels, bias=bias)
        self.block_6 = SPAB(feature_channels, bias=bias)
        self.conv_cat = nn.Conv2d(feature_channels * 4, feature_channels, 1)
        self.conv_2 = Conv3XC(feature_channels, feature_channels, bias=bias)
        self.upsampler = nn.Sequential(
            nn.Conv2d(feature_channels, num_out_ch * upscale**2, 3, padding=1), nn.PixelShuffle(upscale)
        )

    def blocks(self) -> list[SPAB]:
        """The attention blocks, first to last."""
        return [self.block_1, self.block_2, self.block_3, self.block_4, self.block_5, self.block_6]

    def forward(self, x: Tensor) -> Tensor:
        """Super-resolve ``x`` (B, num_in_ch, H, W); see the class for range and shape."""
        image = x
        if self.norm:
            x = (x - self.mean) * self.img_range
        kernels = merge_layers(self.layers())
        shallow = feature = self.conv_1(x, kernels[0])
        outputs: list[Tensor] = []
        for index, block in enumerate(self.blocks()):
            feature, activation = block(feature, kernels[1 + 3 * index : 4 + 3 * index])
            outputs.append(feature)
        deep = self.conv_2(feature, kernels[-1])
        out = self.upsampler(self.conv_cat(torch.cat([shallow, deep, outputs[0], activation], dim=1)))
        return image + out if self.residual else out

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Let files without spandrel's marker load into a network built with ``norm=False``, but say so."""
        if not self.norm and f"{prefix}no_norm" not in state_dict:
            warnings.warn(
                "This SPAN is built with norm=False, but its weights have no `no_norm` marker, so they were probably "
                "trained with mean and range. If the images come out wrong, build it with norm=True.",
                DscsrWarning,
                stacklevel=2,
            )
            state_dict[f"{prefix}no_norm"] = self.no_norm
        super()._load_from_state_dict(state_dict, prefix, *args)


def is_span(state_dict: StateDict) -> bool:
    """Whether these are weights of a SPAN, expanded or fused, with or without LoRA."""
    heads = ("conv_1", "block_1.c1_r", "block_6.c3_r", "conv_2")
    return {"conv_cat.weight", "upsampler.0.weight"} <= state_dict.keys() and any(
        all(f"{head}.{layer}.weight" in state_dict for head in heads) for layer in ("sk", "eval_conv")
    )


def has_lora(state_dict: StateDict) -> bool:
    """Whether there is ConvLoRA among these weights."""
    return any(name.endswith(".lora_A") for name in state_dict)


def span_arguments(state_dict: StateDict, known: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of SPAN from shapes; ``known`` may hold ``upscale`` and ``num_out_ch``."""
    head = "conv_1.sk" if "conv_1.sk.weight" in state_dict else "conv_1.eval_conv"
    channels, num_in_ch = state_dict[f"{head}.weight"].shape[:2]
    upscale, num_out_ch = _output(state_dict["upsampler.0.weight"].shape[0], num_in_ch, known)
    return {
        "num_in_ch": num_in_ch,
        "num_out_ch": num_out_ch,
        "feature_channels": channels,
        "upscale": upscale,
        "bias": f"{head}.bias" in state_dict,
        "norm": "no_norm" not in state_dict,
    }


def _output(total: int, num_in_ch: int, known: Mapping[str, Any]) -> tuple[int, int]:
    """Scale r and output channels c from the ``total`` = c·r² channels before a pixel shuffle.

    As many channels go out as come in, unless that leaves no scale, or it is ``known`` otherwise.
    """
    for name in ("upscale", "num_out_ch"):
        if name in known and not COUNT.accepts(known[name]):
            raise ArgumentError(f"`{name}` to be {COUNT.words}", repr(known[name]))
    scales = [known["upscale"]] if "upscale" in known else list(UPSCALES)
    if "num_out_ch" in known:
        channels = [known["num_out_ch"]]
    elif "upscale" in known:
        channels = [max(1, total // known["upscale"] ** 2)]
    else:
        channels = [num_in_ch, 3, 1]
    for num_out_ch in channels:
        for upscale in scales:
            if num_out_ch * upscale**2 == total:
                return upscale, num_out_ch
    raise ArgumentError(
        f"num_out_ch·upscale² channels before the pixel shuffle, with num_out_ch among {channels} and upscale among "
        f"{scales}",
        total,
        "Give the right `num_out_ch` and `upscale`.",
    )


@torch.no_grad()
def _work_in(network: Any) -> None:
    """Into the weights that meet the input, not the biases. The output is not divided by the range."""
    if network.norm:
        for weight in (network.conv_1.conv[0].weight, network.conv_1.sk.weight):
            weight.mul_(network.img_range / IMG_RANGE)
        network.img_range = network.arguments["img_range"] = IMG_RANGE


ARCHITECTURE = Architecture(
    network=SPAN,
    recognise=lambda state_dict: is_span(state_dict) and not has_lora(state_dict),
    arguments=span_arguments,
    ambiguous=("num_out_ch", "upscale"),
    not_in_shapes=("img_range", "rgb_mean", "norm", "residual"),
    width_arguments=("feature_channels",),
    prepare=in_form_of,
    single_file=(PlainSPAB, PlainSPAN),
    spandrel=SpandrelForm(
        required={"rgb_mean": RGB_MEAN, "bias": True, "residual": False}, work_in=_work_in, known=True
    ),
)

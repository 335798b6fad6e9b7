"""EDSR: enhanced deep residual network.

From "Enhanced Deep Residual Networks for Single Image Super-Resolution" (arXiv 1707.02921,
https://github.com/thstkdgus35/EDSR-PyTorch). Arguments, names of layers, random starts and results are those of
BasicSR's EDSR (https://github.com/XPixelGroup/BasicSR), and it trains as that one under BasicSR.

Different from BasicSR's:

- The mean is a buffer (not saved) and moves with the network; images may have one channel.
- ``num_in_ch`` and ``num_out_ch`` have defaults.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dscsr_arch import conv_lora
from dscsr_arch.architecture import (
    Architecture,
    CSDNames,
    SpandrelForm,
    StateDict,
    count_layers,
    has_all,
    image_arguments,
    work_range_in,
)
from dscsr_arch.constructor import COUNT, IMAGE, NUMBER, RGB_MEAN, constructor, input_mean, one_of

UPSCALES = (1, 2, 3, 4, 8, 16)

_DEEP = 32
"""EDSR of as many blocks or more is published with res_scale 0.1, smaller ones with 1."""


class ResidualBlock(nn.Module):
    """``x + res_scale * conv2(ReLU(conv1(x)))``, (B, channels, H, W) to the same shape."""

    def __init__(self, channels: int, res_scale: float) -> None:
        super().__init__()
        self.res_scale = res_scale
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x``; see the class."""
        return x + self.conv2(self.relu(self.conv1(x))) * self.res_scale


def upsampler(channels: int, upscale: int) -> nn.Sequential:
    """Convolution and pixel shuffle: one of 3 for x3, else as many of 2 as it takes."""
    layers = []
    for step in [3] if upscale == 3 else [2] * (upscale.bit_length() - 1):
        layers += [nn.Conv2d(channels, channels * step**2, 3, padding=1), nn.PixelShuffle(step)]
    return nn.Sequential(*layers)


class ResidualNetwork(nn.Module):
    """What EDSR and RCAN share: a convolution, a residual body, an upsampler, a convolution.

    Arguments are those of `EDSR`. ``blocks`` of the body are made when it is their turn: so a seed gives the weights
    that it gives in BasicSR.
    """

    size_multiple = 1  # images of any size; see `size_requirements`
    mean: Tensor

    def __init__(
        self,
        num_in_ch: int,
        num_out_ch: int,
        num_feat: int,
        upscale: int,
        blocks: Iterable[nn.Module],
        img_range: float,
        rgb_mean: Sequence[float],
    ) -> None:
        super().__init__()
        self.upscale = upscale
        self.img_range = img_range
        self.register_buffer("mean", input_mean(rgb_mean, num_in_ch), persistent=False)
        self.conv_first = nn.Conv2d(num_in_ch, num_feat, 3, padding=1)
        self.body = nn.Sequential(*blocks)
        self.conv_after_body = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.upsample = upsampler(num_feat, upscale)
        self.conv_last = nn.Conv2d(num_feat, num_out_ch, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Super-resolve ``x`` (B, num_in_ch, H, W); see the class for range and shape."""
        shallow = self.conv_first((x - self.mean) * self.img_range)
        deep = self.conv_after_body(self.body(shallow)) + shallow
        return self.conv_last(self.upsample(deep)) / self.img_range + self.mean

    def fuse(self) -> ResidualNetwork:
        """Leave plain convolutions only, in place: there is nothing but ConvLoRA to fuse. Can be repeated."""
        return conv_lora.fuse(self)


class EDSR(ResidualNetwork):
    """EDSR, from an image (B, num_in_ch, H, W) to (B, num_out_ch, H·upscale, W·upscale), RGB in [0, 1].

    Args:
        num_in_ch: Channels of the input.
        num_out_ch: Channels of the output.
        num_feat: Width of the network.
        num_block: Residual blocks.
        upscale: 3, or a power of 2 up to 16.
        res_scale: What a block computes is multiplied by it before it is added.
        img_range: The input is multiplied by it, after the mean is subtracted; the output is divided by it.
        rgb_mean: Mean of each input channel, in [0, 1]; with one channel, its luma if it is one of R, G and B.

    Raises:
        ValueError: An argument is out of range.
    """

    @constructor(**IMAGE, num_feat=COUNT, num_block=COUNT, upscale=one_of(*UPSCALES), res_scale=NUMBER)
    def __init__(
        self,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        num_feat: int = 64,
        num_block: int = 16,
        upscale: int = 4,
        res_scale: float = 1,
        img_range: float = 255.0,
        rgb_mean: Sequence[float] = RGB_MEAN,
    ) -> None:
        blocks = (ResidualBlock(num_feat, res_scale) for _ in range(num_block))
        super().__init__(num_in_ch, num_out_ch, num_feat, upscale, blocks, img_range, rgb_mean)


def common_arguments(state_dict: StateDict) -> dict[str, Any]:
    """Those of EDSR and RCAN from their shapes."""
    return image_arguments(state_dict, "conv_first", "conv_last", r"upsample\.\d+\.weight")


def _arguments(state_dict: StateDict, _: Mapping[str, Any]) -> dict[str, Any]:
    blocks = count_layers(state_dict, r"body\.(\d+)\.")
    return common_arguments(state_dict) | {"num_block": blocks, "res_scale": 0.1 if blocks >= _DEEP else 1}


@torch.no_grad()
def _work_in(network: Any) -> None:
    for block in network.body:
        for tensor in block.conv2.parameters():
            tensor.mul_(block.res_scale)
        block.res_scale = 1.0
    network.arguments["res_scale"] = 1.0
    work_range_in(network, network.conv_first, network.conv_last)


ARCHITECTURE = Architecture(
    network=EDSR,
    recognise=has_all("conv_first.weight", "body.0.conv1.weight", "conv_after_body.weight", "conv_last.weight"),
    arguments=_arguments,
    not_in_shapes=("img_range", "rgb_mean", "res_scale"),
    width_arguments=("num_feat",),
    in_basicsr=True,
    csd=CSDNames(
        some=frozenset(
            {"head.weight", "body.0.conv1.weight", "tail_conv.weight", "tail_conv.bias", "body_conv.weight"}
        ),
        ends=("conv_first", "conv_last"),
        renamed=(
            (r"head\.", "conv_first."),
            (r"body_conv\.", "conv_after_body."),
            (r"tail_conv\.", "conv_last."),
        ),
    ),
    single_file=(input_mean, ResidualBlock, upsampler, ResidualNetwork, EDSR),
    spandrel=SpandrelForm(required={"rgb_mean": RGB_MEAN}, work_in=_work_in),
)

"""RCAN: residual channel attention network.

From "Image Super-Resolution Using Very Deep Residual Channel Attention Networks" (arXiv 1807.02758,
https://github.com/yulunzhang/RCAN). Arguments, names of layers, random starts and results are those of BasicSR's RCAN
(https://github.com/XPixelGroup/BasicSR); what is different is what is different in `edsr_arch`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from dscsr_arch.architecture import Architecture, CSDNames, StateDict, count_layers, has_all
from dscsr_arch.constructor import COUNT, IMAGE, NUMBER, RGB_MEAN, constructor, input_mean, one_of
from dscsr_arch.edsr_arch import UPSCALES, ResidualNetwork, common_arguments, upsampler


class ChannelAttention(nn.Module):
    """``x`` (B, channels, H, W), each channel times a factor in (0, 1) that the means of all channels decide."""

    def __init__(self, channels: int, squeeze_factor: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels // squeeze_factor, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // squeeze_factor, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x``; see the class."""
        return x * self.attention(x)


class RCAB(nn.Module):
    """Residual channel attention block, (B, channels, H, W) to the same shape."""

    def __init__(self, channels: int, squeeze_factor: int, res_scale: float) -> None:
        super().__init__()
        self.res_scale = res_scale
        self.rcab = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
            ChannelAttention(channels, squeeze_factor),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x``; see the class."""
        return self.rcab(x) * self.res_scale + x


class ResidualGroup(nn.Module):
    """``num_block`` of these blocks and a convolution, added to their input, (B, channels, H, W) to the same shape."""

    def __init__(self, channels: int, num_block: int, squeeze_factor: int, res_scale: float) -> None:
        super().__init__()
        self.residual_group = nn.Sequential(*[RCAB(channels, squeeze_factor, res_scale) for _ in range(num_block)])
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x``; see the class."""
        return self.conv(self.residual_group(x)) + x


class RCAN(ResidualNetwork):
    """RCAN, from an image (B, num_in_ch, H, W) to (B, num_out_ch, H·upscale, W·upscale), RGB in [0, 1].

    Args:
        num_in_ch: Channels of the input.
        num_out_ch: Channels of the output.
        num_feat: Width of the network.
        num_group: Residual groups.
        num_block: Blocks in each.
        squeeze_factor: Attention runs through this part of the channels.
        upscale: 3, or a power of 2 up to 16.
        res_scale: What a block computes is multiplied by it before it is added.
        img_range: The input is multiplied by it, after the mean is subtracted; the output is divided by it.
        rgb_mean: Mean of each input channel, in [0, 1]; with one channel, its luma if it is one of R, G and B.

    Raises:
        ValueError: An argument is out of range.
    """

    @constructor(
        **IMAGE,
        num_feat=COUNT,
        num_group=COUNT,
        num_block=COUNT,
        squeeze_factor=COUNT,
        upscale=one_of(*UPSCALES),
        res_scale=NUMBER,
    )
    def __init__(
        self,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        num_feat: int = 64,
        num_group: int = 10,
        num_block: int = 16,
        squeeze_factor: int = 16,
        upscale: int = 4,
        res_scale: float = 1,
        img_range: float = 255.0,
        rgb_mean: Sequence[float] = RGB_MEAN,
    ) -> None:
        groups = (ResidualGroup(num_feat, num_block, squeeze_factor, res_scale) for _ in range(num_group))
        super().__init__(num_in_ch, num_out_ch, num_feat, upscale, groups, img_range, rgb_mean)


_ATTENTION = "body.0.residual_group.0.rcab.3.attention"


def _arguments(state_dict: StateDict, _: Mapping[str, Any]) -> dict[str, Any]:
    squeezed, features = state_dict[f"{_ATTENTION}.1.weight"].shape[:2]
    return common_arguments(state_dict) | {
        "num_group": count_layers(state_dict, r"body\.(\d+)\."),
        "num_block": count_layers(state_dict, r"body\.0\.residual_group\.(\d+)\."),
        "squeeze_factor": features // squeezed,
    }


_BLOCK = r"body\.(\d+)\.body\.(\d+)\."
_RENAMED_BLOCK = r"body.\1.residual_group.\2.rcab."

ARCHITECTURE = Architecture(
    network=RCAN,
    recognise=has_all("conv_first.weight", f"{_ATTENTION}.1.weight", f"{_ATTENTION}.3.weight", "conv_last.weight"),
    arguments=_arguments,
    not_in_shapes=("img_range", "rgb_mean", "res_scale"),
    width_arguments=("num_feat",),
    in_basicsr=True,
    csd=CSDNames(
        some=frozenset({"head_conv.weight", "body.0.body.0.body.0.weight", "tail_conv.weight", "body_conv.weight"}),
        ends=("conv_first", "conv_last"),
        renamed=(
            (r"head_conv\.", "conv_first."),
            (r"body_conv\.", "conv_after_body."),
            (r"tail_conv\.", "conv_last."),
            (rf"{_BLOCK}body\.0\.", f"{_RENAMED_BLOCK}0."),
            (rf"{_BLOCK}body\.1\.", f"{_RENAMED_BLOCK}2."),
            (rf"{_BLOCK}caLayer\.conv_du\.0\.", f"{_RENAMED_BLOCK}3.attention.1."),
            (rf"{_BLOCK}caLayer\.conv_du\.1\.", f"{_RENAMED_BLOCK}3.attention.3."),
        ),
    ),
    single_file=(input_mean, ChannelAttention, RCAB, ResidualGroup, upsampler, ResidualNetwork, RCAN),
)

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

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dscsr_arch import conv_lora
from dscsr_arch.conv3xc import Conv3XC, Kernel, merge_layers
from dscsr_arch.errors import DscsrWarning
from dscsr_arch.input_mean import input_mean

if TYPE_CHECKING:
    from typing_extensions import Self

UPSCALES = (1, 2, 3, 4, 8)


class SPAB(nn.Module):
    """Swift parameter-free attention block.

    Formula, with ``c1_r`` … ``c3_r`` the convolutions: ``o1 = SiLU(c1_r(x))``, ``o2 = SiLU(c2_r(o1))``,
    ``o3 = c3_r(o2)``, result ``(o3 + x) · (sigmoid(o3) − 0.5)``.

    Args:
        channels: Channels in and out.
        bias: Give the convolutions biases.
    """

    def __init__(self, channels: int, *, bias: bool = True) -> None:
        super().__init__()
        self.c1_r = Conv3XC(channels, channels, bias=bias)
        self.c2_r = Conv3XC(channels, channels, bias=bias)
        self.c3_r = Conv3XC(channels, channels, bias=bias)

    def layers(self) -> list[Conv3XC]:
        """The re-parameterisable layers, in the order in which ``forward`` takes their kernels."""
        return [self.c1_r, self.c2_r, self.c3_r]

    def forward(self, x: Tensor, kernels: Sequence[Kernel | None] = (None, None, None)) -> tuple[Tensor, Tensor]:
        """Map (B, channels, H, W) to the result and the first activation ``o1``, both of the same shape."""
        o1 = F.silu(self.c1_r(x, kernels[0]))
        o2 = F.silu(self.c2_r(o1, kernels[1]))
        o3 = self.c3_r(o2, kernels[2])
        return (o3 + x) * (torch.sigmoid(o3) - 0.5), o1


class SPAN(nn.Module):
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

    Raises:
        ValueError: An argument is out of range, or ``rgb_mean`` does not have one value per input channel.
    """

    size_multiple = 1  # images of any size; see `size_requirements`
    mean: Tensor

    def __init__(
        self,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        feature_channels: int = 48,
        upscale: int = 4,
        bias: bool = True,
        img_range: float = 255.0,
        rgb_mean: Sequence[float] = (0.4488, 0.4371, 0.4040),
        norm: bool = True,
    ) -> None:
        super().__init__()
        check_arguments(num_in_ch, num_out_ch, feature_channels, upscale, bias, img_range, rgb_mean, norm)
        self.upscale = upscale
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

    def layers(self) -> list[Conv3XC]:
        """The re-parameterisable layers, in the order in which ``forward`` meets them."""
        return [self.conv_1, *(layer for block in self.blocks() for layer in block.layers()), self.conv_2]

    def forward(self, x: Tensor) -> Tensor:
        """Super-resolve ``x`` (B, num_in_ch, H, W); see the class for range and shape."""
        if self.norm:
            x = (x - self.mean) * self.img_range
        kernels = merge_layers(self.layers())
        shallow = feature = self.conv_1(x, kernels[0])
        outputs: list[Tensor] = []
        for index, block in enumerate(self.blocks()):
            feature, activation = block(feature, kernels[1 + 3 * index : 4 + 3 * index])
            outputs.append(feature)
        deep = self.conv_2(feature, kernels[-1])
        return self.upsampler(self.conv_cat(torch.cat([shallow, deep, outputs[0], activation], dim=1)))

    def fuse(self) -> Self:
        """Leave plain convolutions only, in place. Cannot be undone; a second call does nothing."""
        for layer in self.layers():
            layer.fuse()
        return conv_lora.fuse(self)

    def unfuse(self) -> Self:
        """Give fused layers new random branches, so that training can go on; the output stays the same.

        Raises:
            LoRAError: There is ConvLoRA in the network.
        """
        if conv_lora.lora_layers(self):
            raise conv_lora.LoRAError("Expected a network without ConvLoRA to unfuse. Call fuse() first.")
        for layer in self.layers():
            layer.unfuse()
        return self

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


def check_arguments(
    num_in_ch: int,
    num_out_ch: int,
    feature_channels: int,
    upscale: int,
    bias: bool,
    img_range: float,
    rgb_mean: Sequence[float],
    norm: bool,
) -> None:
    """Raise ValueError for arguments that no SPAN can be built from; option files can hold anything."""
    positive = {"num_in_ch": num_in_ch, "num_out_ch": num_out_ch, "feature_channels": feature_channels}
    for name, value in positive.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"Expected `{name}` to be a positive integer, but got {value!r}.")
    if isinstance(upscale, bool) or not isinstance(upscale, int) or upscale not in UPSCALES:
        raise ValueError(f"Expected `upscale` to be one of {UPSCALES}, but got {upscale!r}.")
    for name, value in {"bias": bias, "norm": norm}.items():
        if not isinstance(value, bool):
            raise ValueError(f"Expected `{name}` to be true or false, but got {value!r}.")
    if not _is_number(img_range) or img_range <= 0:
        raise ValueError(f"Expected `img_range` to be a positive number, such as 255 or 1, but got {img_range!r}.")
    if isinstance(rgb_mean, str) or not isinstance(rgb_mean, Sequence) or not all(map(_is_number, rgb_mean)):
        raise ValueError(f"Expected `rgb_mean` to be a list of numbers, but got {rgb_mean!r}.")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

"""SPAN (arXiv 2311.12770) with its training branches merged, and convolutions that follow each other folded into one.

``conv_2`` and the part of ``conv_cat`` that reads it are one 3x3 convolution, ``conv_deep``. With ``fold_conv_1`` the
first convolution of ``block_1`` reads the image itself, through the 5x5 kernel that it and ``conv_1`` amount to;
``conv_1`` stays, since the block adds its output and ``conv_cat`` reads it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SPAB(nn.Module):
    """Swift parameter-free attention block of ``x`` (B, channels, H, W); its first convolution reads ``source``."""

    def __init__(self, channels: int, source_channels: int, source_kernel: int, bias: bool = True) -> None:
        super().__init__()
        self.c1_r = nn.Conv2d(source_channels, channels, source_kernel, padding=source_kernel // 2, bias=bias)
        self.c2_r = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)
        self.c3_r = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)

    def forward(self, x: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        """Give the result and the first activation."""
        o1 = F.silu(self.c1_r(source))
        o2 = F.silu(self.c2_r(o1))
        o3 = self.c3_r(o2)
        return (o3 + x) * (torch.sigmoid(o3) - 0.5), o1


class SPAN(nn.Module):
    """From an image (B, num_in_ch, H, W), RGB in [0, 1], to (B, num_out_ch, H*upscale, W*upscale)."""

    mean: Tensor

    def __init__(
        self,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        feature_channels: int = 48,
        upscale: int = 4,
        bias: bool = True,
        norm: bool = True,
        img_range: float = 255.0,
        rgb_mean: tuple[float, ...] = (0.4488, 0.4371, 0.4040),
        fold_conv_1: bool = True,
    ) -> None:
        super().__init__()
        self.norm = norm
        self.img_range = img_range
        self.fold_conv_1 = fold_conv_1
        self.register_buffer("mean", torch.tensor(rgb_mean).view(1, -1, 1, 1), persistent=False)
        self.conv_1 = nn.Conv2d(num_in_ch, feature_channels, 3, padding=1, bias=bias)
        source = (num_in_ch, 5) if fold_conv_1 else (feature_channels, 3)
        self.block_1 = SPAB(feature_channels, *source, bias=bias)
        self.block_2 = SPAB(feature_channels, feature_channels, 3, bias)
        self.block_3 = SPAB(feature_channels, feature_channels, 3, bias)
        self.block_4 = SPAB(feature_channels, feature_channels, 3, bias)
        self.block_5 = SPAB(feature_channels, feature_channels, 3, bias)
        self.block_6 = SPAB(feature_channels, feature_channels, 3, bias)
        self.conv_deep = nn.Conv2d(feature_channels, feature_channels, 3, padding=1, bias=False)
        self.conv_cat = nn.Conv2d(feature_channels * 3, feature_channels, 1)
        self.upsampler = nn.Sequential(
            nn.Conv2d(feature_channels, num_out_ch * upscale**2, 3, padding=1), nn.PixelShuffle(upscale)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Super-resolve."""
        if self.norm:
            x = (x - self.mean) * self.img_range
        shallow = self.conv_1(x)
        first, _ = self.block_1(shallow, x if self.fold_conv_1 else shallow)
        feature, _ = self.block_2(first, first)
        feature, _ = self.block_3(feature, feature)
        feature, _ = self.block_4(feature, feature)
        feature, _ = self.block_5(feature, feature)
        feature, activation = self.block_6(feature, feature)
        merged = self.conv_cat(torch.cat([shallow, first, activation], dim=1))
        return self.upsampler(merged + self.conv_deep(feature))

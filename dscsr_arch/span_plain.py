"""SPAN (arXiv 2311.12770) with its training branches merged: plain convolutions, and nothing but PyTorch.

A single file of SPAN is made of this source. With ``fold``, convolutions that follow each other with nothing between
them are one: ``exact`` makes ``conv_2`` and the part of ``conv_cat`` that reads it one 3x3 convolution, ``conv_deep``;
``all`` also lets the first convolution of ``block_1`` read the image itself, through the 5x5 kernel that it and
``conv_1`` amount to. ``conv_1`` stays, since the block adds its output and ``conv_cat`` reads it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PlainSPAB(nn.Module):
    """Swift parameter-free attention block of ``x`` (B, channels, H, W); its first convolution reads ``source``."""

    def __init__(self, channels: int, source_channels: int, source_kernel: int = 3, bias: bool = True) -> None:
        super().__init__()
        self.c1_r = nn.Conv2d(source_channels, channels, source_kernel, padding=source_kernel // 2, bias=bias)
        self.c2_r = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)
        self.c3_r = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)

    def forward(self, x: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        """Give the result and the first activation."""
        o1 = F.silu(self.c1_r(source))
        o3 = self.c3_r(F.silu(self.c2_r(o1)))
        return (o3 + x) * (torch.sigmoid(o3) - 0.5), o1


class PlainSPAN(nn.Module):
    """From an image (B, num_in_ch, H, W), RGB in [0, 1], to (B, num_out_ch, H*upscale, W*upscale)."""

    mean: Tensor

    def __init__(
        self,
        num_in_ch: int,
        num_out_ch: int,
        feature_channels: int,
        upscale: int,
        bias: bool,
        img_range: float,
        rgb_mean: Sequence[float],
        norm: bool,
        fold: str = "",
    ) -> None:
        super().__init__()
        width, self.fold = feature_channels, fold
        self.norm, self.img_range = norm, img_range
        self.register_buffer("mean", torch.tensor(rgb_mean).view(1, -1, 1, 1), persistent=False)
        self.conv_1 = nn.Conv2d(num_in_ch, width, 3, padding=1, bias=bias)
        self.block_1 = PlainSPAB(width, num_in_ch, 5, bias) if fold == "all" else PlainSPAB(width, width, 3, bias)
        self.block_2 = PlainSPAB(width, width, 3, bias)
        self.block_3 = PlainSPAB(width, width, 3, bias)
        self.block_4 = PlainSPAB(width, width, 3, bias)
        self.block_5 = PlainSPAB(width, width, 3, bias)
        self.block_6 = PlainSPAB(width, width, 3, bias)
        if fold:
            self.conv_deep = nn.Conv2d(width, width, 3, padding=1, bias=False)
        else:
            self.conv_2 = nn.Conv2d(width, width, 3, padding=1, bias=bias)
        self.conv_cat = nn.Conv2d(width * (3 if fold else 4), width, 1)
        self.upsampler = nn.Sequential(
            nn.Conv2d(width, num_out_ch * upscale**2, 3, padding=1), nn.PixelShuffle(upscale)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Super-resolve."""
        if self.norm:
            x = (x - self.mean) * self.img_range
        shallow = self.conv_1(x)
        first, _ = self.block_1(shallow, x if self.fold == "all" else shallow)
        feature, _ = self.block_2(first, first)
        feature, _ = self.block_3(feature, feature)
        feature, _ = self.block_4(feature, feature)
        feature, _ = self.block_5(feature, feature)
        feature, activation = self.block_6(feature, feature)
        if self.fold:
            merged = self.conv_cat(torch.cat([shallow, first, activation], dim=1)) + self.conv_deep(feature)
        else:
            merged = self.conv_cat(torch.cat([shallow, self.conv_2(feature), first, activation], dim=1))
        return self.upsampler(merged)

"""SPANF (NTIRE 2025, team 24) with its training branches merged: plain convolutions, and nothing but PyTorch.

A single file of SPANF is made of this source. With ``fold``, ``conv_near`` and the part of ``conv_cat`` that reads it
are one 3x3 convolution of the image, and that is one with the first convolution of ``block_1``: ``conv_in`` gives the
channels of both.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dscsr_arch.span_plain import PlainSPAB


class PlainFirstBlock(nn.Module):
    """Block without attention, from ``x`` (B, source_channels, H, W), or with ``fold`` from what ``conv_in`` gives."""

    def __init__(self, channels: int, source_channels: int, bias: bool, fold: str) -> None:
        super().__init__()
        self.fold = fold
        if not fold:
            self.c1_r = nn.Conv2d(source_channels, channels, 3, padding=1, bias=bias)
        self.c2_r = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)
        self.c3_r = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map to (B, channels, H, W)."""
        o1 = F.silu(x if self.fold else self.c1_r(x))
        return self.c3_r(F.silu(self.c2_r(o1)))


class PlainSPANF(nn.Module):
    """From an image (B, num_in_ch, H, W), RGB in [0, 1], to (B, num_out_ch, H*upscale, W*upscale)."""

    def __init__(
        self,
        num_in_ch: int,
        num_out_ch: int,
        feature_channels: int,
        upscale: int,
        num_blocks: int,
        tail_channels: int | None,
        bias: bool,
        fold: str = "",
    ) -> None:
        super().__init__()
        width, tail, near = feature_channels, tail_channels or feature_channels, num_in_ch * upscale**2
        self.num_blocks, self.fold, self.parts = num_blocks, fold, (width, tail)
        if fold:
            self.conv_in = nn.Conv2d(num_in_ch, width + tail, 3, padding=1)
        else:
            self.conv_near = nn.Conv2d(num_in_ch, near, 3, padding=1, groups=num_in_ch, bias=False)
        self.block_1 = PlainFirstBlock(width, num_in_ch, bias, fold)
        for index in range(2, num_blocks + 1):
            self.add_module(f"block_{index}", PlainSPAB(width, width, 3, bias))
        self.conv_cat = nn.Conv2d(width * 2 + (0 if fold else near), tail, 1, bias=not fold)
        self.conv_2 = nn.Conv2d(tail, num_out_ch * upscale**2, 3, padding=1, bias=bias)
        self.depth_to_space = nn.PixelShuffle(upscale)

    def forward(self, x: Tensor) -> Tensor:
        """Super-resolve."""
        source, near = self.conv_in(x).split(self.parts, dim=1) if self.fold else (x, self.conv_near(x))
        first = feature = self.block_1(source)
        for index in range(2, self.num_blocks + 1):
            feature, _ = getattr(self, f"block_{index}")(feature, feature)
        if self.fold:
            merged = self.conv_cat(torch.cat([feature, first], dim=1)) + near
        else:
            merged = self.conv_cat(torch.cat([near, feature, first], dim=1))
        return self.depth_to_space(self.conv_2(merged))

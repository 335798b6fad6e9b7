"""SPANV2 (NTIRE 2026, team 22) with its training branches merged: plain convolutions, and nothing but PyTorch.

A single file of SPANV2 is made of this source.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PlainSPABV2(nn.Module):
    """Block with a learned guidance, of ``x`` (B, channels, H, W); without one if it is the ``first``, of an image."""

    def __init__(self, channels: int, source_channels: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.c1 = nn.Conv2d(source_channels, channels, 3, padding=1, bias=False)
        self.c2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.c3 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        if not first:
            self.guidance_map_conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map to (B, channels, H, W)."""
        f3 = self.c3(F.relu(self.c2(F.relu(self.c1(x)))))
        return F.relu(f3) if self.first else (x + f3) * self.guidance_map_conv(f3)


class PlainSPANV2(nn.Module):
    """From an image (B, num_in_ch, H, W), RGB in [0, 1], to (B, num_out_ch, H*upscale, W*upscale)."""

    def __init__(self, num_in_ch: int, num_out_ch: int, feature_channels: int, upscale: int, num_blocks: int) -> None:
        super().__init__()
        width, near = feature_channels, num_in_ch * upscale**2
        self.num_blocks = num_blocks
        self.block_1 = PlainSPABV2(width, num_in_ch, True)
        for index in range(2, num_blocks + 1):
            self.add_module(f"block_{index}", PlainSPABV2(width, width, False))
        self.conv_near = nn.Conv2d(num_in_ch, near, 3, padding=1, groups=num_in_ch, bias=False)
        self.depthwise_conv = nn.Conv2d(near + width, near + width, 3, padding=1, groups=near + width, bias=False)
        self.pointwise_conv = nn.Conv2d(near + width, num_out_ch * upscale**2, 1, bias=False)
        self.depth_to_space = nn.PixelShuffle(upscale)

    def forward(self, x: Tensor) -> Tensor:
        """Super-resolve."""
        feature = x
        for index in range(1, self.num_blocks + 1):
            feature = getattr(self, f"block_{index}")(feature)
        joined = torch.cat([self.conv_near(x), feature], dim=1)
        return self.depth_to_space(self.pointwise_conv(self.depthwise_conv(joined)))

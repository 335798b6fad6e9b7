"""SPAN (arXiv 2311.12770) with its training branches merged: every Conv3XC is one plain 3x3 convolution."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SPAB(nn.Module):
    """Swift parameter-free attention block, (B, channels, H, W) to the same shape."""

    def __init__(self, channels: int, bias: bool = True) -> None:
        super().__init__()
        self.c1_r = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)
        self.c2_r = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)
        self.c3_r = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Give the result and the first activation."""
        o1 = F.silu(self.c1_r(x))
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
    ) -> None:
        super().__init__()
        self.norm = norm
        self.img_range = img_range
        self.register_buffer("mean", torch.tensor(rgb_mean).view(1, -1, 1, 1), persistent=False)
        self.conv_1 = nn.Conv2d(num_in_ch, feature_channels, 3, padding=1, bias=bias)
        self.block_1 = SPAB(feature_channels, bias)
        self.block_2 = SPAB(feature_channels, bias)
        self.block_3 = SPAB(feature_channels, bias)
        self.block_4 = SPAB(feature_channels, bias)
        self.block_5 = SPAB(feature_channels, bias)
        self.block_6 = SPAB(feature_channels, bias)
        self.conv_2 = nn.Conv2d(feature_channels, feature_channels, 3, padding=1, bias=bias)
        self.conv_cat = nn.Conv2d(feature_channels * 4, feature_channels, 1)
        self.upsampler = nn.Sequential(
            nn.Conv2d(feature_channels, num_out_ch * upscale**2, 3, padding=1), nn.PixelShuffle(upscale)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Super-resolve."""
        if self.norm:
            x = (x - self.mean) * self.img_range
        shallow = self.conv_1(x)
        first, _ = self.block_1(shallow)
        feature, _ = self.block_2(first)
        feature, _ = self.block_3(feature)
        feature, _ = self.block_4(feature)
        feature, _ = self.block_5(feature)
        feature, activation = self.block_6(feature)
        deep = self.conv_2(feature)
        return self.upsampler(self.conv_cat(torch.cat([shallow, deep, first, activation], dim=1)))

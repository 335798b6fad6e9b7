"""The plain way, written out for tests and benchmarks: SPAN with all four convolutions of every layer run one by one.

Straight from the formulas of arXiv 2311.12770; shares nothing with the package but the names of the weights.
"""

import torch
from torch import nn
from torch.nn import functional as F


class PlainConv3XC(nn.Module):
    def __init__(self, c_in, c_out):
        super().__init__()
        self.sk = nn.Conv2d(c_in, c_out, 1)
        self.conv = nn.Sequential(
            nn.Conv2d(c_in, 2 * c_in, 1), nn.Conv2d(2 * c_in, 2 * c_out, 3), nn.Conv2d(2 * c_out, c_out, 1)
        )

    def forward(self, x):
        return self.conv(F.pad(x, (1, 1, 1, 1))) + self.sk(x)


class PlainSPAB(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.c1_r = PlainConv3XC(channels, channels)
        self.c2_r = PlainConv3XC(channels, channels)
        self.c3_r = PlainConv3XC(channels, channels)

    def forward(self, x):
        o1 = F.silu(self.c1_r(x))
        o3 = self.c3_r(F.silu(self.c2_r(o1)))
        return (o3 + x) * (torch.sigmoid(o3) - 0.5), o1


class PlainSPAN(nn.Module):
    def __init__(self, feature_channels=48, upscale=4):
        super().__init__()
        c = feature_channels
        self.conv_1 = PlainConv3XC(3, c)
        for index in range(1, 7):
            self.add_module(f"block_{index}", PlainSPAB(c))
        self.conv_cat = nn.Conv2d(4 * c, c, 1)
        self.conv_2 = PlainConv3XC(c, c)
        self.upsampler = nn.Sequential(nn.Conv2d(c, 3 * upscale**2, 3, padding=1), nn.PixelShuffle(upscale))
        self.register_buffer("mean", torch.tensor((0.4488, 0.4371, 0.4040)).view(1, 3, 1, 1), persistent=False)

    def forward(self, x):
        f0 = self.conv_1((x - self.mean) * 255.0)
        f1, _ = self.block_1(f0)
        f = f1
        for index in range(2, 7):
            f, first = self.get_submodule(f"block_{index}")(f)
        return self.upsampler(self.conv_cat(torch.cat([f0, self.conv_2(f), f1, first], 1)))

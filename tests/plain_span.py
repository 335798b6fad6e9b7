"""The plain way, written out for tests and benchmarks: all four convolutions of every layer run one by one.

SPAN from the formulas of arXiv 2311.12770, SPANF and SPANV2 from those in the heads of their files; nothing is shared
with the package but the names of the weights.
"""

import torch
from torch import nn
from torch.nn import functional as F


class PlainConv3XC(nn.Module):
    def __init__(self, c_in, c_out, bias=True):
        super().__init__()
        self.sk = nn.Conv2d(c_in, c_out, 1, bias=bias)
        self.conv = nn.Sequential(
            nn.Conv2d(c_in, 2 * c_in, 1, bias=bias),
            nn.Conv2d(2 * c_in, 2 * c_out, 3, bias=bias),
            nn.Conv2d(2 * c_out, c_out, 1, bias=bias),
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


class PlainSPANF(nn.Module):
    def __init__(self, feature_channels=32, upscale=4, num_blocks=5, tail_channels=None, c_in=3):
        super().__init__()
        c, out = feature_channels, c_in * upscale**2
        self.conv_near = nn.Conv2d(c_in, out, 3, padding=1, groups=c_in, bias=False)
        self.block_1 = PlainSPAB(c)
        self.block_1.c1_r = PlainConv3XC(c_in, c)
        for index in range(2, num_blocks + 1):
            self.add_module(f"block_{index}", PlainSPAB(c))
        self.conv_cat = nn.Conv2d(out + 2 * c, tail_channels or c, 1)
        self.conv_2 = PlainConv3XC(tail_channels or c, out)
        self.num_blocks, self.upscale = num_blocks, upscale

    def forward(self, x):
        block = self.block_1
        f = f1 = block.c3_r(F.silu(block.c2_r(F.silu(block.c1_r(x)))))
        for index in range(2, self.num_blocks + 1):
            f, _ = self.get_submodule(f"block_{index}")(f)
        return F.pixel_shuffle(self.conv_2(self.conv_cat(torch.cat([self.conv_near(x), f, f1], 1))), self.upscale)


class PlainSPANV2(nn.Module):
    def __init__(self, feature_channels=32, upscale=4, num_blocks=5, c_in=3):
        super().__init__()
        c, out = feature_channels, c_in * upscale**2
        for index in range(1, num_blocks + 1):
            block = nn.Module()
            block.c1 = PlainConv3XC(c_in if index == 1 else c, c, bias=False)
            block.c2 = PlainConv3XC(c, c, bias=False)
            block.c3 = PlainConv3XC(c, c, bias=False)
            if index > 1:
                block.guidance_map_conv = nn.Conv2d(c, c, 1)
            self.add_module(f"block_{index}", block)
        self.conv_near = nn.Conv2d(c_in, out, 3, padding=1, groups=c_in, bias=False)
        self.depthwise_conv = nn.Conv2d(out + c, out + c, 3, padding=1, groups=out + c, bias=False)
        self.pointwise_conv = nn.Conv2d(out + c, out, 1, bias=False)
        self.num_blocks, self.upscale = num_blocks, upscale

    def forward(self, x):
        f = x
        for index in range(1, self.num_blocks + 1):
            block = self.get_submodule(f"block_{index}")
            f3 = block.c3(F.relu(block.c2(F.relu(block.c1(f)))))
            f = F.relu(f3) if index == 1 else (f + f3) * block.guidance_map_conv(f3)
        out = self.pointwise_conv(self.depthwise_conv(torch.cat([self.conv_near(x), f], 1)))
        return F.pixel_shuffle(out, self.upscale)

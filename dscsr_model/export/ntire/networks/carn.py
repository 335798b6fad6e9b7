"""CARN (arXiv 1803.08664), with the residual blocks of contrastive self-distillation (arXiv 2105.11683)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """``x + conv2(ReLU(conv1(x)))``; a ReLU over that with ``final_relu``."""

    def __init__(self, channels: int, final_relu: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.final_relu = final_relu

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to the same shape."""
        out = x + self.conv2(F.relu(self.conv1(x)))
        return F.relu(out) if self.final_relu else out


class Fusion(nn.Module):
    """1x1 convolution and ReLU, of ``count`` concatenated features."""

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels * count, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, count*channels, H, W) to (B, channels, H, W)."""
        return F.relu(self.conv(x))


class Cascade(nn.Module):
    """Three blocks, each on the fusion of all that came before it, (B, channels, H, W) to the same shape."""

    def __init__(self, channels: int, b1: nn.Module, b2: nn.Module, b3: nn.Module) -> None:
        super().__init__()
        self.b1, self.b2, self.b3 = b1, b2, b3
        self.c1 = Fusion(channels, 2)
        self.c2 = Fusion(channels, 3)
        self.c3 = Fusion(channels, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x``; see the class."""
        seen = torch.cat([x, self.b1(x)], dim=1)
        out = self.c1(seen)
        seen = torch.cat([seen, self.b2(out)], dim=1)
        out = self.c2(seen)
        seen = torch.cat([seen, self.b3(out)], dim=1)
        return self.c3(seen)


def cascade_of_residual_blocks(channels: int, final_relu: bool) -> Cascade:
    """What CARN is a cascade of."""
    return Cascade(channels, *[ResidualBlock(channels, final_relu) for _ in range(3)])


class Upsampler(nn.Module):
    """Convolution and pixel shuffle, twice for x4."""

    def __init__(self, channels: int, upscale: int) -> None:
        super().__init__()
        steps = {2: (2,), 3: (3,), 4: (2, 2)}[upscale]
        self.blocks = nn.ModuleList([nn.Conv2d(channels, channels * step**2, 3, padding=1) for step in steps])
        self.shuffle = nn.PixelShuffle(steps[0])

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, channels, H*upscale, W*upscale)."""
        for conv in self.blocks:
            x = self.shuffle(conv(x))
        return x


class CARN(Cascade):
    """From an image (B, num_in_ch, H, W), RGB in [0, 1], to (B, num_out_ch, H*upscale, W*upscale)."""

    mean: Tensor

    def __init__(
        self,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        num_feat: int = 64,
        upscale: int = 4,
        img_range: float = 255.0,
        rgb_mean: tuple[float, ...] = (0.4488, 0.4371, 0.4040),
        final_relu: bool = False,
    ) -> None:
        super().__init__(num_feat, *[cascade_of_residual_blocks(num_feat, final_relu) for _ in range(3)])
        self.img_range = img_range
        self.register_buffer("mean", torch.tensor(rgb_mean).view(1, -1, 1, 1), persistent=False)
        self.entry = nn.Conv2d(num_in_ch, num_feat, 3, padding=1)
        self.upsample = Upsampler(num_feat, upscale)
        self.exit = nn.Conv2d(num_feat, num_out_ch, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Super-resolve."""
        features = super().forward(self.entry((x - self.mean) * self.img_range))
        return self.exit(self.upsample(features)) / self.img_range + self.mean

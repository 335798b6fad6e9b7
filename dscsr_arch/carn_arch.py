"""CARN: cascading residual network.

From "Fast, Accurate, and Lightweight Super-Resolution with Cascading Residual Network" (arXiv 1803.08664,
https://github.com/nmhkahn/CARN-pytorch), in the form in which contrastive self-distillation uses it (arXiv 2105.11683,
https://github.com/Booooooooooo/CSD): residual blocks without a last ReLU, and an upsampler without ReLU.

Different from both:

- One network has one scale: 2, 3 or 4. The original can hold the upsamplers of all three at once.
- Mean and range are no frozen convolutions, so state dicts hold trained weights only; the other names are CSD's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dscsr_arch import conv_lora
from dscsr_arch.architecture import Architecture, CSDNames, SpandrelForm, has_all, image_arguments, work_range_in
from dscsr_arch.constructor import COUNT, FLAG, IMAGE, RGB_MEAN, constructor, input_mean, one_of
from dscsr_arch.errors import ArgumentError

UPSCALES = (2, 3, 4)


class ResidualBlock(nn.Module):
    """``x + conv2(ReLU(conv1(x)))``, (B, channels, H, W) to the same shape; a ReLU over that with ``final_relu``."""

    def __init__(self, channels: int, *, final_relu: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.final_relu = final_relu

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x``; see the class."""
        out = x + self.conv2(F.relu(self.conv1(x)))
        return F.relu(out) if self.final_relu else out


class Fusion(nn.Module):
    """1x1 convolution and ReLU, from ``count`` concatenated features of ``channels`` each to one."""

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels * count, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (B, count·channels, H, W) to (B, channels, H, W)."""
        return F.relu(self.conv(x))


def cascade(x: Tensor, blocks: Sequence[nn.Module], fusions: Sequence[nn.Module]) -> Tensor:
    """Run ``blocks`` in turn, each on the fusion of all that came before it.

    Formula: ``c_0 = o_0 = x``, ``c_i = [c_(i−1), block_i(o_(i−1))]``, ``o_i = fusion_i(c_i)``; the result is the last
    ``o``.
    """
    out, seen = x, x
    for block, fusion in zip(blocks, fusions):  # noqa: B905 - `strict` came with Python 3.10, see `single_file`
        seen = torch.cat([seen, block(out)], dim=1)
        out = fusion(seen)
    return out


class CascadingBlock(nn.Module):
    """Three residual blocks in a cascade, (B, channels, H, W) to the same shape."""

    def __init__(self, channels: int, *, final_relu: bool = False) -> None:
        super().__init__()
        self.b1 = ResidualBlock(channels, final_relu=final_relu)
        self.b2 = ResidualBlock(channels, final_relu=final_relu)
        self.b3 = ResidualBlock(channels, final_relu=final_relu)
        self.c1 = Fusion(channels, 2)
        self.c2 = Fusion(channels, 3)
        self.c3 = Fusion(channels, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x``; see the class."""
        return cascade(x, (self.b1, self.b2, self.b3), (self.c1, self.c2, self.c3))


class Upsampler(nn.Module):
    """Convolution and pixel shuffle, twice for ×4: (B, channels, H, W) to (B, channels, H·upscale, W·upscale)."""

    def __init__(self, channels: int, upscale: int) -> None:
        super().__init__()
        steps = {2: (2,), 3: (3,), 4: (2, 2)}[upscale]
        self.blocks = nn.ModuleList(nn.Conv2d(channels, channels * step**2, 3, padding=1) for step in steps)
        self.shuffle = nn.PixelShuffle(steps[0])

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x``; see the class."""
        for conv in self.blocks:
            x = self.shuffle(conv(x))
        return x


class CARN(nn.Module):
    """CARN, from an image (B, num_in_ch, H, W) to (B, num_out_ch, H·upscale, W·upscale), RGB in [0, 1].

    Args:
        num_in_ch: Channels of the input.
        num_out_ch: Channels of the output: as many as go in, because the mean of the input is added to the output.
        num_feat: Width of the network.
        upscale: One of 2, 3, 4.
        img_range: The input is multiplied by it, after the mean is subtracted; the output is divided by it.
        rgb_mean: Mean of each input channel, in [0, 1]; with one channel, its luma if it is one of R, G and B.
        final_relu: End residual blocks with a ReLU, as the original does; CSD's do not.

    Raises:
        ValueError: An argument is out of range.
    """

    size_multiple = 1  # images of any size; see `size_requirements`
    mean: Tensor

    @constructor(**IMAGE, num_feat=COUNT, upscale=one_of(*UPSCALES), final_relu=FLAG)
    def __init__(
        self,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        num_feat: int = 64,
        upscale: int = 4,
        img_range: float = 255.0,
        rgb_mean: Sequence[float] = RGB_MEAN,
        final_relu: bool = False,
    ) -> None:
        super().__init__()
        _check_channels(num_in_ch, num_out_ch)
        self.upscale = upscale
        self.img_range = img_range
        self.register_buffer("mean", input_mean(rgb_mean, num_in_ch), persistent=False)
        self.entry = nn.Conv2d(num_in_ch, num_feat, 3, padding=1)
        self.b1 = CascadingBlock(num_feat, final_relu=final_relu)
        self.b2 = CascadingBlock(num_feat, final_relu=final_relu)
        self.b3 = CascadingBlock(num_feat, final_relu=final_relu)
        self.c1 = Fusion(num_feat, 2)
        self.c2 = Fusion(num_feat, 3)
        self.c3 = Fusion(num_feat, 4)
        self.upsample = Upsampler(num_feat, upscale)
        self.exit = nn.Conv2d(num_feat, num_out_ch, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Super-resolve ``x`` (B, num_in_ch, H, W); see the class for range and shape."""
        x = self.entry((x - self.mean) * self.img_range)
        x = cascade(x, (self.b1, self.b2, self.b3), (self.c1, self.c2, self.c3))
        return self.exit(self.upsample(x)) / self.img_range + self.mean

    def fuse(self) -> CARN:
        """Leave plain convolutions only, in place: there is nothing but ConvLoRA to fuse. Can be repeated."""
        return conv_lora.fuse(self)


def _check_channels(num_in_ch: int, num_out_ch: int) -> None:
    if num_out_ch != num_in_ch:
        words = f"`num_out_ch` to equal `num_in_ch` ({num_in_ch}), since the mean of the input is added to the output"
        raise ArgumentError(words, num_out_ch, "Make them equal.")


ARCHITECTURE = Architecture(
    network=CARN,
    recognise=has_all("entry.weight", "exit.weight", "b1.b1.conv1.weight", "upsample.blocks.0.weight"),
    arguments=lambda state_dict, _: image_arguments(state_dict, "entry", "exit", r"upsample\.blocks\.\d+\.weight"),
    not_in_shapes=("img_range", "rgb_mean", "final_relu"),
    width_arguments=("num_feat",),
    csd=CSDNames(
        some=frozenset({"entry.weight", "exit.weight", "exit.bias", "b1.c1.conv.weight", "sub_mean.weight"}),
        ends=("entry", "exit"),
    ),
    single_file=(input_mean, ResidualBlock, Fusion, cascade, CascadingBlock, Upsampler, CARN),
    spandrel=SpandrelForm(
        required={"rgb_mean": RGB_MEAN, "final_relu": False},
        work_in=lambda network: work_range_in(network, network.entry, network.exit),
    ),
)

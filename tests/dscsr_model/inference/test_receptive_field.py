"""How far networks see, measured otherwise: which pixels of the input a gradient reaches."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dscsr_arch import CARN, SPAN
from dscsr_model.inference.receptive_field import receptive_field


def reach_of_gradients(network, side):
    """How far from its middle pixel the input changes the middle pixels of the output."""
    x = torch.rand(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    y = network.double()(x)
    scale = y.shape[-1] // side
    middle = slice(side // 2 * scale, (side // 2 + 1) * scale)
    y[..., middle, middle].sum().backward()
    rows = x.grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
    return int((rows - side // 2).abs().max())


class Shuffled(nn.Module):
    """Convolutions behind a pixel shuffle reach half as far; dilated ones farther."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 12, 5, padding=4, dilation=2)
        self.last = nn.Conv2d(3, 3, 7, padding=3)

    def forward(self, x):
        return self.last(F.pixel_shuffle(self.first(x), 2))


def interpolating(mode):
    return nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Upsample(scale_factor=2, mode=mode))


@pytest.mark.parametrize(
    ("build", "radius"),
    [
        (lambda: SPAN(feature_channels=3, upscale=2).fuse(), 21),
        (lambda: CARN(num_feat=8, upscale=4), 21),
        (Shuffled, 6),
        (lambda: interpolating("nearest"), 1),
        (lambda: interpolating("bilinear"), 2),
        (lambda: interpolating("bicubic"), 3),
    ],
    ids=["SPAN", "CARN", "Shuffled", "nearest", "bilinear", "bicubic"],
)
def test_radius(build, radius):
    network = build().eval()
    found = receptive_field(network, 3)
    assert (found.radius, found.local) == (radius, True)
    reach = reach_of_gradients(network, 2 * radius + 9)
    assert reach <= radius
    assert reach >= radius - 1  # the last half of a pixel may not be used by any of the output's pixels


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.conv(x) * x.mean(dim=(2, 3), keepdim=True)


@pytest.mark.parametrize(
    "network",
    [
        Attending(),
        nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.GroupNorm(1, 3)),
        nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 12, 3, padding=1), nn.PixelShuffle(2)),
        nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.PixelShuffle(2)),
    ],
    ids=["pooling", "norm", "unshuffle", "stride"],
)
def test_what_tiles_would_change(network):
    assert not receptive_field(network.eval(), 3).local


def test_memory():
    """Two feature maps of 10 channels, and the image with 3, are held at most."""
    network = nn.Sequential(nn.Conv2d(3, 10, 1), nn.ReLU(), nn.Conv2d(10, 10, 1), nn.ReLU(), nn.Conv2d(10, 3, 1)).eval()
    assert 4 * 20 <= receptive_field(network, 3).bytes_per_pixel <= 4 * 33

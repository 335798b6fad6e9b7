"""How far networks see, measured otherwise: which pixels of the input a gradient reaches."""

import pytest
import torch
from basicsr.archs.rcan_arch import RCAN
from small_models import Windows
from torch import nn
from torch.nn import functional as F

from dscsr_arch import CARN, SPAN
from dscsr_arch.sizes import ANY_SIZE, SizeRequirements
from dscsr_model.inference.receptive_field import MARGIN, receptive_field


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


class Swallowing(nn.Module):
    """What is no number becomes 0, or an error."""

    def __init__(self, fails):
        super().__init__()
        self.first, self.last = (nn.Conv2d(3, 3, 5, padding=2) for _ in range(2))
        self.fails = fails

    def forward(self, x):
        x = self.first(x)
        if self.fails and not x.isfinite().all():
            raise IndexError("somewhere outside")
        return self.last(x.nan_to_num(0))


@pytest.mark.parametrize(
    ("build", "radius"),
    [
        (lambda: SPAN(feature_channels=3, upscale=2).fuse(), 21),
        (lambda: CARN(num_feat=8, upscale=4), 21),
        (Shuffled, 6),
        (lambda: interpolating("bilinear"), 2),
        (lambda: interpolating("bicubic"), 3),
        (lambda: nn.Conv2d(3, 3, 3, padding=7, dilation=7), 7),
        (lambda: nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Sigmoid()), 1),
        (lambda: Swallowing(False), 4),
        (lambda: Swallowing(True), 4),
    ],
)
def test_radius(build, radius):
    network = build().eval()
    found = receptive_field(network, 3)
    assert (found.radius, found.local, found.step) == (radius, True, 1)
    if radius > 1 and not isinstance(network, Swallowing):
        # The last half of a pixel may not be used by any of the output's pixels.
        assert radius - 1 <= reach_of_gradients(network, 2 * radius + 9) <= radius


@pytest.mark.parametrize(
    ("network", "sizes", "step"),
    [
        (lambda: Windows(8), SizeRequirements(8, 8), 8),
        (lambda: nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 12, 3, padding=1), nn.PixelShuffle(2)), (2, 2), 2),
        (lambda: Unshuffled(), ANY_SIZE, 2),
        (lambda: nn.Sequential(nn.Conv2d(3, 12, 3, stride=2, padding=1), nn.PixelShuffle(2)), (2, 2), 2),
    ],
    ids=["windows", "unshuffle", "padding by itself", "stride"],
)
def test_where_tiles_have_to_begin(network, sizes, step):
    """What depends on a pixel's place in a window moves with whole windows only."""
    sizes = SizeRequirements(*sizes)
    found = receptive_field(network().eval(), 3, sizes)
    assert found.local
    assert (found.sizes, found.step) == (sizes, step)
    assert step - 1 <= found.radius < 3 * step


class Unshuffled(nn.Module):
    """Takes images of any size, and works on pairs of rows and columns."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(12, 12, 3, padding=1)

    def forward(self, x):
        height, width = x.shape[-2:]
        x = F.pad(x, (0, width % 2, 0, height % 2), mode="replicate")
        return F.pixel_shuffle(self.conv(F.pixel_unshuffle(x, 2)), 2)[..., :height, :width]


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.conv(x) * torch.sigmoid(x.mean(dim=(2, 3), keepdim=True))


class Placed(nn.Conv2d):
    """Knows where each pixel is."""

    def forward(self, x):
        return super().forward(x) + torch.linspace(0, 1, x.shape[-1])


class Pooling(nn.Module):
    """Pools sides to an eighth, as SAFMN: of sides that 8 does not divide, all windows are other ones."""

    def forward(self, x):
        return x + F.interpolate(F.adaptive_max_pool2d(x, (x.shape[-2] // 8, x.shape[-1] // 8)), x.shape[-2:])


@pytest.mark.parametrize(
    "network",
    [
        Attending(),
        RCAN(3, 3, num_feat=8, num_group=1, num_block=1, squeeze_factor=4),
        nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.GroupNorm(1, 3)),
        Placed(3, 3, 3, padding=1),
        Pooling(),
        nn.Dropout(0.5).train(),
        nn.Sequential(nn.ReflectionPad2d(8), nn.Conv2d(3, 3, 17)),
    ],
    ids=["pooling", "RCAN", "norm", "coordinates", "windows by share", "random", "fails on narrow images"],
)
def test_what_tiles_would_change(network):
    sizes = SizeRequirements(1, 8) if isinstance(network, Pooling) else ANY_SIZE
    found = receptive_field(network if isinstance(network, nn.Dropout) else network.eval(), 3, sizes)
    assert (found.local, found.radius) == (False, MARGIN)


def test_memory():
    """Two feature maps of 10 channels, and the image with 3, are held at most."""
    network = nn.Sequential(nn.Conv2d(3, 10, 1), nn.ReLU(), nn.Conv2d(10, 10, 1), nn.ReLU(), nn.Conv2d(10, 3, 1)).eval()
    assert 4 * 20 <= receptive_field(network, 3).bytes_per_pixel <= 4 * 33

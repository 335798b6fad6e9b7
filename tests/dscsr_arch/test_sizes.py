"""What sizes a network takes is found by trying; images of all others are mirrored up to one that it takes."""

import pytest
import torch
from small_models import SWINIR, Windows
from torch import nn
from torch.nn import functional as F

from dscsr_arch import CSSRNet, DSCLoRA
from dscsr_arch.errors import SizeError
from dscsr_arch.foreign import find_backbone
from dscsr_arch.sizes import SizeRequirements, padded, size_requirements


class Network(nn.Module):
    """Any function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class SelfPadding(Windows):
    """As MambaIRv2: has windows, and takes any size."""

    window_size = 8

    def forward(self, x):
        height, width = (self.scale * side for side in x.shape[-2:])
        return super().forward(F.pad(x, (0, -x.shape[-1] % 8, 0, -x.shape[-2] % 8)))[..., :height, :width]


def u_net(x):
    """Rounds down where it halves."""
    return F.interpolate(F.avg_pool2d(x, 4), scale_factor=8)


def wide_windows(x):
    """Of 4×12."""
    return x.view(*x.shape[:2], x.shape[2] // 4, 4, x.shape[3] // 12, 12).reshape(x.shape)


def unshuffled(x):
    """As the RRDBNet of Real-ESRGAN ×2: its first convolution has 12 channels, its images 3."""
    return F.conv2d(F.pixel_unshuffle(x, 2), torch.zeros(48, 12, 1, 1)).reshape(len(x), 3, 2 * x.shape[2], -1)


@pytest.mark.parametrize(
    ("network", "requirements"),
    [
        *((Windows(side, scale), (side, side)) for side, scale in ((1, 1), (7, 3), (8, 1), (12, 2), (16, 4), (64, 1))),
        (SelfPadding(), (1, 1)),
        (Network(u_net), (4, 4)),
        (Network(wide_windows), (12, 12)),
        (Network(unshuffled), (2, 2)),
        (Network(lambda x: F.pad(x, (11, 11, 11, 11), "reflect")[..., 11:-11, 11:-11]), (1, 12)),
        (Network(lambda x: F.avg_pool2d(x, 40).mean() + x), (1, 40)),  # that is no multiple of 20
        (Network(lambda x: Windows(8)(F.pad(x, (9, 9, 9, 9), "reflect")[..., 9:-9, 9:-9])), (8, 16)),
    ],
)  # fmt: skip
def test_they_are_found(network, requirements):
    assert size_requirements(network.eval()) == requirements


@pytest.mark.parametrize("scale", [1, 2])
def test_of_basicsrs_networks(scale):
    network = find_backbone("RRDBNet")(num_in_ch=3, num_out_ch=3, scale=scale, num_feat=4, num_block=1, num_grow_ch=4)
    assert size_requirements(network.eval()) == ((2, 2) if scale == 2 else (4, 4))
    assert size_requirements(CSSRNet(SWINIR, (0.5,)).eval()) == (8, 8)


def test_our_networks_say_them_and_are_not_run(monkeypatch):
    monkeypatch.setattr(nn.Module, "__call__", lambda *_: pytest.fail("it ran"))
    for network in (DSCLoRA(feature_channels=4), CSSRNet({"type": "CARN", "num_feat": 8})):
        assert size_requirements(network) == (1, 1)


def test_what_a_network_says_must_be_a_multiple(monkeypatch):
    for said in (0, "8"):
        monkeypatch.setattr(Windows, "size_multiple", said, raising=False)
        with pytest.raises(SizeError, match=f"Expected `size_multiple` of Windows to be .* from 1, but got {said!r}"):
            size_requirements(Windows(8))
    monkeypatch.setattr(Windows, "size_multiple", 16)
    assert size_requirements(Windows(8)) == (16, 16)


def test_nothing_random_changes():
    network = Network(lambda x: Windows(4)(x + torch.rand(1)))
    before = torch.get_rng_state()
    assert size_requirements(network) == (4, 4)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("network", "fault"),
    [
        (Windows(65), r"is invalid for input of size"),
        (Network(lambda x: x[..., 1:]), r"\(1, 3, 64, 127\) of \(1, 3, 64, 128\)"),
        (Network(lambda x: x + torch.zeros(64, 64)), "must match the size"),  # such as absolute positions
        (nn.Linear(7, 7), "cannot be multiplied"),
    ],
)
def test_a_network_that_takes_no_images_is_refused(network, fault):
    name = type(network).__name__
    expected = f"{name}: Expected a network .* multiples of some number up to 64, but got one that gives .*{fault}"
    with pytest.raises(SizeError, match=expected):
        size_requirements(network)


def test_images_shorter_than_their_padding():
    row = torch.arange(3.0).view(1, 1, 1, 3)
    seen = []
    assert torch.equal(padded(lambda x: seen.append(x) or x, row, SizeRequirements(4, 8)), row)
    assert seen[0].shape == (1, 1, 8, 8)
    assert torch.equal(seen[0], torch.tensor([0.0, 1, 2, 1, 0, 1, 2, 1]).expand(1, 1, 8, 8))

"""Counts against published figures, against arithmetic by hand, and what cannot be counted."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dscsr_arch import CARN, SPAN, CSSRNet, DSCLoRA, load_model
from dscsr_model.profiling.complexity import Complexity, count


@pytest.mark.parametrize(
    ("file", "published"),
    [
        ("span_ch28_x4_fused.pth", ("0.151", "9.83", "41.68", 22)),
        ("dscf_ch26_x4_fused.pth", ("0.131", "8.54", "38.93", 22)),
    ],
)
def test_published_figures(assets, file, published):
    cost = count(load_model(assets / "weights" / file))
    rounded = (f"{cost.parameters / 1e6:.3f}", f"{cost.flops / 1e9:.2f}", f"{cost.activations / 1e6:.2f}")
    assert (*rounded, cost.convolutions) == published


def span_by_hand(c, height, width, upscale):
    """Kernels, multiplications a pixel, and outputs a pixel of a fused SPAN of ``c`` channels."""
    out = 3 * upscale**2
    weights = 9 * (3 * c + 19 * c * c) + 4 * c * c + 9 * c * out
    biases = 20 * c + c + out
    return Complexity(weights + biases, weights * height * width, (21 * c + out) * height * width, 22)


@pytest.mark.parametrize("network", [SPAN, DSCLoRA, lambda **k: SPAN(**k).fuse(), lambda **k: SPAN(**k).train()])
def test_figures_are_those_of_the_fused_network(network):
    assert count(network(feature_channels=9, upscale=2), 7, 11) == span_by_hand(9, 7, 11, 2)


def test_of_a_cssrnet_what_eval_mode_runs_counts():
    network = CSSRNet({"type": "CARN", "num_feat": 16}, widths=(0.5, 0.25))
    assert count(network, 8, 8) == count(network.student(0.25), 8, 8) == count(CARN(num_feat=4), 8, 8)


class Exotic(nn.Module):
    """What fvcore passes over: ``padding="same"``, functional and transposed convolutions, attention, baddbmm."""

    def __init__(self):
        super().__init__()
        self.same = nn.Conv2d(3, 4, 3, padding="same")
        self.kernel = nn.Parameter(torch.rand(4, 2, 3, 3))
        self.up = nn.ConvTranspose2d(4, 3, 2, stride=2)

    def forward(self, x):
        x = F.conv2d(self.same(x), self.kernel, padding=1, groups=2)
        tokens = x.flatten(2).transpose(1, 2)
        tokens = F.scaled_dot_product_attention(tokens, tokens, tokens)
        tokens = torch.baddbmm(tokens, tokens, torch.ones(1, 4, 4))
        return self.up(tokens.transpose(1, 2).reshape(x.shape))


def test_operators_that_fvcore_passes_over_count():
    n = 6 * 10
    convolutions = n * (9 * 3 * 4) + n * (4 * 2 * 9) + n * (4 * 3 * 2 * 2)
    attention = 2 * n * n * 4
    cost = count(Exotic(), 6, 10)
    assert cost.flops == convolutions + attention + n * 4 * 4
    assert cost.activations == n * (4 + 4 + 3 * 4)
    assert cost.convolutions == 3


class Spectral(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return torch.fft.ifft2(torch.fft.fft2(self.conv(x))).real


def test_heavy_operators_that_cannot_be_counted_are_named():
    assert count(Spectral(), 8, 8).uncounted == ("aten::fft_fft2", "aten::fft_ifft2")

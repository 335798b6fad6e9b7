"""Folded convolutions: the same image, and where not, how far that reaches."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dscsr_arch import CARN, SPAN, load_model
from dscsr_arch.errors import DscsrError
from dscsr_model.export.ntire.bare_check import count
from dscsr_model.export.ntire.folding import BORDER, compose
from dscsr_model.export.ntire.standalone import standalone

VARIANTS = [{}, {"norm": False}, {"bias": False}, {"upscale": 2, "img_range": 1.0}]


def outputs(arguments, fold, size=(53, 57)):
    """Of a network with random weights and of its folded form, in float64."""
    network = SPAN(feature_channels=9, **arguments).fuse().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        form = standalone(network, fold)
        x = torch.rand(1, 3, *size).double()
        return network.double()(x), form.build().double()(x), form


@pytest.mark.parametrize("arguments", VARIANTS)
def test_exact_changes_nothing(arguments):
    """Folded in float64, rounded to float32 once."""
    expected, folded, form = outputs(arguments, "exact")
    assert form.border == 0
    assert (folded - expected).abs().max() < 1e-6 * expected.abs().max()
    assert "conv_2.weight" not in form.state


@pytest.mark.parametrize("arguments", VARIANTS)
def test_all_changes_the_border_alone(arguments):
    expected, folded, form = outputs(arguments, "all")
    cut = form.border * arguments.get("upscale", 4)
    difference = (folded - expected).abs() / expected.abs().max()
    assert difference[..., cut:-cut, cut:-cut].max() < 1e-6
    assert difference.max() > 1e-3  # the border is another, so the claim above says something


def test_border_reaches_as_far_as_it_is_said_to():
    """Whatever is wrong in the outermost pixel of the first activation is in `BORDER` pixels of the output."""

    def spoil(_module, _inputs, output):
        output[..., [0, -1], :] = torch.nan
        output[..., [0, -1]] = torch.nan

    form = standalone(SPAN(feature_channels=2, upscale=2), "all")
    network = form.build()
    network.block_1.c1_r.register_forward_hook(spoil)
    with torch.no_grad():
        spoiled = network(torch.rand(1, 3, 45, 49))[0, 0].isnan()
    expected = torch.ones(90, 98, dtype=torch.bool)
    expected[2 * BORDER : -2 * BORDER, 2 * BORDER : -2 * BORDER] = False
    assert form.border == BORDER
    assert torch.equal(spoiled, expected)


@given(st.tuples(*[st.integers(1, 4)] * 3), st.sampled_from([1, 3, 5]), st.sampled_from([1, 3]))
@settings(max_examples=20, deadline=None)
def test_compose_is_one_convolution_of_two(channels, inner, outer):
    """Without padding, where it is exact for every kernel."""
    first, middle, last = channels
    draw = torch.Generator().manual_seed(inner)
    shapes = ((2, first, 9, 11), (middle, first, inner, inner), (middle,), (last, middle, outer, outer), (last,))
    x, w1, b1, w2, b2 = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in shapes)
    expected = F.conv2d(F.conv2d(x, w1, b1), w2, b2)
    torch.testing.assert_close(F.conv2d(x, *compose(w1, b1, w2, b2)), expected, atol=1e-12, rtol=0)


def test_gives_the_published_figures(assets):
    """Of the 2026 form with 26 channels (reference: 8.22 G and 0.126 M), from the released weights."""
    form = standalone(load_model(assets / "weights" / "dscf_ch26_x4_fused.pth"), "all")
    figures = count(form.build(), (256, 256))
    assert f"{figures['parameters'] / 1e6:.3f} {figures['flops'] / 1e9:.2f}" == "0.126 8.22"
    assert figures["convolutions"] == 22


def test_refuses_what_it_cannot_fold():
    with pytest.raises(DscsrError, match="Expected a SPAN and a fold of exact, all, but got CARN and 'all'"):
        standalone(CARN(num_feat=8), "all")
    with pytest.raises(DscsrError, match="but got SPAN and 'most'"):
        standalone(SPAN(feature_channels=4), "most")

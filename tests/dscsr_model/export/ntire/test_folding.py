"""Folded convolutions: the same image, and where not, how far that reaches."""

import pytest
import torch

from dscsr_arch import SPAN, SPANF, SPANV2, load_model
from dscsr_arch.errors import DscsrError
from dscsr_model.export.ntire.bare_check import count
from dscsr_model.export.ntire.folding import BORDER
from dscsr_model.export.ntire.single_file import single_file


def folded(network, fold):
    form = single_file(network, fold)
    plain = form.sources[-1](**form.arguments)
    plain.load_state_dict(form.state)
    return plain.eval(), form


@pytest.mark.parametrize("fold", ["exact", "all"])
@pytest.mark.parametrize("arguments", [{}, {"norm": False}, {"bias": False}, {"upscale": 2, "img_range": 1.0}])
@torch.no_grad()
def test_what_folding_changes(arguments, fold):
    """Nothing, or the border alone. Folded in float64, rounded to float32 once; the images are in float64."""
    network = SPAN(feature_channels=9, **arguments).fuse().eval()
    for parameter in network.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    plain, form = folded(network, fold)
    x = torch.rand(1, 3, 53, 57).double()
    expected = network.double()(x)
    difference = (plain.double()(x) - expected).abs() / expected.abs().max()
    cut = form.border * network.upscale
    assert difference[..., cut : -cut or None, cut : -cut or None].max() < 1e-6
    assert form.border == (BORDER if fold == "all" else 0)
    assert (difference.max() > 1e-3) == (fold == "all")  # the border is another, so the claim above says something
    assert "conv_2.weight" not in form.state


@pytest.mark.parametrize("fold", ["exact", "all"])
@pytest.mark.parametrize(
    "arguments", [{}, {"bias": False, "num_blocks": 1}, {"tail_channels": 4, "upscale": 2}, {"num_in_ch": 1}]
)
@torch.no_grad()
def test_of_spanf_folding_changes_nothing(arguments, fold):
    """Folded in float64, rounded to float32 once, on images in float64, borders included."""
    network = SPANF(**{"feature_channels": 9, "num_out_ch": 2, **arguments}).fuse().eval()
    for parameter in network.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    plain, form = folded(network, fold)
    x = torch.rand(2, network.arguments["num_in_ch"], 13, 17).double()
    expected = network.double()(x)
    assert (plain.double()(x) - expected).abs().max() < 1e-6 * expected.abs().max()
    assert form.border == 0


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize(("tail", "saved"), [(32, 1104), (20, 852)])
def test_saves_what_the_documents_say(tail, saved):
    network = SPANF(tail_channels=tail)
    before, (plain, form) = count(folded(network, None)[0], (8, 10)), folded(network, "exact")
    now = count(plain, (8, 10))
    assert form.saved == (saved, saved)
    assert (before["parameters"] - now["parameters"], before["flops"] - now["flops"]) == (saved, 80 * saved)
    assert before["convolutions"] - now["convolutions"] == 1


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_gives_the_published_figures(assets):
    """Of the 2026 form with 26 channels (reference: 8.22 G and 0.126 M), from the released weights."""
    figures = count(folded(load_model(assets / "weights" / "dscf_ch26_x4_fused.pth"), "all")[0], (256, 256))
    assert f"{figures['parameters'] / 1e6:.3f} {figures['flops'] / 1e9:.2f}" == "0.126 8.22"
    assert figures["convolutions"] == 22


def test_refuses_what_it_cannot_fold():
    words = r"Expected a fold \(exact or all\) of a network that it makes smaller \(SPAN, SPANF\), but got "
    with pytest.raises(DscsrError, match=f"{words}'all' of SPANV2. Leave --fold out"):
        single_file(SPANV2(feature_channels=4), "all")
    with pytest.raises(DscsrError, match=f"{words}'most' of SPAN"):
        single_file(SPAN(feature_channels=4), "most")

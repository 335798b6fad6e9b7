"""Tiles leave no seams, and eight orientations are eight."""

import pytest
import torch
from torch import nn

from dscsr_arch import SPAN
from dscsr_model.tiling import self_ensemble, tiled

# conv_1, three convolutions in each of six blocks, conv_2, upsampler: 3x3 each; what comes between is pointwise.
SPAN_REACH = 1 + 6 * 3 + 1 + 1


@pytest.fixture(scope="module")
def span() -> nn.Module:
    torch.manual_seed(3)
    return SPAN(feature_channels=6, upscale=2).double().eval()


@pytest.mark.parametrize(("height", "width"), [(61, 47), (24, 25), (5, 60)])
@torch.no_grad()
def test_tiles_equal_the_whole_image_once_the_overlap_covers_the_reach(span, height, width):
    x = torch.rand(1, 3, height, width, dtype=torch.float64)
    whole = span(x)
    result = tiled(span, x, tile=24, overlap=SPAN_REACH)
    # float64, values up to about 10: convolutions of another size may add up in another order, nothing more.
    torch.testing.assert_close(result, whole, rtol=0, atol=1e-12)


@torch.no_grad()
def test_a_smaller_overlap_shows(span):
    x = torch.rand(1, 3, 61, 48, dtype=torch.float64)
    assert (tiled(span, x, tile=24, overlap=2) - span(x)).abs().max() > 1e-3
    # What the outermost pixel of the reach adds can be less than a digit of float64; a NaN there cannot be missed.
    x[..., 24 + SPAN_REACH - 1] = torch.nan
    for overlap, spoiled in ((SPAN_REACH - 1, False), (SPAN_REACH, True)):
        assert bool(tiled(span, x, tile=24, overlap=overlap)[..., : 2 * 24].isnan().any()) is spoiled


@torch.no_grad()
def test_self_ensemble_is_the_mean_over_the_eight_orientations(span):
    x = torch.rand(1, 3, 9, 13, dtype=torch.float64)
    wanted = []
    for horizontal in (False, True):
        for vertical in (False, True):
            for transposed in (False, True):
                y = x.flip(-1) if horizontal else x
                y = y.flip(-2) if vertical else y
                y = span(y.transpose(-1, -2) if transposed else y)
                y = y.transpose(-1, -2) if transposed else y
                y = y.flip(-2) if vertical else y
                wanted.append(y.flip(-1) if horizontal else y)
    result = self_ensemble(span, x)
    torch.testing.assert_close(result, torch.stack(wanted).mean(0), rtol=0, atol=1e-12)
    assert (result - span(x)).abs().max() > 1e-3
    turned_input = self_ensemble(span, torch.rot90(x, 1, (-2, -1)))
    torch.testing.assert_close(torch.rot90(turned_input, -1, (-2, -1)), result, rtol=0, atol=1e-12)

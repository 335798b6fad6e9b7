import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dscsr_model.data.subimages import Window, common_size, starts, windows


def basicsr_starts(length, crop, step, thresh):
    """The rule of BasicSR's extract_subimages, in its own words."""
    space = np.arange(0, length - crop + 1, step)
    return [*space, length - crop] if length - (space[-1] + crop) > thresh else list(space)


@given(
    length=st.integers(1, 3000),
    crop=st.integers(1, 600),
    step=st.integers(1, 600),
    thresh=st.sampled_from([0, 10, 100]),
)
def test_starts_are_basicsr_s(length, crop, step, thresh):
    if length >= crop:
        assert starts(length, crop, step, thresh) == basicsr_starts(length, crop, step, thresh)
    else:
        assert starts(length, crop, step, thresh) == [0]


def test_div2k():
    assert starts(2040, 480, 240) == [0, 240, 480, 720, 960, 1200, 1440, 1560]
    assert len(windows(1356, 2040, 480, 240)) == 5 * 8
    assert windows(1356, 2040, 480, 240)[9] == Window(240, 240, 480, 480)


@settings(deadline=None)
@given(
    height=st.integers(1, 400),
    width=st.integers(1, 400),
    scale=st.sampled_from([1, 2, 3, 4, 8]),
    crop=st.integers(4, 120),
)
def test_windows_lie_inside_and_cover_everything(height, width, scale, crop):
    found = windows(height, width, crop, max(crop // 2, 1))
    covered = np.zeros((height, width), bool)
    for window in found:
        covered[window.top : window.top + window.height, window.left : window.left + window.width] = True
        assert window.top + window.height <= height
        assert window.left + window.width <= width
        assert (window.height, window.width) == (min(crop, height), min(crop, width))
        assert window.times(scale) == tuple(scale * value for value in window)
    assert covered.all()
    assert len(set(found)) == len(found)


def test_whole():
    assert windows(30, 40, 0, 1) == [Window(0, 0, 30, 40)]


@pytest.mark.parametrize(
    ("hr", "lr", "expected"),
    [
        ((481, 321), None, (120, 80)),
        ((481, 321), (120, 80), (120, 80)),
        ((481, 321), (121, 81), (120, 80)),
        ((481, 321), (121, 80), (120, 80)),
        ((480, 320), (121, 80), None),
        ((481, 321), (122, 81), None),
        ((481, 321), (119, 80), None),
        ((480, 320), (80, 120), None),
    ],
)
def test_common_size(hr, lr, expected):
    assert common_size(hr, lr, 4) == expected

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dscsr_model.data.prepare_job import PrepareJob, common_size


def windows(height, width, crop, step, thresh=0):
    return PrepareJob(Path("gt"), Path("out"), 1, crop_size=crop, step=step, thresh_size=thresh).windows(height, width)


def basicsr_starts(length, crop, step, thresh):
    """The rule of BasicSR's extract_subimages, in its own words."""
    space = np.arange(0, length - crop + 1, step)
    return [*space, length - crop] if length - (space[-1] + crop) > thresh else list(space)


@given(
    length=st.integers(1, 3000), crop=st.integers(1, 600), step=st.integers(1, 600),
    thresh=st.sampled_from([0, 10, 100]),
)  # fmt: skip
def test_sub_images_lie_as_basicsr_lays_them(length, crop, step, thresh):
    expected = basicsr_starts(length, crop, step, thresh) if length >= crop else [0]
    assert [window.top for window in windows(length, 1, crop, step, thresh)] == expected
    assert [window.left for window in windows(1, length, crop, step, thresh)] == expected


@pytest.mark.parametrize(
    ("hr", "lr", "expected"),
    [
        ((481, 321), None, (120, 80)),
        ((481, 321), (120, 80), (120, 80)),
        ((481, 321), (121, 81), (120, 80)),
        ((480, 320), (121, 80), None),
        ((481, 321), (122, 81), None),
        ((480, 320), (80, 120), None),
    ],
)
def test_common_size(hr, lr, expected):
    assert common_size(hr, lr, 4) == expected

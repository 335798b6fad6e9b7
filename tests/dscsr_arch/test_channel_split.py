import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dscsr_arch.channel_split import check_split, scaled_arguments


@given(st.integers(1, 512), st.integers(1, 511))
def test_every_multiple_of_a_channel_is_taken_however_it_is_rounded(channels, kept):
    kept = min(kept, channels)
    assert scaled_arguments({"n": channels, "m": 3}, ["n"], kept / channels) == {"n": kept, "m": 3}


def pair(channels, **changes):
    return nn.Sequential(nn.Conv2d(3, channels, 3, **changes), nn.PReLU(), nn.Conv2d(channels, 3, 1))


@pytest.mark.parametrize(
    ("teacher", "student", "message"),
    [
        (pair(8), pair(4, bias=False), "Expected the same layers .* but got a difference in 0.bias"),
        (pair(8), pair(12), r"Expected 0.weight at width 0.5 to be a part of its shape \(8, 3, 3, 3\)"),
        (nn.Linear(2, 2), nn.Conv2d(2, 2, 1), "to be a part of its shape"),
    ],
)
def test_networks_that_do_not_split(teacher, student, message):
    with pytest.raises(ValueError, match=message):
        check_split(teacher, student, 0.5)

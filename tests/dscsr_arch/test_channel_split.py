import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dscsr_arch.channel_split import check_split, prefix, scaled_arguments, split_forward, split_tensors


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)).map(sorted), max_size=4))
def test_prefix_is_a_view_of_the_first_entries(sizes):
    small, large = [s for s, _ in sizes], [t for _, t in sizes]
    tensor = torch.rand(large)
    cut = prefix(tensor, small)
    assert list(cut.shape) == small
    wanted = tensor
    for dim, size in enumerate(small):
        wanted = wanted.narrow(dim, 0, size)
    assert torch.equal(cut, wanted)
    assert cut.data_ptr() == tensor.data_ptr()
    assert (cut is tensor) == (small == large)


@given(st.integers(1, 512), st.integers(1, 511))
def test_every_multiple_of_a_channel_is_taken_however_it_is_rounded(channels, kept):
    kept = min(kept, channels)
    assert scaled_arguments({"n": channels, "m": 3}, ["n"], kept / channels) == {"n": kept, "m": 3}


@pytest.mark.parametrize(
    ("arguments", "width", "message"),
    [
        ({"n": 10}, 0.25, r"whole number of channels, from 1, but got 2.5 of `n: 10`. Choose a multiple of 1/10"),
        ({"n": 10}, 0.01, r"but got 0.1 of `n: 10`"),
        ({"n": 2.0}, 0.5, "Expected `n` to be a whole number in the backbone.* but got 2.0"),
        ({}, 0.5, "Expected `n` to be a whole number in the backbone.* but got None"),
    ],
)
def test_arguments_that_cannot_be_scaled(arguments, width, message):
    with pytest.raises(ValueError, match=message):
        scaled_arguments(arguments, ["n"], width)


def pair(channels, **changes):
    return nn.Sequential(nn.Conv2d(3, channels, 3, **changes), nn.PReLU(), nn.Conv2d(channels, 3, 1))


@pytest.mark.parametrize(
    ("teacher", "student", "message"),
    [
        (pair(8), pair(4, bias=False), "Expected the same layers .* but got a difference in 0.bias"),
        (pair(8), pair(12), r"Expected 0.weight at width 0.5 to be a part of its shape \(8, 3, 3, 3\)"),
        (nn.Linear(2, 2), nn.Conv2d(2, 2, 1), "to be a part of its shape"),
        (pair(8), pair(8), "Expected width 0.5 to make layers narrower"),
        (nn.BatchNorm2d(4), nn.BatchNorm2d(2), "without running statistics, but got BatchNorm2d"),
    ],
)
def test_networks_that_do_not_split(teacher, student, message):
    with pytest.raises(ValueError, match=message):
        check_split(teacher, student, 0.5)


def test_normalisation_without_statistics_splits():
    teacher, student = (nn.BatchNorm2d(width, track_running_stats=False) for width in (4, 2))
    check_split(teacher, student, 0.5)
    x = torch.rand(2, 2, 3, 3)
    torch.testing.assert_close(
        split_forward(teacher, copy.deepcopy(student).to("meta"), x), student(x)
    )  # both as they are made: 1, 0


def test_a_skeleton_has_no_weights_and_runs_on_those_of_the_teacher():
    teacher, student = pair(8), pair(4)
    bare = copy.deepcopy(student).to("meta")
    assert all(p.is_meta for p in bare.parameters())
    assert not any(p.is_meta for p in student.parameters())
    x = torch.rand(1, 3, 6, 5)
    student.load_state_dict({k: v.detach().clone() for k, v in split_tensors(teacher, bare).items()})
    torch.testing.assert_close(split_forward(teacher, bare, x), student(x))
    assert all(p.is_meta for p in bare.parameters())


class Shared(nn.Module):
    """One layer under two names."""

    def __init__(self, size):
        super().__init__()
        self.first = nn.Conv2d(size, size, 1)
        self.again = self.first

    def forward(self, x):
        """Map (B, any, H, W) of at least as many channels."""
        return self.again(self.first(x[:, : self.first.in_channels]))


def test_a_layer_that_is_used_twice():
    teacher, student = Shared(4), Shared(2)
    check_split(teacher, student, 0.5)
    x = torch.rand(1, 4, 3, 3)
    split_forward(teacher, copy.deepcopy(student).to("meta"), x).sum().backward()
    assert (teacher.first.weight.grad[:2, :2] != 0).all()
    assert (teacher.first.weight.grad[2:] == 0).all()

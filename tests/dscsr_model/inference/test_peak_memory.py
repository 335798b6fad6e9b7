"""Peak memory against calls whose allocations are known."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dscsr_model.inference.receptive_field import peak, peak_memory

CPU = torch.device("cpu")
MEGA = 1_000_000


@pytest.mark.parametrize(
    ("call", "megabytes"),
    [
        (lambda x: x.relu(), 4),
        (lambda x: x.relu() + 1, 8),  # the first is held while the second is made
        (lambda x: x.relu().relu_(), 4),
        (lambda x: [x.relu() for _ in range(5)], 20),
        (lambda x: [x.relu().sum() for _ in range(5)], 4),
        (lambda x: x[1:], 0),
    ],
)
def test_known_allocations(call, megabytes):
    x = torch.rand(MEGA)
    assert peak_memory(lambda: call(x), CPU) == pytest.approx(megabytes * MEGA, abs=1000)


def test_it_does_not_matter_what_was_there_before_or_has_run_before():
    x = torch.rand(MEGA)
    call = lambda: x.exp() * 2  # noqa: E731
    assert len({peak_memory(call, CPU) for _ in range(3)}) == 1


def test_what_is_given_back_without_being_taken_was_there_before():
    held = [torch.rand(MEGA)]
    assert peak_memory(lambda: (held.clear(), torch.rand(MEGA)), CPU) == pytest.approx(4 * MEGA, abs=1000)


@given(st.lists(st.integers(1, 100)))
def test_peak_of_what_is_all_taken_then_given_back(sizes):
    assert peak([*sizes, *(-size for size in sizes)]) == sum(sizes)


@pytest.mark.parametrize(("changes", "most"), [([], 0), ([-5, 3], 3), ([4, -4, 4, 2, -6], 6), ([1, -5, 2], 2)])
def test_peak_by_hand(changes, most):
    assert peak(changes) == most

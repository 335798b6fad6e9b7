"""Values that carry their gradients with them."""

import pytest
import torch

from dscsr_model.losses.functional.one_pass import attach_gradients


def double(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Σ 2x + 3y, where the gradient of y is not wanted."""
    with torch.no_grad():
        value = (2 * x + 3 * y).sum()
    return attach_gradients(value, (x, y), (torch.full_like(x, 2), None), "Double")


def test_the_gradients_are_those_given_times_what_comes_from_above():
    x, y = torch.rand(3, requires_grad=True), torch.rand(3, requires_grad=True)
    value = double(x, y)
    assert torch.equal(value, (2 * x + 3 * y).sum())
    (5 * value).backward()
    assert torch.equal(x.grad, torch.full((3,), 10.0))
    assert y.grad is None


def test_without_a_gradient_it_is_the_bare_value():
    value = torch.tensor(2.0)
    assert attach_gradients(value, (torch.rand(2),), (None,), "Nothing") is value


def test_a_second_differentiation_is_refused():
    x = torch.rand(3, requires_grad=True)
    (first,) = torch.autograd.grad(double(x, x.detach()), x, create_graph=True)
    assert torch.equal(first, torch.full((3,), 2.0))  # asking for a graph alone does no harm
    with pytest.raises(RuntimeError, match=r"Expected Double to be differentiated once, but got a second .*create_gra"):
        first.sum().backward()

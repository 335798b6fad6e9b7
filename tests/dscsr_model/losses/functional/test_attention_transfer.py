"""Attention transfer against its formula, position by position."""

import pytest
import torch
from torch import Tensor

from dscsr_model.losses.functional import attention_transfer_loss


def by_position(student: Tensor, teacher: Tensor, power: float, distance: str) -> float:
    """The formula, in sums over Python's numbers."""
    total = 0.0
    for pair in zip(student.tolist(), teacher.tolist(), strict=True):
        maps = []
        for channels in pair:
            height, width = len(channels[0]), len(channels[0][0])
            at = [sum(abs(c[y][x]) ** power for c in channels) for y in range(height) for x in range(width)]
            length = sum(value**2 for value in at) ** 0.5
            maps.append([value / length for value in at])
        square = sum((one - other) ** 2 for one, other in zip(*maps, strict=True))
        total += square if distance == "squared" else square**0.5
    return total / len(student)


@pytest.mark.parametrize("distance", ["squared", "norm"])
@pytest.mark.parametrize("power", [1, 2, 2.5])
def test_value_is_that_of_the_formula_and_the_gradient_its_own(power, distance):
    student = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    arguments = {"power": power, "distance": distance}
    loss = attention_transfer_loss(student, teacher, **arguments)
    assert loss.item() == pytest.approx(by_position(student, teacher, **arguments), rel=1e-10)
    assert loss > 0.01
    assert torch.autograd.gradcheck(lambda each: attention_transfer_loss(each, teacher, **arguments), student)
    scaled = attention_transfer_loss(1e3 * student, teacher, **arguments)
    assert scaled.item() == pytest.approx(loss.item(), rel=1e-10)


def test_what_is_alike_or_dark_costs_nothing_and_has_finite_gradients():
    features = torch.rand(2, 3, 4, 5)
    features[1] = 0
    student = features.clone().requires_grad_()
    for distance in ("squared", "norm"):
        loss = attention_transfer_loss(student, features, distance=distance)
        loss.backward()
        assert loss == 0
    assert torch.isfinite(student.grad).all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert attention_transfer_loss(student.bfloat16(), features).dtype == torch.float32


def test_what_is_refused():
    features = torch.rand(1, 3, 4, 5)
    with pytest.raises(ValueError, match=r"agree in batch, height and width.*Compare layers of one resolution"):
        attention_transfer_loss(features, torch.rand(1, 3, 5, 4))

"""The frequency loss against the transform written out as sums of waves."""

import math

import pytest
import torch
from torch import Tensor

from dscsr_model.losses.functional import frequency_loss


def with_waves(output: Tensor, target: Tensor, norm: str, reduction: str) -> Tensor:
    """Each wave of the half that real images have, by its matrix of complex numbers."""
    height, width = output.shape[2:]
    rows, columns = (torch.arange(n, dtype=torch.float64) for n in (height, width))
    down = torch.exp(-2j * math.pi * rows[:, None] * rows / height)
    across = torch.exp(-2j * math.pi * columns[:, None] * columns / width)[:, : width // 2 + 1]
    waves = [down @ images.to(torch.complex128) @ across for images in (output, target)]
    factor = 1 / math.sqrt(height * width) if norm == "ortho" else 1
    parts = [factor * (getattr(waves[0], part) - getattr(waves[1], part)).abs() for part in ("real", "imag")]
    total = parts[0].sum() + parts[1].sum()
    return total if reduction == "sum" else total / (2 * parts[0].numel())


@pytest.mark.parametrize("norm", ["backward", "ortho"])
@pytest.mark.parametrize(
    ("size", "reduction"), [((2, 3, 7, 12), "mean"), ((1, 1, 8, 5), "sum"), ((1, 2, 1, 1), "mean")]
)
def test_value_and_gradient_equal_the_sums(size, reduction, norm):
    target, results = torch.rand(size, dtype=torch.float64), []
    for function in (frequency_loss, with_waves):
        output = (1 - target).mul_(torch.linspace(0.5, 2, target.numel()).view(size)).requires_grad_()
        value = function(output, target, norm=norm, reduction=reduction)
        results += [torch.stack([value]), *torch.autograd.grad(value, output)]
    for one, other in (results[::2], results[1::2]):
        assert (one - other).abs().max() <= 1e-10 * other.abs().max()
    assert results[1].abs().max() > 0


def test_half_precision_is_computed_in_float32():
    output, target = torch.rand(2, 1, 3, 40, 40).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = frequency_loss(output, target)
    assert value.dtype == torch.float32
    assert value == frequency_loss(output.float(), target.float())


def test_what_its_head_says_of_noise():
    output = torch.randn(4, 3, 64, 48, dtype=torch.float64)
    assert frequency_loss(output, torch.zeros_like(output)) / math.sqrt(64 * 48) == pytest.approx(0.56, abs=0.01)
    assert frequency_loss(output, torch.zeros_like(output), norm="ortho") == pytest.approx(0.56, abs=0.01)


def test_images_of_other_shapes():
    with pytest.raises(ValueError, match=r"two images \(B, C, H, W\) of one shape, but got \(1, 3, 4, 4\) and \(1, 1"):
        frequency_loss(torch.rand(1, 3, 4, 4), torch.rand(1, 1, 4, 4))

"""Quantizers against their papers' formulas, written plainly, in float64."""

import pytest
import torch

from dscsr_arch.quantizers import levels, quantize, quantize_weight, weight_scale

ALPHA, STEP = 1.3, 1e-6


@pytest.fixture
def x():
    return torch.linspace(-2, 2, 997, dtype=torch.float64)  # of which none is a border


def reference(x, alpha, low, high):
    """α/n · round(clamp(x · n/α, low, n)), value by value."""
    step = alpha / high
    return torch.tensor([step * min(max(round(float(value) / step), low), high) for value in x], dtype=torch.float64)


def gradients(x, method, steps):
    """A weighted sum's gradients for the values and for the clip, with the weights."""
    x, alpha = x.clone().requires_grad_(), torch.tensor(ALPHA, dtype=torch.float64, requires_grad=True)
    weights = torch.cos(torch.arange(len(x), dtype=torch.float64))
    (quantize(x, alpha, steps, method) * weights).sum().backward()
    return x.grad, float(alpha.grad), weights


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("method", "signed"), [("pact", False), ("pact", True), ("pams", True)])
class TestQuantize:
    def test_value(self, x, method, signed, bits):
        steps = levels(bits, signed=signed)
        got = quantize(x, torch.tensor(ALPHA, dtype=torch.float64), steps, method)
        torch.testing.assert_close(got, reference(x, ALPHA, *steps), rtol=0, atol=1e-15)
        assert 2**bits - 1 <= len(got.unique()) <= 2**bits

    def test_gradient_of_the_clip(self, x, method, signed, bits):
        """Against finite differences of what rounding leaves smooth: PACT's clamp, PAMS's with its rounding held."""
        steps = levels(bits, signed=signed)
        _, got, weights = gradients(x, method, steps)
        low, high = steps
        held = reference(x, ALPHA, *steps) * high / ALPHA - (x * high / ALPHA).clamp(low, high)

        def smooth(alpha):
            clamped = (x * high / alpha).clamp(low, high)
            return float(((clamped + (held if method == "pams" else 0)) * alpha / high * weights).sum())

        assert got == pytest.approx((smooth(ALPHA + STEP) - smooth(ALPHA - STEP)) / (2 * STEP), abs=1e-6)
        assert got != 0

    def test_gradient_by_the_papers(self, x, method, signed, bits):
        """PACT, equation 3; PAMS: y/α − x/α within, ±1 beyond."""
        steps = levels(bits, signed=signed)
        to_x, to_alpha, weights = gradients(x, method, steps)
        lowest = -ALPHA if signed else 0
        within = (x > lowest) & (x < ALPHA)
        torch.testing.assert_close(to_x, weights * within)
        error = (reference(x, ALPHA, *steps) - x) / ALPHA if method == "pams" else torch.zeros_like(x)
        beyond = (x >= ALPHA).double() - (x <= lowest).double() * signed
        torch.testing.assert_close(to_alpha, float((torch.where(within, error, beyond) * weights).sum()))


@pytest.mark.parametrize("bits", [4, 8])
def test_weights(bits):
    """Each output channel by its own largest: a small one beside a large one keeps all levels."""
    weight = torch.randn(5, 4, 3, 3, dtype=torch.float64).mul_(10.0 ** torch.arange(5).view(-1, 1, 1, 1))
    weight.requires_grad_()
    got = quantize_weight(weight, bits)
    highest = 2 ** (bits - 1) - 1
    for channel, own in zip(got, weight.detach(), strict=True):
        largest = float(own.abs().max())
        expected = (own * highest / largest).round() * largest / highest
        torch.testing.assert_close(channel, expected, rtol=1e-15, atol=0)
        assert len(channel.unique()) <= 2**bits - 1
    got.sum().backward()
    assert weight.grad.eq(1).all()  # straight through


def test_weights_of_zeros_stay_finite():
    assert quantize_weight(torch.zeros(2, 2, 1, 1), 4).eq(0).all()
    assert weight_scale(torch.zeros(2, 2, 1, 1), 4).gt(0).all()


def test_values_are_exact_in_float32():
    """A level is a whole number of steps to the bit: what is exported computes with the same."""
    x, alpha = torch.randn(10_000) * 100, torch.tensor(217.3)
    for method in ("pact", "pams"):
        got = quantize(x, alpha, levels(8, signed=True), method)
        scale = alpha / 127
        assert torch.equal(got, (got / scale).round() * scale)

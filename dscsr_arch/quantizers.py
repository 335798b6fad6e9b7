"""Uniform quantizers whose clip is learned, PACT's and PAMS's, as pure functions.

PACT: "Parameterized Clipping Activation for Quantized Neural Networks", arXiv 1805.06085.
PAMS: "Quantized Super-Resolution via Parameterized Max Scale", arXiv 2011.04212, https://github.com/colorjam/PAMS.

Both compute the same: with the clip α and n steps up to it, a value becomes one of ``α/n · (low … n)``,
``α/n · round(clamp(x · n/α, low, n))``. They differ in what they learn α from:

- PACT: from what is clipped alone, ∂y/∂α = 1 where x ≥ α, else 0; for what is within, rounding is passed straight
  through. Nothing but its L2 term (`training.quantization`) ever makes α smaller.
- PAMS: from the error of rounding as well, ∂y/∂α = y/α − x/α where −α < x < α, and ±1 beyond: what is left if rounding
  alone is passed straight through.

Different from the papers: PACT's range [0, α] is that of a ReLU. Few inputs of convolutions in super-resolution come
out of one; where they may be negative, its range is [−α, α], as PAMS's always is. Weights are those of PAMS, but by the
largest of each output channel, not of the layer: in fused kernels of SPAN one channel is many times another, and 8 bits
of a layer lose six decibels (`span_ch28` before any training), of a channel one and a half. PACT takes DoReFa's (arXiv
1606.06160), whose tanh hardly bends weights of a few hundredths, and which forget how large they were, as only networks
with batch normalisation can.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Method = Literal["pact", "pams"]

Levels = tuple[int, int]
"""The lowest and the highest number of steps that a value may become."""


def levels(bits: int, *, signed: bool) -> Levels:
    """(−n, n) with n = 2^(bits−1) − 1, or (0, 2^bits − 1)."""
    highest = 2 ** (bits - signed) - 1
    return (-highest if signed else 0, highest)


def quantize(x: Tensor, alpha: Tensor, steps: Levels, method: Method) -> Tensor:
    """``x``, of any shape, on the levels of a clip, differentiable in both; see the file's head.

    Args:
        x: Values, float32 or float64.
        alpha: The clip, positive, of one number.
        steps: The lowest, −n or 0, and the highest, n, of its levels.
        method: Which gradient.
    """
    low, high = steps
    scale = alpha / high
    if method == "pams":
        return _through(x / scale, low, high) * scale
    value = _rounded(x / scale, low, high) * scale
    return _with_gradient_of(value, torch.clamp(x, -alpha if low else torch.zeros_like(alpha), alpha))


def weight_scale(weight: Tensor, bits: int) -> Tensor:
    """The steps of a weight (out, …), as (out, 1, …): the largest number of a channel is its highest level."""
    largest = weight.detach().abs().amax(tuple(range(1, weight.dim())), keepdim=True)
    smallest = torch.finfo(weight.dtype).tiny  # of a channel of zeros
    return (largest / levels(bits, signed=True)[1]).clamp(min=smallest)


def quantize_weight(weight: Tensor, bits: int) -> Tensor:
    """``weight`` on its 2^bits − 1 levels; its gradient is passed straight through."""
    scale = weight_scale(weight, bits)
    return _with_gradient_of(_rounded(weight / scale, *levels(bits, signed=True)) * scale, weight)


def _rounded(x: Tensor, low: int, high: int) -> Tensor:
    return x.clamp(low, high).round()  # halves to even, as ONNX does


def _through(x: Tensor, low: int, high: int) -> Tensor:
    """As `_rounded`, with the gradient of the clamp."""
    return _with_gradient_of(_rounded(x, low, high), x.clamp(low, high))


def _with_gradient_of(value: Tensor, other: Tensor) -> Tensor:
    """``value``, exactly; in backward ``other``."""
    return value.detach() + (other - other.detach())

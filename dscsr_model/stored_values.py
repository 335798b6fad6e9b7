"""What a network says, in 16 bits: signed whole numbers for values that lie around [0, 1], as overshoots do.

A number n stands for (n + 21803) / 43605: from -0.2515 to 1.2515, in steps of 2.3e-5. 43605 is 171 · 255, so that the
levels of 8 bits are kept exactly. Signed, because PyTorch turns, stacks and moves these like any other tensor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

ZERO, UNIT = -21803, 43605
LEAST, MOST = -(2**15), 2**15 - 1


def as_numbers(values: Tensor) -> Tensor:
    """Values of any shape as the nearest numbers, still floating point; what lies beyond the range is at its end."""
    return values.mul(UNIT).add(ZERO).round().clamp(LEAST, MOST)


def as_values(numbers: Tensor) -> Tensor:
    """Numbers (int16) of any shape as values in float32."""
    return numbers.float().sub_(ZERO).div_(UNIT)

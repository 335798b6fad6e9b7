"""The mean that a network takes off its input, as option files give it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)
"""Of R, G, B, ITU-R BT.601: what gray images are made with."""


def input_mean(rgb_mean: Sequence[float], channels: int) -> Tensor:
    """Mean of each channel, (1, channels, 1, 1) float32; of a network of one channel, the luma of a mean of RGB.

    Raises:
        ValueError: Another number of values than channels.
    """
    if channels == 1 and len(rgb_mean) == 3:
        rgb_mean = [sum(weight * value for weight, value in zip(_LUMA, rgb_mean, strict=True))]
    if len(rgb_mean) != channels:
        raise ValueError(
            f"Expected `rgb_mean` to have one value per input channel ({channels}), but got {len(rgb_mean)}. "
            "Give the mean of each channel."
        )
    return torch.tensor(rgb_mean).view(1, -1, 1, 1)

"""PSNR and SSIM of two images of 8 bits, to the same figures as BasicSR's ``calculate_psnr`` and ``calculate_ssim``.

Images are (H, W, C) uint8, RGB or gray; both of one shape. A border, usually as wide as the scale, is left out: what
networks make there depends on their padding. Papers report figures on the luma, NTIRE reports them on RGB.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

_BT601 = np.array([65.481, 128.553, 24.966]) / 255
"""Of R, G, B, as in MATLAB's ``rgb2ycbcr``."""
_SIDE, _SIGMA = 11, 1.5  # of SSIM's Gaussian window
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def psnr(image: NDArray[np.uint8], reference: NDArray[np.uint8], border: int = 0, *, luma: bool = False) -> float:
    """Peak signal-to-noise ratio, ``10·log10(255² / mean squared difference)``.

    Args:
        image: (H, W, C) uint8.
        reference: Of the same shape.
        border: Pixels left out at each side.
        luma: Compare the luma of BT.601 instead of all channels; images of one channel are left as they are.

    Returns:
        Decibels; inf for equal images.
    """
    one, other = (_levels(each, border, luma) for each in (image, reference))
    error = float(np.mean((one - other) ** 2))
    return 10 * math.log10(255**2 / error) if error else math.inf


def ssim(image: NDArray[np.uint8], reference: NDArray[np.uint8], border: int = 0, *, luma: bool = False) -> float:
    """Structural similarity (Wang et al. 2004) in Gaussian windows of 11×11 that lie within the image.

    Formula: ``(2·μ₁μ₂ + c₁)(2·σ₁₂ + c₂) / ((μ₁² + μ₂² + c₁)(σ₁² + σ₂² + c₂))``, the mean over windows and channels.

    Args:
        image: (H, W, C) uint8, at least 11×11 pixels within the border.
        reference: Of the same shape.
        border: Pixels left out at each side.
        luma: As for `psnr`.

    Returns:
        In [-1, 1]; 1 for equal images.
    """
    planes = (_levels(each, border, luma).transpose(2, 0, 1) for each in (image, reference))
    x, y = (torch.from_numpy(np.ascontiguousarray(each))[:, None] for each in planes)
    window = torch.exp(-((torch.arange(_SIDE, dtype=x.dtype) - _SIDE // 2) ** 2) / (2 * _SIGMA**2))
    window /= window.sum()

    def mean(values: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.conv2d(values, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))

    mean_x, mean_y = mean(x), mean(y)
    variances = mean(x * x) - mean_x**2 + mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    similarity = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    return float((similarity / ((mean_x**2 + mean_y**2 + _C1) * (variances + _C2))).mean())


def _levels(image: NDArray[np.uint8], border: int, luma: bool) -> NDArray[np.float64]:
    """What is compared, (H, W, C') in [0, 255], not rounded."""
    levels = image[border : image.shape[0] - border, border : image.shape[1] - border].astype(np.float64)
    return levels @ _BT601[:, None] + 16 if luma and image.shape[2] == 3 else levels

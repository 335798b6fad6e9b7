"""PSNR and SSIM as BasicSR computes them, behind one door, so that every figure of ours is comparable with its logs."""

from __future__ import annotations

import numpy as np


def psnr_y(image: np.ndarray, reference: np.ndarray, crop_border: int) -> float:
    """PSNR on the luma of BT.601, in dB.

    Args:
        image: (H, W, 3) uint8, BGR.
        reference: Of the same shape and kind.
        crop_border: Pixels left out at each side.

    Returns:
        Decibels; ``inf`` for equal images.
    """
    from basicsr.metrics import calculate_psnr

    return float(calculate_psnr(image, reference, crop_border=crop_border, test_y_channel=True))


def ssim_y(image: np.ndarray, reference: np.ndarray, crop_border: int) -> float:
    """SSIM on the luma of BT.601, in [-1, 1]; arguments as for ``psnr_y``."""
    from basicsr.metrics import calculate_ssim

    return float(calculate_ssim(image, reference, crop_border=crop_border, test_y_channel=True))

"""PSNR and SSIM against BasicSR's functions and scikit-image."""

import cv2
import numpy as np
import pytest
from basicsr.metrics import calculate_psnr, calculate_ssim

from dscsr_model.evaluation.metrics import psnr, ssim


def two_images(height=37, width=29, channels=3):
    """Soft shapes, and the same with noise."""
    generator = np.random.default_rng(0)
    rough = generator.integers(0, 256, (height // 4, width // 4, channels), np.uint8)
    image = cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, channels)
    noise = generator.normal(0, 9, image.shape)
    return image, np.clip(image + noise, 0, 255).round().astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("luma", [False, True])
@pytest.mark.parametrize("border", [0, 4])
@pytest.mark.parametrize(("ours", "basicsr"), [(psnr, calculate_psnr), (ssim, calculate_ssim)])
def test_figures_are_those_of_basicsr(ours, basicsr, border, luma, channels):
    """To float32: BasicSR computes the luma in it. It takes BGR."""
    images = two_images(channels=channels)
    expected = basicsr(*(each[:, :, ::-1] for each in images), crop_border=border, test_y_channel=luma)
    assert ours(*images, border, luma=luma) == pytest.approx(expected, rel=2e-7)


def test_equal_images_and_what_the_border_hides():
    image, _ = two_images()
    other = image.copy()
    other[:2] = other[-2:] = other[:, :2] = other[:, -2:] = 0
    assert psnr(image, other, 2) == np.inf
    assert ssim(image, other, 2) == pytest.approx(1, abs=1e-12)
    assert psnr(image, other, 1) < 30
    assert ssim(image, other, 1) < 0.999

"""The protocol: rounding, the mean over images, gray images."""

import numpy as np
import pytest
import torch

from dscsr_model.evaluation.protocol import evaluate, super_resolve


def repeat(x, offset=0.0):
    """Nearest neighbours, ×2."""
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3) + offset


def flat(height, width, level, channels=3):
    return np.full((height, width, channels), level, np.uint8)


@pytest.mark.parametrize(
    ("offset", "expected"), [(0.4 / 255, [0, 128, 255]), (0.6 / 255, [1, 129, 255]), (-3, [0, 0, 0])]
)
def test_output_is_clamped_and_rounded(offset, expected):
    image = np.array([[[0, 128, 255]]], np.uint8)
    assert super_resolve(lambda x: repeat(x, offset), image)[1, 1].tolist() == expected


def test_images_go_in_as_rgb_of_one():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    seen = []
    super_resolve(lambda x: seen.append(x) or x, image)
    assert torch.equal((seen[0][0] * 255).permute(1, 2, 0).round().byte(), torch.from_numpy(image))


def test_mean_over_images_each_counted_alike():
    """One level of difference everywhere is 48.13 dB; two are 42.11 dB, in an image of any size."""
    pairs = [(flat(6, 8, 100), flat(12, 16, 101)), (flat(20, 30, 100), flat(40, 60, 102))]
    quality = evaluate(repeat, iter(pairs), 2)
    assert quality.psnr == pytest.approx((48.1308 + 42.1102) / 2, abs=1e-4)
    # A difference of gray is 219/255 of it in Y.
    assert quality.psnr_y == pytest.approx(quality.psnr - 20 * np.log10(219 / 255), abs=2e-3)
    assert quality.images == 2


def test_gray_images_have_one_figure():
    quality = evaluate(repeat, [(flat(6, 8, 100, 1), flat(12, 16, 101, 1))], 2)
    assert quality.psnr == quality.psnr_y == pytest.approx(48.1308, abs=1e-4)

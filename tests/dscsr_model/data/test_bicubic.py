"""The oracle is BasicSR's imresize, which computes in float32: 1e-6 is a few roundings of values up to 1."""

import math

import numpy as np
import pytest

from dscsr_model.data.bicubic import resize

SCALES = [2, 3, 4, 8, 1 / 2, 1 / 3, 1 / 4, 1 / 8]
SIZES = [(33, 50), (101, 64), (48, 97), (31, 1356)]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("scale", SCALES, ids=lambda s: f"x{s:.3f}")
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_oracle(rng, size, scale):
    oracle = pytest.importorskip("basicsr.utils.matlab_functions")
    if max(size) * scale > 3000:
        size = (size[0], 300)
    image = rng.random((*size, 3), dtype=np.float32)
    expected = oracle.imresize(image, scale)
    result = resize(image, scale)
    assert (result.shape, result.dtype) == (expected.shape, np.float32)
    assert np.abs(result - expected).max() <= 1e-6
    levels = (image * 255).round().astype(np.uint8)
    expected = (oracle.imresize(levels.astype(np.float32) / 255, scale) * 255).round().clip(0, 255)
    result = resize(levels, scale)
    assert result.dtype == np.uint8
    assert np.abs(result - expected).max() <= 1
    assert (result != expected).mean() < 1e-3  # halves only: MATLAB rounds them up, numpy to even


def test_levels_saturate():
    image = np.zeros((32, 32, 1), np.uint8)
    image[:, 16:] = 255
    assert resize(image.astype(np.float32), 2).max() > 255.5
    assert resize(image.astype(np.float32), 2).min() < -0.5
    result = resize(image, 2)
    assert result[:, :20].max() == 0
    assert result[:, -20:].min() == 255


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 1), (7, 7)])
def test_images_smaller_than_the_kernel_are_mirrored_again_and_again(size):
    image = np.full((*size, 3), 77, np.uint8)
    for scale in (8, 1 / 2, 1 / 8):
        result = resize(image, scale)
        assert result.shape == (math.ceil(size[0] * scale), math.ceil(size[1] * scale), 3)
        assert (result == 77).all()

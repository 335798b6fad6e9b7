"""The oracle is BasicSR's imresize, which computes in float32: 1e-6 is a few roundings of values up to 1."""

import math

import numpy as np
import pytest

from dscsr_model.data.bicubic import cubic, downscale, resize, taps

SCALES = [2, 3, 4, 8, 1 / 2, 1 / 3, 1 / 4, 1 / 8]
SIZES = [(33, 50), (101, 64), (48, 97), (256, 129), (321, 481), (31, 1356)]


@pytest.fixture(scope="module")
def oracle():
    return pytest.importorskip("basicsr.utils.matlab_functions")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("scale", SCALES, ids=lambda s: f"x{s:.3f}")
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_oracle(oracle, rng, size, scale):
    if max(size) * scale > 3000:
        size = (size[0], 300)
    image = rng.random((*size, 3), dtype=np.float32)
    expected = oracle.imresize(image, scale)
    result = resize(image, scale)
    assert result.shape == expected.shape
    assert result.dtype == np.float32
    assert np.abs(result - expected).max() <= 1e-6


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
@pytest.mark.parametrize("size", SIZES[:5], ids=str)
def test_levels_equal_oracle(oracle, rng, size, scale):
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = (oracle.imresize(image.astype(np.float32) / 255, 1 / scale) * 255).round().clip(0, 255)
    result = downscale(image, scale)
    assert result.dtype == np.uint8
    difference = np.abs(result - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3  # halves only: MATLAB rounds them up, numpy to even


@pytest.mark.parametrize("scale", SCALES, ids=lambda s: f"x{s:.3f}")
def test_weights_are_the_oracle_s_bit_by_bit(oracle, scale):
    size, out_size = 477, math.ceil(477 * scale)
    expected, positions, before, _ = oracle.calculate_weights_indices(size, out_size, scale, "cubic", 4, True)
    indices, weights = taps(size, out_size, scale, antialias=True)
    seen = positions.numpy().astype(int) - before
    dense = np.zeros((2, out_size, 3 * size), np.float32)  # one axis and its mirror images on both sides
    np.put_along_axis(dense[0], seen + size, expected.numpy(), axis=1)
    inside = slice(out_size // 4, -(out_size // 4))
    for row in np.arange(out_size)[inside]:
        dense[1, row, indices[row] + size] = weights[row]
    assert np.abs(dense[0, inside] - dense[1, inside]).max() <= 6e-8  # one unit in the last place: sums differ in order


def test_without_antialias_equals_oracle(oracle, rng):
    image = rng.random((64, 51, 3), dtype=np.float32)
    plain = resize(image, 1 / 3, antialias=False)
    assert np.abs(plain - oracle.imresize(image, 1 / 3, antialiasing=False)).max() <= 1e-6
    assert np.abs(plain - resize(image, 1 / 3)).max() > 0.05


def test_many_images_at_once_and_all_channel_counts(rng):
    for shape in [(5, 37, 41, 3), (2, 16, 17, 1), (3, 20, 30, 4)]:
        images = rng.random(shape, dtype=np.float32)
        together = resize(images, 1 / 4)
        for image, expected in zip(images, together, strict=True):
            np.testing.assert_allclose(resize(image, 1 / 4), expected, atol=1e-6)
            np.testing.assert_allclose(resize(image[:, :, 0], 1 / 4), expected[:, :, 0], atol=1e-6)


def test_double_precision_stays(rng):
    image = rng.random((40, 44, 3))
    result = resize(image, 2)
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, resize(image.astype(np.float32), 2), atol=1e-6)


def test_sixteen_bit_keeps_its_depth(rng):
    image = rng.integers(0, 65536, (40, 44, 3), dtype=np.uint16)
    result = downscale(image, 4)
    assert result.dtype == np.uint16
    expected = resize(image.astype(np.float64), 1 / 4).clip(0, 65535)
    assert np.abs(result - expected).max() <= 0.5 + 0.05  # float32 has 24 bits for 16


def test_integers_saturate():
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


def test_out_size_alone_gives_the_factor_of_each_axis(rng):
    image = rng.random((60, 40, 3), dtype=np.float32)
    result = resize(image, out_size=(30, 80))
    assert result.shape == (30, 80, 3)
    rows_only = resize(image, out_size=(30, 40))
    np.testing.assert_allclose(resize(rows_only, out_size=(30, 80)), result, atol=1e-6)


@pytest.mark.parametrize("scale", [3, 5, 6, 7, 10, 49])
def test_downscale_rounds_sizes_up_exactly(scale):
    # ceil(49 · (1 / 49)) and its like are off by one in floating point
    assert downscale(np.zeros((scale * 11, scale * 11 + 1, 1), np.uint8), scale).shape == (11, 12, 1)


def test_input_is_untouched_and_need_not_be_contiguous(rng):
    image = rng.integers(0, 256, (64, 80, 3), dtype=np.uint8)
    copy = image.copy()
    view = image[:, ::-1, ::-1]
    np.testing.assert_array_equal(downscale(view, 4), downscale(np.ascontiguousarray(view), 4))
    np.testing.assert_array_equal(image, copy)


def test_kernel():
    np.testing.assert_allclose(cubic(np.array([0.0, 1.0, 2.0, 2.5, -1.0])), [1, 0, 0, 0, 0], atol=1e-12)
    x = np.linspace(-2.5, 2.5, 101)
    np.testing.assert_allclose(cubic(x), cubic(-x))
    np.testing.assert_allclose(sum(cubic(x % 1 + k) for k in range(-3, 4)), 1, atol=1e-12)


def test_bad_input():
    image = np.zeros((8, 8, 3), np.float32)
    with pytest.raises(TypeError, match=r"Expected `image` to be uint8, .* but got int64"):
        resize(image.astype(np.int64), 2)
    with pytest.raises(ValueError, match=r"Expected `image` to be .* but got \(8,\)"):
        resize(image[:, 0, 0], 2)
    with pytest.raises(ValueError, match=r"not empty, but got \(0, 8, 3\)"):
        resize(image[:0], 2)
    with pytest.raises(ValueError, match=r"Expected `scale` or `out_size`, but got neither"):
        resize(image)
    with pytest.raises(ValueError, match=r"Expected `scale` to be positive, but got -2"):
        resize(image, -2)
    with pytest.raises(ValueError, match=r"Expected `out_size` to be at least \(1, 1\), but got \(0, 4\)"):
        resize(image, out_size=(0, 4))
    with pytest.raises(ValueError, match=r"Expected `scale` to be a whole number, at least 1, but got 2.5"):
        downscale(image, 2.5)

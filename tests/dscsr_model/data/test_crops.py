import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dscsr_model.data.crops import Crop, cut, draw_crop


def numbered(height, width, factor):
    """An image whose every pixel says which LR pixel, and which part of it, it is: (H, W, 3) uint8."""
    rows, columns = np.mgrid[: height * factor, : width * factor]
    part = (rows % factor) * factor + columns % factor
    return np.stack([rows // factor, columns // factor, part], axis=2).astype(np.uint8)


def turned(image, crop):
    """The orientation in plain numpy."""
    if crop.hflip:
        image = image[:, ::-1]
    if crop.vflip:
        image = image[::-1]
    return image.transpose(1, 0, 2) if crop.transpose else image


@settings(max_examples=100)
@given(
    scale=st.sampled_from([1, 2, 3, 4, 8]),
    size=st.integers(1, 24),
    more=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    seed=st.integers(0, 2**62),
    flips=st.tuples(st.booleans(), st.booleans()),
)
def test_lr_crop_is_the_window_of_the_hr_crop(scale, size, more, seed, flips):
    height, width = size + more[0], size + more[1]
    crop = draw_crop((seed, 1, 2, 3), height, width, size, *flips)
    assert 0 <= crop.top <= more[0]
    assert 0 <= crop.left <= more[1]
    lq = cut(numbered(height, width, 1), crop, size)
    gt = cut(numbered(height, width, scale), crop, size, scale)
    assert lq.shape == (3, size, size)
    assert gt.shape == (3, scale * size, scale * size)
    # Every GT pixel lies in the LR pixel that the LR crop shows at its place.
    np.testing.assert_array_equal(gt[:2], lq[:2].repeat(scale, axis=1).repeat(scale, axis=2))
    # Within every LR pixel, the parts lie as the orientation lays them.
    parts = turned(numbered(1, 1, scale), crop)[:, :, 2]
    np.testing.assert_array_equal(gt[2], np.tile(parts, (size, size)))


def test_crops_are_keyed():
    crops = {key: draw_crop(key, 100, 90, 24, True, True) for key in np.ndindex(2, 3, 5, 4)}
    again = {key: draw_crop(key, 100, 90, 24, True, True) for key in reversed(list(crops))}
    assert crops == again
    assert len(set(crops.values())) == len(crops)
    # Fixed for ever: a changed draw would change every resumed run.
    assert draw_crop((0, 0, 0, 0), 100, 90, 24, True, True) == Crop(37, 8, True, False, True)


def test_crops_are_uniform():
    crops = [draw_crop((5, 0, index, 0), 40, 36, 30, True, True) for index in range(8000)]
    for values, count in (([c.top for c in crops], 11), ([c.left for c in crops], 7)):
        histogram = np.bincount(values, minlength=count)
        assert len(histogram) == count
        assert np.abs(histogram / (8000 / count) - 1).max() < 0.15  # four standard deviations
    orientations = np.bincount([4 * c.hflip + 2 * c.vflip + c.transpose for c in crops], minlength=8)
    assert np.abs(orientations / 1000 - 1).max() < 0.15


def test_switched_off():
    plain = [draw_crop((0, 0, index, 0), 50, 50, 10) for index in range(50)]
    assert not any(crop.hflip or crop.vflip or crop.transpose for crop in plain)
    mirrored = [draw_crop((0, 0, index, 0), 50, 50, 10, use_hflip=True) for index in range(50)]
    assert {crop.hflip for crop in mirrored} == {True, False}
    assert not any(crop.vflip or crop.transpose for crop in mirrored)
    rotated = [draw_crop((0, 0, index, 0), 50, 50, 10, use_rot=True) for index in range(50)]
    assert not any(crop.hflip for crop in rotated)
    assert len({(crop.vflip, crop.transpose) for crop in rotated}) == 4
    assert [crop[:2] for crop in plain] == [crop[:2] for crop in mirrored]

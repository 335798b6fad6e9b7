import io

import numpy as np
import pytest
from PIL import Image

from dscsr_model.data.degrade import Step, degrade
from dscsr_model.data.noise import drawn_by


@pytest.mark.parametrize("channels", [1, 3])
def test_each_step_is_what_its_name_says(photographs, channels):
    image = photographs[1][..., :channels]
    x = np.arange(-8, 9)
    kernel = np.exp(-(x**2) / (2 * 1.7**2)) / np.exp(-(x**2) / (2 * 1.7**2)).sum()
    padded = np.pad(image.astype(np.float64), ((8, 8), (8, 8), (0, 0)), "symmetric")
    for axis in (0, 1):
        padded = np.apply_along_axis(np.convolve, axis, padded, kernel, "valid")
    blurred = degrade(image, [Step("blur", 1.7)], "a")
    # OpenCV's kernel ends at 7 pixels: 6e-5 of 255 levels, and a rounding
    assert np.abs(blurred - padded).max() < 0.52

    added = degrade(image, [Step("noise", 25)], "a") - image.astype(np.float64)
    inside = (image > 120) & (image < 135)
    assert added[inside].std() == pytest.approx(25, rel=0.05)
    drawn = np.float32(25) * drawn_by("0 a").standard_normal(image.shape, np.float32)
    assert np.abs((added - drawn)[inside]).max() <= 0.5
    assert not np.array_equal(degrade(image, [Step("noise", 25)], "b"), image + added)

    compressed = io.BytesIO()
    Image.fromarray(image.squeeze()).save(compressed, "JPEG", quality=30)
    theirs = np.asarray(Image.open(compressed), np.float64).reshape(image.shape)
    ours = degrade(image, [Step("jpeg", 30)], "a")
    assert np.abs(ours - theirs).mean() < 1  # another version of libjpeg may round otherwise
    assert np.abs(ours - image.astype(np.float64)).mean() > 1
    both = degrade(image, [Step("blur", 1.7), Step("jpeg", 30)], "a")
    assert np.array_equal(both, degrade(blurred, [Step("jpeg", 30)], "a"))

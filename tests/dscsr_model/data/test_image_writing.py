"""Other programs read what is written; what belongs to an image is kept; nothing half-written has a final name."""

import os

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms

from dscsr_arch.errors import ImageError
from dscsr_model.data import image_writing
from dscsr_model.data.image_io import DecodedImage, as_eight_bits, read_image
from dscsr_model.data.image_writing import check_size, without_lost_alpha, write_image

RGB = np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


class GivenUp(Exception):  # noqa: N818
    """What a writer that is stopped raises."""


def photo_exif():
    content = Image.Exif()
    content.update({271: "Maker", 33432: "me", 274: 1, 282: 7.0})
    content[ExifTags.IFD.Exif] = {36867: "2020:01:02 03:04:05", 40962: 4, 37500: b"maker's note"}
    content[ExifTags.IFD.GPSInfo] = {1: "N", 2: (48.0, 8.0, 13.5)}
    return content


def drawn(channels, dtype=np.uint8, height=37, width=23):
    """Soft, so that JPEG comes near."""
    y, x = np.mgrid[:height, :width]
    planes = [np.sin(x / (5 + k)) * np.cos(y / (7 - k)) * 0.4 + 0.5 for k in range(channels)]
    noise = np.random.default_rng(0).normal(0, 0.01, (height, width, channels)) * (y[:, :, None] % 5 == 0)
    return (np.clip(np.stack(planes, axis=2) + noise, 0, 1) * np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize("form", ["png", "tiff"])
@settings(max_examples=25)
@given(
    height=st.integers(1, 40), width=st.integers(1, 40), channels=st.integers(1, 4), deep=st.booleans(),
    strip=st.integers(1, 4000), seed=st.integers(0, 99),
)  # fmt: skip
def test_others_read_the_pixels_that_are_written(tmp_path_factory, form, height, width, channels, deep, strip, seed):
    dtype = np.uint16 if deep else np.uint8
    pixels = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)
    target = tmp_path_factory.mktemp("written") / f"a.{form}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_writing, "STRIP_BYTES", strip)
        write_image(target, DecodedImage(pixels), form)
    if channels == 2 and form == "tiff" and deep:
        pixels = pixels[:, :, [0, 0, 0, 1]]  # nobody reads gray with alpha of 16 bits
    np.testing.assert_array_equal(read_image(target).pixels, pixels)
    with Image.open(target) as image:
        image.load()
        assert image.size == (width, height)
    if pixels.shape[2] != 2 and (form, channels, deep) != ("tiff", 4, False):  # OpenCV multiplies that alpha in
        read = cv2.imread(str(target), cv2.IMREAD_UNCHANGED).reshape(height, width, -1)
        order = [0] if pixels.shape[2] == 1 else [2, 1, 0, 3][: pixels.shape[2]]
        np.testing.assert_array_equal(read[:, :, order], pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("source", ["png", "jpg", "webp", "tiff"])
@pytest.mark.parametrize("form", ["png", "jpg", "webp", "tiff"])
def test_what_belongs_to_an_image(tmp_path, form, source, dtype):
    if source != "tiff":  # into which Pillow cannot put it
        Image.fromarray(RGB).save(
            tmp_path / f"a.{source}", exif=photo_exif().tobytes(), icc_profile=SRGB, dpi=(300, 200), lossless=True
        )
    else:
        Image.fromarray(RGB).save(tmp_path / "a.png", exif=photo_exif().tobytes(), icc_profile=SRGB, dpi=(300, 200))
        write_image(tmp_path / "a.tiff", read_image(tmp_path / "a.png"), "tiff")
    write_image(tmp_path / f"b.{form}", read_image(tmp_path / f"a.{source}")._replace(pixels=drawn(3, dtype)), form)
    with Image.open(tmp_path / f"b.{form}") as image:
        assert image.info["icc_profile"] == SRGB
        kept = image.getexif()
        assert (kept[271], kept[33432]) == ("Maker", "me")
        assert kept.get_ifd(ExifTags.IFD.Exif)[36867] == "2020:01:02 03:04:05"
        assert kept.get_ifd(ExifTags.IFD.Exif).get(40962, 23) == 23  # the width
        assert 37500 not in kept.get_ifd(ExifTags.IFD.Exif)
        place = kept.get_ifd(ExifTags.IFD.GPSInfo)
        assert (place[1], [float(each) for each in place[2]]) == ("N", [48.0, 8.0, 13.5])
        assert kept.get(ExifTags.Base.Orientation, 1) == 1
        if "webp" not in (form, source):  # which has no resolution
            np.testing.assert_allclose([float(value) for value in image.info["dpi"]], (300, 200), rtol=1e-3)
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - as_eight_bits(drawn(3, dtype))).max() < 40


def test_a_png_claims_no_colours_that_it_does_not_have(tmp_path):
    write_image(tmp_path / "a.png", DecodedImage(RGB), "png")
    assert not any(kind in (tmp_path / "a.png").read_bytes() for kind in (b"sRGB", b"gAMA", b"cHRM", b"iCCP"))


@pytest.mark.parametrize(("form", "mode"), [("jpg", "L"), ("webp", "RGB"), ("png", "L"), ("tiff", "L")])
def test_gray(tmp_path, form, mode):
    write_image(tmp_path / f"a.{form}", DecodedImage(drawn(1)), form)
    with Image.open(tmp_path / f"a.{form}") as image:
        assert image.mode == mode
        assert form != "tiff" or not image.tag_v2.get(306)  # no date of today: the same image is the same file
        assert np.abs(np.asarray(image.convert("L")).astype(int) - drawn(1)[:, :, 0]).max() < 15


@pytest.mark.parametrize("form", ["png", "jpg", "webp", "tiff"])
def test_a_file_is_given_up_when_asked(tmp_path, monkeypatch, form):
    """Between strips, and even when all is written."""
    monkeypatch.setattr(image_writing, "STRIP_BYTES", 200)
    calls = []

    def write(last=None):
        def between():
            calls.append(1)
            if len(calls) == last:
                raise GivenUp

        calls.clear()
        write_image(tmp_path / f"a.{form}", DecodedImage(drawn(3)), form, between=between, replace=True)

    write()
    assert len(calls) > (5 if form in ("png", "tiff") else 1)
    (tmp_path / f"a.{form}").unlink()
    for last in {1, len(calls) // 2, len(calls)} - {0}:
        with pytest.raises(GivenUp):
            write(last)
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((100, 16384, "webp"), r"at most 16383 pixels a side, for WebP, but got 16384x100\. Use --format png"),
        ((65501, 1, "jpg"), "for JPEG, but got 1x65501"),
        ((2**31, 1, "png"), r"2147483647 pixels a side, for PNG, .* Cut the image"),
    ],
)
def test_sizes_that_a_format_cannot_hold(arguments, message):
    with pytest.raises(ImageError, match=message):
        check_size(*arguments)
    if arguments[2] != "png":
        check_size(*arguments[:2], "png")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_that_a_format_cannot_hold(channels, dtype):
    pixels = np.full((5, 6, channels), np.iinfo(dtype).max, dtype)
    opaque = without_lost_alpha(DecodedImage(pixels, b"profile"), "jpg")
    np.testing.assert_array_equal(opaque.pixels, pixels[:, :, :-1])
    assert opaque.icc == b"profile"
    pixels[3, 3, -1] -= 1
    with pytest.raises(ImageError, match=r"for JPEG, but got transparency\. Use --format png, webp or tiff"):
        without_lost_alpha(DecodedImage(pixels), "jpg")
    for form in ("png", "webp", "tiff"):
        assert without_lost_alpha(DecodedImage(pixels), form).alpha

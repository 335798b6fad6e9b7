"""Writing: other programs read the same pixels and all that belongs to them; nothing half-written has a final name."""

import io
import os
import threading

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms

from dscsr_arch.errors import DiskError, ImageError
from dscsr_model.inference import png_file, saving
from dscsr_model.inference.images import DecodedImage, kept_exif, read_image
from dscsr_model.inference.png_file import write_png
from dscsr_model.inference.saving import Saver, Stopped, as_eight_bits, check_size, format_of, without_lost_alpha
from dscsr_model.inference.tiff_file import write_tiff

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def drawn(channels, dtype=np.uint8, height=37, width=23):
    """Soft, so that every filter of PNG wins in some row, and JPEG comes near."""
    y, x = np.mgrid[:height, :width]
    planes = [np.sin(x / (5 + k)) * np.cos(y / (7 - k)) * 0.4 + 0.5 for k in range(channels)]
    noise = np.random.default_rng(0).normal(0, 0.01, (height, width, channels)) * (y[:, :, None] % 5 == 0)
    return (np.clip(np.stack(planes, axis=2) + noise, 0, 1) * np.iinfo(dtype).max).astype(dtype)


def taken():
    content = Image.Exif()
    content[ExifTags.Base.Make] = "a maker"
    content[ExifTags.IFD.Exif] = {36867: "2020:01:02 03:04:05"}
    content.endian = "<"
    return content.tobytes().removeprefix(b"Exif\0\0")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("form", ["png", "tiff"])
def test_the_pixels_as_opencv_and_pillow_read_them(tmp_path, monkeypatch, form, channels, dtype):
    monkeypatch.setattr(png_file, "STRIP_BYTES", 200)  # several strips
    pixels = drawn(channels, dtype)
    target = tmp_path / f"a.{form}"
    Saver(95).save(DecodedImage(pixels), target, form, False)
    wanted = pixels
    if channels == 2 and form == "tiff" and dtype == np.uint16:
        wanted = pixels[:, :, [0, 0, 0, 1]]  # nobody reads gray with alpha of 16 bits
    np.testing.assert_array_equal(read_image(target).pixels, wanted)
    if wanted.shape[2] != 2 and (form, channels, dtype) != ("tiff", 4, np.uint8):  # OpenCV multiplies that alpha in
        read = cv2.imread(str(target), cv2.IMREAD_UNCHANGED)
        order = [0] if wanted.shape[2] == 1 else [2, 1, 0, 3][: wanted.shape[2]]
        np.testing.assert_array_equal(read.reshape(37, 23, -1)[:, :, order], wanted)
    with Image.open(target) as image:
        image.load()
        assert image.size == (23, 37)


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(1, 40), width=st.integers(1, 40), channels=st.integers(1, 4), deep=st.booleans(),
    strip=st.integers(1, 4000), seed=st.integers(0, 99), step=st.sampled_from([1, 7, 300]),
)  # fmt: skip
def test_any_png_is_read_back(height, width, channels, deep, strip, seed, step):
    dtype = np.uint16 if deep else np.uint8
    walk = np.random.default_rng(seed).integers(-step, step + 1, (height, width, channels)).cumsum(1).cumsum(0)
    pixels = (walk % (np.iinfo(dtype).max + 1)).astype(dtype)
    stream = io.BytesIO()
    before, png_file.STRIP_BYTES = png_file.STRIP_BYTES, strip
    try:
        write_png(stream, DecodedImage(pixels))
    finally:
        png_file.STRIP_BYTES = before
    read = cv2.imdecode(np.frombuffer(stream.getvalue(), np.uint8), cv2.IMREAD_UNCHANGED).reshape(height, width, -1)
    order = {1: [0], 2: [0, 3], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
    np.testing.assert_array_equal(read[:, :, order], pixels)


def test_png_is_as_small_as_pillows():
    pixels = np.asarray(Image.fromarray(drawn(3, height=9, width=9)).resize((300, 200), Image.Resampling.BICUBIC))
    ours, theirs = io.BytesIO(), io.BytesIO()
    write_png(ours, DecodedImage(pixels))
    Image.fromarray(pixels).save(theirs, "PNG")
    assert len(ours.getvalue()) < 1.1 * len(theirs.getvalue())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("form", ["png", "jpg", "webp", "tiff"])
def test_what_belongs_to_a_image(tmp_path, form, dtype):
    target = tmp_path / f"a.{form}"
    Saver(95).save(DecodedImage(drawn(3, dtype), SRGB, taken(), (300.0, 200.0)), target, form, False)
    with Image.open(target) as image:
        assert image.info["icc_profile"] == SRGB
        exif = image.getexif()
        assert exif[ExifTags.Base.Make] == "a maker"
        assert exif.get_ifd(ExifTags.IFD.Exif)[36867] == "2020:01:02 03:04:05"
        assert exif.get(ExifTags.Base.Orientation, 1) == 1
        assert kept_exif(image) == taken()
        if form != "webp":  # which has no resolution
            np.testing.assert_allclose([float(value) for value in image.info["dpi"]], (300, 200), rtol=1e-3)
        assert (
            np.abs(
                np.asarray(image.convert("RGB")).astype(int) - as_eight_bits(DecodedImage(drawn(3, dtype))).pixels
            ).max()
            < 40
        )


@pytest.mark.parametrize(("form", "mode"), [("jpg", "L"), ("webp", "RGB"), ("png", "L"), ("tiff", "L")])
def test_gray(tmp_path, form, mode):
    Saver(95).save(DecodedImage(drawn(1)), tmp_path / "a", form, False)
    with Image.open(tmp_path / "a") as image:
        assert image.mode == mode
        assert np.abs(np.asarray(image.convert("L")).astype(int) - drawn(1)[:, :, 0]).max() < 15


def test_sixteen_bits_to_eight_are_rounded():
    levels = np.array([0, 128, 129, 257, 65535, 65406, 65407], np.uint16).reshape(1, -1, 1)
    assert as_eight_bits(DecodedImage(levels)).pixels.ravel().tolist() == [0, 0, 1, 1, 255, 254, 255]


def test_quality(tmp_path):
    for form in ("jpg", "webp"):
        for quality in (20, 95):
            Saver(quality).save(
                DecodedImage(drawn(3, height=200, width=200)), tmp_path / f"{quality}.{form}", form, False
            )
        assert (tmp_path / f"20.{form}").stat().st_size < (tmp_path / f"95.{form}").stat().st_size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((100, 16384, "webp"), "the result of 16384x100 pixels is too large for WebP .16383 a side.: use --format"),
        ((65501, 1, "jpg"), "1x65501 pixels is too large for JPEG"),
        ((2**31, 1, "png"), "is too large for PNG .2147483647 a side.: cut the image"),
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
    pixels = drawn(channels, dtype)
    pixels[:, :, -1] = np.iinfo(dtype).max
    opaque = without_lost_alpha(DecodedImage(pixels, SRGB), "jpg")
    np.testing.assert_array_equal(opaque.pixels, pixels[:, :, :-1])
    assert opaque.icc == SRGB
    pixels[3, 3, -1] -= 1
    with pytest.raises(ImageError, match="its transparency has no place in JPEG: use --format png, webp or tiff"):
        without_lost_alpha(DecodedImage(pixels), "jpg")
    for form in ("png", "webp", "tiff"):
        assert without_lost_alpha(DecodedImage(pixels), form).alpha


def test_formats_of_sources():
    assert [format_of(f"a.{s}", "same") for s in ("JPG", "jpeg", "png", "webp", "tif", "bmp")] == [
        *("jpg", "jpg", "png", "webp", "tiff", "png")
    ]
    assert format_of("a.jpg", "webp") == "webp"


def test_what_is_there_stays(tmp_path):
    target = tmp_path / "a.png"
    target.write_text("mine")
    with pytest.raises(DiskError, match=r"Expected to write something new, but got .*a\.png, which exists"):
        Saver(95).save(DecodedImage(drawn(1)), target, "png", False)
    assert target.read_text() == "mine"
    assert os.listdir(tmp_path) == ["a.png"]
    Saver(95).save(DecodedImage(drawn(1)), target, "png", True)
    assert read_image(target).pixels.shape == (37, 23, 1)


def test_a_link_is_replaced_not_followed(tmp_path):
    (tmp_path / "original.jpg").write_text("mine")
    (tmp_path / "a.png").symlink_to(tmp_path / "original.jpg")
    Saver(95).save(DecodedImage(drawn(1)), tmp_path / "a.png", "png", True)
    assert (tmp_path / "original.jpg").read_text() == "mine"
    assert not (tmp_path / "a.png").is_symlink()


def test_faults_leave_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "write_png", fail)
    with pytest.raises(DiskError, match="Expected room on the disk"):
        Saver(95).save(DecodedImage(drawn(1)), tmp_path / "a.png", "png", False)
    monkeypatch.setattr(saving, "write_png", lambda *_: (_ for _ in ()).throw(ValueError("odd")))
    with pytest.raises(ImageError, match="cannot be written as PNG: odd"):
        Saver(95).save(DecodedImage(drawn(1)), tmp_path / "a.png", "png", False)
    assert os.listdir(tmp_path) == []


def test_stop_while_writing(tmp_path, monkeypatch):
    """What is half-written goes at once, and does not appear when its thread comes to the end."""
    reached, go_on, ended = threading.Event(), threading.Event(), []

    def slow(stream, image, between):
        stream.write(b"half")
        reached.set()
        go_on.wait(10)

    monkeypatch.setattr(saving, "write_png", slow)
    saver = Saver(95)

    def save():
        try:
            saver.save(DecodedImage(drawn(1)), tmp_path / "a.png", "png", False)
        except Stopped:
            ended.append("stopped")

    thread = threading.Thread(target=save)
    thread.start()
    assert reached.wait(10)
    saver.stop()
    go_on.set()
    thread.join(10)
    assert ended == ["stopped"]
    with pytest.raises(Stopped):
        saver.save(DecodedImage(drawn(1)), tmp_path / "b.png", "png", False)
    assert os.listdir(tmp_path) == []


def test_a_png_is_given_up_between_strips(tmp_path, monkeypatch):
    monkeypatch.setattr(png_file, "STRIP_BYTES", 200)
    saver, count = Saver(95), []

    def between():
        count.append(1)
        if len(count) == 3:
            raise Stopped

    for write in (write_png, write_tiff):
        count.clear()
        with pytest.raises(Stopped):
            write(io.BytesIO(), DecodedImage(drawn(3)), between)
    assert saver is not None

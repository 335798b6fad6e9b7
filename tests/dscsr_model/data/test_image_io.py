import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from dscsr_arch.errors import ImageError
from dscsr_model.data.image_io import Header, decode_rgb, in_channels, read_header, read_rgb, upright
from dscsr_model.inference.images import DecodedImage
from dscsr_model.inference.tiff_file import write_tiff

# What a viewer has to do, by the EXIF standard.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@pytest.fixture
def image(photographs):
    return photographs[1]


def save(image, file, **options):
    Image.fromarray(image).save(file, **options)
    return file


@pytest.mark.parametrize("suffix", ["png", "tiff", "tif", "bmp", "webp"])
def test_lossless_kinds(tmp_path, image, suffix):
    file = save(image, tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    np.testing.assert_array_equal(read_rgb(file), image)
    assert read_header(file) == Header(*image.shape[:2], alpha=False, sixteen_bit=False)


def test_jpeg_as_opencv_reads_it(tmp_path, image):
    file = save(image, tmp_path / "a.jpg", quality=95)
    expected = cv2.imread(str(file))[:, :, ::-1].astype(int)
    assert np.abs(read_rgb(file) - expected).max() <= 1  # two builds of libjpeg


def test_gray_palette_and_alpha(tmp_path, image):
    gray = Image.fromarray(image).convert("L")
    gray.save(tmp_path / "gray.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "gray.png"), np.repeat(np.asarray(gray)[..., None], 3, axis=2))
    palette = Image.fromarray(image).quantize(64)
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "palette.png"), np.asarray(palette.convert("RGB")))
    alpha = np.dstack([image, np.full(image.shape[:2], 9, np.uint8)])
    save(alpha, tmp_path / "alpha.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "alpha.png"), image)
    assert read_header(tmp_path / "alpha.png").alpha
    assert not read_header(tmp_path / "gray.png").alpha


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_are_rounded(tmp_path, suffix, channels):
    values = np.random.default_rng(0).integers(0, 65536, (31, 40, channels), dtype=np.uint16)
    file = tmp_path / f"deep.{suffix}"
    assert cv2.imwrite(str(file), values)
    header = read_header(file)
    assert header == Header(31, 40, alpha=channels == 4, sixteen_bit=True, gray=channels == 1)
    expected = np.rint(values[:, :, 2::-1] / 257) if channels > 1 else np.repeat(np.rint(values / 257), 3, axis=2)
    np.testing.assert_array_equal(read_rgb(file), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_exif_rotation(tmp_path, image, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"webp": {"lossless": True}, "jpg": {"quality": 98}}.get(suffix, {})
    file = save(image, tmp_path / f"a.{suffix}", exif=exif, **options)
    upright_image = Image.fromarray(image).transpose(TURNS[orientation]) if orientation > 1 else Image.fromarray(image)
    result = read_rgb(file)
    assert result.shape == (*upright_image.size[::-1], 3)
    assert np.abs(result - np.asarray(upright_image, int)).mean() < (3 if suffix == "jpg" else 1e-9)
    assert read_header(file)[:2] == result.shape[:2]
    assert (result.shape[0] == image.shape[0]) == (orientation < 5)


@pytest.mark.parametrize("place", ["before the pixels", "after the pixels"])
def test_exif_rotation_of_sixteen_bit_png(tmp_path, place):
    values = np.random.default_rng(0).integers(0, 256, (31, 40, 3), dtype=np.uint16) * 257
    exif = Image.Exif()
    exif[0x0112] = 6
    data = bytearray(cv2.imencode(".png", values)[1].tobytes())
    small = io.BytesIO()
    Image.new("RGB", (1, 1)).save(small, "png", exif=exif)
    raw = small.getvalue()
    start = raw.index(b"eXIf") - 4
    chunk = raw[start : start + 12 + int.from_bytes(raw[start : start + 4], "big")]
    at = 33 if place == "before the pixels" else len(data) - 12
    data[at:at] = chunk
    (tmp_path / "a.png").write_bytes(data)
    assert read_header(tmp_path / "a.png")[:2] == (40, 31)
    result = read_rgb(tmp_path / "a.png")
    np.testing.assert_array_equal(result, np.rot90(values[:, :, ::-1] // 257, -1))


def test_header_does_not_decode(tmp_path, image):
    data = save(image, tmp_path / "a.png").read_bytes()
    start = data.index(b"IDAT") + 20
    (tmp_path / "a.png").write_bytes(data[:start] + bytes(1000) + data[start + 1000 :])
    assert read_header(tmp_path / "a.png")[:2] == image.shape[:2]
    with pytest.raises(ImageError, match=r"a\.png: broken"):
        read_rgb(tmp_path / "a.png")


def test_sixteen_bit_tiff_with_exif_rotation(tmp_path):
    tifffile = pytest.importorskip("tifffile", reason="it comes with scikit-image")
    values = np.random.default_rng(0).integers(0, 65536, (31, 40, 3), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tiff", values, photometric="rgb", extratags=[(0x0112, "H", 1, 6, True)])
    assert read_header(tmp_path / "a.tiff") == Header(40, 31, alpha=False, sixteen_bit=True)
    result = read_rgb(tmp_path / "a.tiff").astype(int)
    assert np.abs(result - np.rot90(values / 257, -1)).max() <= 1


def test_sixteen_bit_tiff_with_its_channels_apart(tmp_path, image):
    """OpenCV would read it without complaint, as noise."""
    deep = image.astype(np.uint16) * 257
    with open(tmp_path / "a.tif", "wb") as stream:
        write_tiff(stream, DecodedImage(deep))
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.tif"), image)
    content = (tmp_path / "a.tif").read_bytes()
    together = struct.pack("<HHIH", 284, 3, 1, 1)
    assert content.count(together) == 1
    (tmp_path / "a.tif").write_bytes(content.replace(together, struct.pack("<HHIH", 284, 3, 1, 2)))
    for read in (read_rgb, read_header):
        with pytest.raises(ImageError, match=r"a.tif: 16-bit TIFF with its channels apart.*save it with them together"):
            read(tmp_path / "a.tif")


def test_upright_undoes_every_orientation(image):
    assert upright(image, 0).shape == image.shape
    turned = {orientation: upright(image, orientation) for orientation in range(1, 9)}
    assert len({view.tobytes() for view in turned.values()}) == 8


@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff", "webp"])
def test_truncated(tmp_path, image, suffix):
    file = save(image, tmp_path / f"half.{suffix}")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ImageError, match=rf"half\.{suffix}: "):
        read_rgb(file)


def test_truncated_sixteen_bits(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (64, 64, 3), dtype=np.uint16)
    data = cv2.imencode(".png", values)[1].tobytes()
    (tmp_path / "half.png").write_bytes(data[: len(data) // 2])
    assert read_header(tmp_path / "half.png").sixteen_bit
    with pytest.raises(ImageError, match=r"half\.png: image file is truncated"):
        read_rgb(tmp_path / "half.png")


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
def test_no_image(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    for read in (read_rgb, read_header):
        with pytest.raises(ImageError, match=r"a\.png: no image, or a broken one"):
            read(tmp_path / "a.png")


def test_missing_and_other_depths(tmp_path):
    with pytest.raises(ImageError, match=r"a\.png: .*No such file"):
        read_rgb(tmp_path / "a.png")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(ImageError, match=r"float\.tiff: F pixels of 32 bits, expected 8 or 16 bits"):
        read_rgb(tmp_path / "float.tiff")


def test_result_is_contiguous_and_own(tmp_path, image):
    result = decode_rgb(save(image, tmp_path / "a.png").read_bytes())
    assert result.flags.c_contiguous
    assert result.dtype == np.uint8


def test_gray_keeps_its_levels_and_colours_become_their_luma(photographs):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    colours = in_channels(levels, 3)
    assert (colours == levels).all()
    np.testing.assert_array_equal(in_channels(colours, 1), levels)
    luma = in_channels(photographs[0], 1).astype(int)
    assert np.abs(luma[:, :, 0] - np.asarray(Image.fromarray(photographs[0]).convert("L"))).max() <= 1  # rounding


def test_sixteen_bit_gray_tiff_whose_white_is_zero(tmp_path):
    tifffile = pytest.importorskip("tifffile", reason="it comes with scikit-image")
    values = np.linspace(0, 65535, 31 * 40).astype(np.uint16).reshape(31, 40)
    tifffile.imwrite(tmp_path / "a.tiff", 65535 - values, photometric="miniswhite")
    assert read_header(tmp_path / "a.tiff").gray
    assert np.abs(read_rgb(tmp_path / "a.tiff")[:, :, 0] - values / 257).max() <= 0.5

"""Tiles beside whole images, and images of every kind."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dscsr_arch import SPAN
from dscsr_arch.errors import DscsrError
from dscsr_arch.sizes import SizeRequirements
from dscsr_model.inference import tiles
from dscsr_model.inference.engines import torch_engine
from dscsr_model.inference.receptive_field import ReceptiveField
from dscsr_model.inference.tiles import Upscaler, fill_transparent
from dscsr_model.tiling import Window, split


class FakeEngine:
    """Every pixel becomes four; counts its calls."""

    def __init__(self, scale=2, channels=3, function=lambda y: y, bytes_per_pixel=1.0):
        self.scale, self.channels, self.function = scale, channels, function
        self.receptive_field = ReceptiveField(2, True, bytes_per_pixel)
        self.device = torch.device("cpu")
        self.one_size = False
        self.shapes = []

    def __call__(self, x):
        self.shapes.append(tuple(x.shape))
        assert x.dtype == torch.float32
        assert x.shape[1] == self.channels
        return self.function(nn.functional.interpolate(x, scale_factor=self.scale, mode="nearest"))


def drawn(shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


@pytest.fixture(scope="module")
def span():
    torch.manual_seed(2)
    return torch_engine(SPAN(feature_channels=4, upscale=2), device="cpu")


@pytest.mark.parametrize(
    ("dtype", "options"), [(np.uint8, {}), (np.uint16, {"ensemble": True}), (np.int16, {"stored": True})]
)
def test_tiled_equals_whole(span, dtype, options):
    pixels = drawn((67, 53, 3), np.uint16 if dtype == np.uint16 else np.uint8)
    whole = Upscaler(span, 0, **options)(pixels)
    tiled = Upscaler(span, 19, **options)(pixels)
    assert whole.dtype == dtype
    assert whole.shape == (134, 106, 3)
    assert whole.std() > 10
    # Sums in another order may round a value the other way.
    difference = np.abs(whole.astype(int) - tiled)
    assert difference.max() <= 1
    assert (difference > 0).mean() < (1e-3 if dtype == np.uint8 else 0.05)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("network_channels", [1, 3])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_kind_of_image(channels, network_channels, dtype):
    """An engine that copies pixels gives back every level of every channel."""
    engine = FakeEngine(channels=network_channels)
    pixels = drawn((9, 7, channels), dtype)
    pixels[:, :, -1] |= 1  # no alpha of 0
    result = Upscaler(engine, 4)(pixels)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, pixels.repeat(2, axis=0).repeat(2, axis=1))


def test_levels_are_rounded_and_clamped_and_uniform_alpha_is_no_work():
    engine = FakeEngine(function=lambda y: y * 3 - 1 + 0.3 / 255)
    pixels = np.array([0, 85, 100, 170, 255], np.uint8).reshape(1, 5, 1).repeat(4, axis=2)
    pixels[:, :, 3] = 77
    result = Upscaler(engine, 0)(pixels)
    assert result[0, ::2, 0].tolist() == [0, 0, 45, 255, 255]
    assert (result[:, :, 3] == 77).all()
    assert engine.shapes == [(1, 3, 1, 5)]


def test_hidden_colours_do_not_leak():
    pixels = np.zeros((5, 6, 4), np.uint8)
    pixels[:, :3] = (200, 100, 50, 255)
    pixels[:, 5] = (1, 2, 3, 9)
    before = pixels.copy()
    filled = fill_transparent(pixels)
    np.testing.assert_array_equal(pixels, before)
    assert (filled[:, 3, :3] == (200, 100, 50)).all()
    assert (filled[:, 4, :3] == (1, 2, 3)).all()
    np.testing.assert_array_equal(filled[:, :, 3], before[:, :, 3])
    visible = before[:, :, 3] > 0
    np.testing.assert_array_equal(filled[visible], before[visible])
    everything_hidden = np.zeros((2, 2, 2), np.uint16)
    assert fill_transparent(everything_hidden) is everything_hidden


@given(height=st.integers(1, 60), width=st.integers(1, 60), times=st.integers(1, 70), multiple=st.integers(1, 9))
def test_windows_cover_all_once(height, width, times, multiple):
    seen, side = np.zeros((height, width), int), times * multiple
    for window in split(Window(0, height, 0, width), side, multiple):
        assert 0 < window.bottom - window.top <= side
        assert 0 < window.right - window.left <= side
        assert window.top % multiple == window.left % multiple == 0
        seen[window.top : window.bottom, window.left : window.right] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize(("multiple", "tile", "size"), [(1, 19, (21, 22)), (8, 24, (40, 32))])
def test_tiles_of_one_size_where_that_is_faster(multiple, tile, size):
    """Of several rows and columns of nearly equal tiles, those at the borders see more inwards."""
    engine = FakeEngine()
    engine.one_size = True
    sizes = SizeRequirements(multiple, multiple)
    engine.receptive_field = ReceptiveField(2, True, 1.0, sizes)
    pixels = drawn((67, 53, 3))
    result = Upscaler(engine, tile)(pixels)
    np.testing.assert_array_equal(result, pixels.repeat(2, axis=0).repeat(2, axis=1))
    assert {tuple(map(sizes.fit, shape[2:])) for shape in engine.shapes} == {size}


def test_tiles_by_free_memory(monkeypatch):
    engine = FakeEngine(bytes_per_pixel=1000.0)
    upscaler = Upscaler(engine)
    sides = []
    for free in (0, 10_000_000, 40_000_000, 10**12):
        monkeypatch.setattr(tiles, "free_memory", lambda _, free=free: free)
        sides.append(upscaler.side((5000, 4000, 3)))
    assert sides[0] == tiles.SMALLEST
    assert sides == sorted(sides)
    assert (sides[1] + 4) ** 2 * 1000 < 10_000_000
    assert sides[-1] == tiles.LARGEST["cpu"]
    assert upscaler.side((100, 3000, 3)) == 3000  # not many pixels: whole
    monkeypatch.setattr(tiles, "free_memory", lambda _: 10_000_000)
    assert upscaler.side((5000, 4000, 4)) < upscaler.side((5000, 4000, 3)) == sides[1]  # alpha is a second image
    assert upscaler.side((5000, 4000, 3), spoken_for=9_000_000) < sides[1]
    assert Upscaler(engine, 0).side((5000, 4000, 3)) == 5000
    assert Upscaler(engine, 33).side((5000, 4000, 3)) == 33


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        MemoryError("Unable to allocate 40.6 MiB for an array"),
    ],
)
def test_smaller_tiles_when_memory_ends(error):
    def limited(y):
        if y.shape[-1] * y.shape[-2] > 80 * 80:
            raise error
        return y

    engine = FakeEngine(function=limited)
    upscaler = Upscaler(engine, 64)
    pixels, made = drawn((130, 70, 3)), []
    result = upscaler(pixels, made.append)
    np.testing.assert_array_equal(result, pixels.repeat(2, axis=0).repeat(2, axis=1))
    assert sum(made) == 130 * 70
    failed = sum(shape[2] * shape[3] * 4 > 6400 for shape in engine.shapes)
    assert failed <= 2, "a size that was too large is not tried again and again"


def test_smaller_tiles_when_memory_ends_before_the_network_runs(monkeypatch):
    def limited(array, real=torch.from_numpy):
        if array.size > 3 * 40 * 40:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return real(array)

    monkeypatch.setattr(torch, "from_numpy", limited)
    pixels = drawn((70, 50, 3))
    np.testing.assert_array_equal(Upscaler(FakeEngine(), 64)(pixels), pixels.repeat(2, axis=0).repeat(2, axis=1))


@pytest.mark.parametrize(("multiple", "smallest"), [(1, 16), (12, 12), (48, 48)])
def test_no_memory_at_all(multiple, smallest):
    def never(_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    engine = FakeEngine(function=never)
    engine.receptive_field = engine.receptive_field._replace(sizes=SizeRequirements(multiple, multiple))
    with pytest.raises(DscsrError, match=f"not enough memory even for a tile of {smallest} pixels: CUDA out of memory"):
        Upscaler(engine)(drawn((64, 64, 3)))


def test_a_network_that_fails_on_an_image():
    """Padding by reflection needs more than one pixel; the network says so, not we."""

    def padded(y):
        return torch.nn.functional.pad(y, (8, 8, 8, 8), mode="reflect")[..., 8:-8, 8:-8]

    upscaler = Upscaler(FakeEngine(function=padded))
    assert upscaler(drawn((5, 5, 3))).shape == (10, 10, 3)
    with pytest.raises(DscsrError, match=r"the network fails on this image: .*Padding size should be less than"):
        upscaler(drawn((4, 4, 3)))


def test_other_faults():
    def wrong(_):
        raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        Upscaler(FakeEngine(function=wrong))(drawn((4, 4, 3)))
    with pytest.raises(DscsrError, match="values that are no numbers: use --precision fp32 or bf16"):
        Upscaler(FakeEngine(function=lambda y: y * float("nan")))(drawn((4, 4, 3)))
    with pytest.raises(DscsrError, match="Expected a network for images of 1 or 3 channels, but got one for 4"):
        Upscaler(FakeEngine(channels=4))

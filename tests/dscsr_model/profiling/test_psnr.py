"""PSNR against scikit-image, figures that were published, and folders that do not fit."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from dscsr_arch import SPAN, load_model
from dscsr_arch.errors import DscsrError
from dscsr_model.inference.engines import torch_engine
from dscsr_model.profiling.psnr import evaluate, psnr, read_images, super_resolve


class Repeat:
    """An engine of nearest neighbours."""

    scale, channels, device = 2, 3, torch.device("cpu")

    def __init__(self, offset=0.0):
        self.offset = offset

    def __call__(self, x):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3) + self.offset


def write(folder, **images):
    folder.mkdir()
    for name, image in images.items():
        Image.fromarray(image).save(folder / f"{name}.png")
    return folder


def random_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("border", [0, 3])
def test_psnr_is_that_of_scikit_image(border):
    one, other = random_image(21, 17, 0), random_image(21, 17, 1)
    inside = slice(border, -border or None)
    expected = peak_signal_noise_ratio(one[inside, inside], other[inside, inside], data_range=255)
    assert psnr(one, other, border) == pytest.approx(expected, rel=1e-12)


def test_gray_by_a_gray_network(tmp_path):
    """Its levels are compared, from 0 to 255, for both figures."""
    gray = Repeat()
    gray.channels = 1
    lr = write(tmp_path / "lr", a=np.full((6, 8), 100, np.uint8))
    quality = evaluate(gray, write(tmp_path / "hr", a=np.full((12, 16), 101, np.uint8)), lr)
    assert quality.psnr == quality.psnr_y == pytest.approx(48.1308, abs=1e-4)


def test_the_border_does_not_count():
    one = random_image(12, 12)
    other = one.copy()
    other[:2] = other[-2:] = other[:, :2] = other[:, -2:] = 0
    assert psnr(one, other, 2) == np.inf
    assert psnr(one, other, 1) < 30


def test_mean_over_images_each_counted_alike(tmp_path):
    """One level of difference everywhere is 48.13 dB; two are 42.11 dB, in an image of any size."""
    small, large = np.full((6, 8, 3), 100, np.uint8), np.full((20, 30, 3), 100, np.uint8)
    lr = write(tmp_path / "lr", a=small, b=large)
    hr = write(tmp_path / "hr", a=np.full((12, 16, 3), 101, np.uint8), b=np.full((40, 60, 3), 102, np.uint8))
    quality = evaluate(Repeat(), hr, lr)
    assert quality.psnr == pytest.approx((48.1308 + 42.1102) / 2, abs=1e-4)
    # A difference of gray is 219/255 of it in Y.
    assert quality.psnr_y == pytest.approx(quality.psnr - 20 * np.log10(219 / 255), abs=2e-3)
    assert quality.images == 2


def test_output_is_clamped_and_rounded():
    image = np.array([[[0, 128, 255]]], np.uint8)
    assert super_resolve(Repeat(0.4 / 255), image)[1, 1].tolist() == [0, 128, 255]
    assert super_resolve(Repeat(0.6 / 255), image)[1, 1].tolist() == [1, 129, 255]
    assert super_resolve(Repeat(-3), image)[1, 1].tolist() == [0, 0, 0]


def test_luma_figure_of_released_weights(assets):
    """PSNR-Y on Set5 ×4 of these weights, measured with BasicSR's metric before this was written: 31.7459 dB."""
    engine = torch_engine(load_model(assets / "weights" / "span_ch28_x4_fused.pth"), device="cpu")
    quality = evaluate(engine, assets / "set5" / "HR", assets / "set5" / "LRbicx4")
    assert quality.psnr_y == pytest.approx(31.7459, abs=2e-3)  # theirs rounds Y in another place
    assert 29 < quality.psnr < 31


def test_images_of_a_folder_as_input(tmp_path):
    folder = write(tmp_path / "lr", b=random_image(5, 7), a=random_image(4, 6))
    first, second = read_images(folder)
    assert first.shape == (1, 3, 4, 6)
    assert torch.equal((second[0] * 255).permute(1, 2, 0).round().byte(), torch.from_numpy(random_image(5, 7)))


def test_a_network_of_other_channels_is_refused(tmp_path):
    engine = torch_engine(SPAN(2, 2, 4, rgb_mean=(0.5, 0.5)), device="cpu")
    with pytest.raises(DscsrError, match="Expected a network of RGB or gray images, but it takes 2 channels"):
        evaluate(engine, tmp_path, tmp_path)


def test_sizes_that_do_not_fit_are_told(tmp_path):
    lr, hr = write(tmp_path / "lr", a=random_image(6, 8)), write(tmp_path / "hr", a=random_image(12, 15))
    with pytest.raises(DscsrError, match=r"Expected a.png to become 15×12 pixels .* but a network ×2 makes 16×12"):
        evaluate(Repeat(), hr, lr)


def test_images_of_border_only_are_refused(tmp_path):
    lr, hr = write(tmp_path / "lr", a=random_image(2, 8)), write(tmp_path / "hr", a=random_image(4, 16))
    with pytest.raises(DscsrError, match=r"Expected more pixels than the border of 2, but a\.png has 16×4"):
        evaluate(Repeat(), hr, lr)

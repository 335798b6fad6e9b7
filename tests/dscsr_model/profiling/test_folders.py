"""PSNR of folders: figures that were published, and folders that do not fit."""

import numpy as np
import pytest
import torch
from PIL import Image

from dscsr_arch import SPAN, load_model
from dscsr_arch.errors import DscsrError
from dscsr_model.inference.engines import torch_engine
from dscsr_model.profiling.folders import evaluate_folders, read_images


class Repeat:
    """An engine of nearest neighbours."""

    scale, channels, device = 2, 3, torch.device("cpu")

    def __call__(self, x):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def write(folder, **sizes):
    folder.mkdir()
    for name, size in sizes.items():
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(image).save(folder / f"{name}.png")
    return folder


def test_luma_figure_of_released_weights(assets):
    """PSNR-Y on Set5 ×4 of these weights, measured with BasicSR's metric before this was written: 31.7459 dB."""
    engine = torch_engine(load_model(assets / "weights" / "span_ch28_x4_fused.pth"), device="cpu")
    quality = evaluate_folders(engine, assets / "set5" / "HR", assets / "set5" / "LRbicx4")
    assert quality.psnr_y == pytest.approx(31.7459, abs=1e-3)
    assert 29 < quality.psnr < 31
    assert quality.images == 5


def test_a_gray_network_gets_gray_images(tmp_path):
    gray = Repeat()
    gray.channels = 1
    quality = evaluate_folders(gray, write(tmp_path / "hr", a=(12, 16)), write(tmp_path / "lr", a=(6, 8)))
    assert quality.psnr == quality.psnr_y


def test_images_of_a_folder_come_in_order(tmp_path):
    first, second = read_images(write(tmp_path / "lr", b=(5, 7), a=(4, 6)))
    assert (first.shape, second.shape) == ((1, 3, 4, 6), (1, 3, 5, 7))


def test_a_network_of_other_channels_is_refused(tmp_path):
    engine = torch_engine(SPAN(2, 2, 4, rgb_mean=(0.5, 0.5)), device="cpu")
    with pytest.raises(DscsrError, match="Expected a network of RGB or gray images, but got one that takes 2 channels"):
        evaluate_folders(engine, tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("hr", "lr", "message"),
    [
        ((12, 15), (6, 8), r"Expected a.png to become 15×12 pixels .* but got 16×12 of a network ×2"),
        ((4, 16), (2, 8), r"Expected more pixels than the border of 2, but got 16×4 in a\.png"),
    ],
)
def test_sizes_that_do_not_fit_are_told(tmp_path, hr, lr, message):
    with pytest.raises(DscsrError, match=message):
        evaluate_folders(Repeat(), write(tmp_path / "hr", a=hr), write(tmp_path / "lr", a=lr))

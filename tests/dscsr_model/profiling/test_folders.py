"""PSNR of folders: figures that were published, and folders that do not fit."""

import numpy as np
import pytest
import torch
from PIL import Image

from dscsr_arch import SPAN, load_model
from dscsr_arch.errors import DscsrError
from dscsr_model.inference.engines import torch_engine
from dscsr_model.profiling.folders import evaluate_folders, find_pairs, quality_of, read_images


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


@pytest.mark.parametrize(
    ("name", "psnr_y"),
    [
        ("span_ch26_x4_fused", 31.7389),
        ("span_ch28_x4_fused", 31.7459),
        ("dscf_ch26_x4_fused", 31.7467),
        ("spanf_ch32_x4_fused", 31.7736),
        ("pds_ch32_x4_fused", 31.7603),
        ("spanv2_ch32_x4_fused", 31.7702),
    ],
)
def test_released_weights_reach_their_psnr_on_set5(assets, name, psnr_y):
    """×4, in luma; measured with BasicSR's metric before this was written."""
    engine = torch_engine(load_model(assets / "weights" / f"{name}.pth"), device="cpu")
    quality = evaluate_folders(engine, assets / "set5" / "HR", assets / "set5" / "LRbicx4")
    assert quality.psnr_y == pytest.approx(psnr_y, abs=5e-4)
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


def test_the_protocol(tmp_path):
    """Against scikit-image, on images that were cut and rounded by hand; one has a size that 4 does not divide."""
    metrics = pytest.importorskip("skimage.metrics", reason="an independent PSNR")
    hr = write(tmp_path / "hr", **{"0801": (48, 60), "0802": (67, 46)})
    pairs = find_pairs(hr, write(tmp_path / "lr", **{"0801x4": (12, 15), "0802": (16, 11)}), 4)
    assert [(hr.name, lr.name) for hr, lr in pairs] == [("0801.png", "0801x4.png"), ("0802.png", "0802.png")]
    expected = []
    for files in pairs:
        hr, lr = (np.asarray(Image.open(path)) for path in files)
        hr = hr[: len(hr) // 4 * 4, : hr.shape[1] // 4 * 4]
        sr = np.kron(lr / 255, np.ones((4, 4, 1))) * 1.5 - 0.1  # partly outside of [0, 1]
        sr = np.round(np.clip(sr.astype(np.float32), 0, 1) * np.float32(255)).astype(np.uint8)
        expected.append(metrics.peak_signal_noise_ratio(hr[4:-4, 4:-4], sr[4:-4, 4:-4], data_range=255))

    def enlarge(x):
        return x.repeat_interleave(4, -1).repeat_interleave(4, -2) * 1.5 - 0.1

    assert quality_of(enlarge, pairs, 4, lambda items, *_: items).psnr == pytest.approx(np.mean(expected), abs=1e-3)


def test_all_faults_are_told_before_any_work(tmp_path):
    hr = write(tmp_path / "hr", a=(12, 16), b=(12, 15), c=(4, 16), d=(12, 16))
    lr = write(tmp_path / "lr", a=(6, 8), b=(6, 8), c=(2, 8), d=(6, 8))  # of c, nothing is within the border
    (lr / "d.png").write_bytes(b"no image")
    faults = r"b\.png: 6x8 to b\.png of 12x15, c\.png: 2x8 to c\.png of 4x16, \S+d\.png: .*"
    with pytest.raises(DscsrError, match=rf"1/2 of the size.*, but got {faults} Give folders of scale 2, such as"):
        evaluate_folders(Repeat(), hr, lr)

"""The challenge's PSNR."""

import numpy as np
import pytest
import torch
from PIL import Image

from dscsr_arch.errors import DscsrError
from dscsr_model.export.ntire.psnr import find_pairs, quality_of


def image(height, width):
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def folders(tmp_path):
    """Two images, one of a size that 4 does not divide, and their LR images, by the challenge's names and plainly."""
    hr, lr = tmp_path / "HR", tmp_path / "LR"
    hr.mkdir()
    lr.mkdir()
    for name, lr_name, (height, width) in (("0801", "0801x4", (48, 60)), ("0802", "0802", (67, 46))):
        Image.fromarray(image(height, width)).save(hr / f"{name}.png")
        Image.fromarray(image(height // 4, width // 4)).save(lr / f"{lr_name}.png")
    return hr, lr


class Enlarge(torch.nn.Module):
    def forward(self, x):
        return x.repeat_interleave(4, -1).repeat_interleave(4, -2) * 1.5 - 0.1  # partly outside of [0, 1]


def test_follows_the_protocol(folders):
    """Against scikit-image, on images that were cut and rounded by hand."""
    metrics = pytest.importorskip("skimage.metrics", reason="an independent PSNR")
    pairs = find_pairs(*folders)
    assert [(hr.name, lr.name) for hr, lr in pairs] == [("0801.png", "0801x4.png"), ("0802.png", "0802.png")]
    expected = []
    for files in pairs:
        hr, lr = (np.asarray(Image.open(path)) for path in files)
        hr = hr[: len(hr) // 4 * 4, : hr.shape[1] // 4 * 4]
        sr = np.kron(lr / 255, np.ones((4, 4, 1))) * 1.5 - 0.1
        sr = np.round(np.clip(sr.astype(np.float32), 0, 1) * np.float32(255)).astype(np.uint8)
        expected.append(metrics.peak_signal_noise_ratio(hr[4:-4, 4:-4], sr[4:-4, 4:-4], data_range=255))
    assert quality_of(Enlarge(), pairs, lambda items, *_: items).psnr == pytest.approx(np.mean(expected), abs=1e-3)


def test_all_faults_are_told_before_any_work(folders):
    hr, lr = folders
    Image.fromarray(image(33, 23)).save(lr / "0802.png")  # of scale 2
    (hr / "0803.png").write_bytes(b"no image")
    (lr / "0803x4.png").write_bytes(b"no image")
    fault = "0802.png: 33x23 to 0802.png of 67x46"
    with pytest.raises(DscsrError, match=rf"of a quarter of the size.*{fault}, .*0803.png.*Give --data HR LR"):
        find_pairs(hr, lr)
    with pytest.raises(DscsrError, match=r"0801\.png: 48x60 to 0801x4\.png of 12x15"):
        find_pairs(lr, hr)

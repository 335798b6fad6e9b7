"""datasets/bsds400.py: what is trained on and what is held out never meet."""

import runpy
from pathlib import Path

import cv2
import numpy as np

from dscsr_model.data.bicubic import downscale

SCRIPT = Path(__file__).resolve().parents[2] / "datasets" / "bsds400.py"


def run(assets: Path, *more: str) -> int:
    """Its exit code; it works in the working directory."""
    return int(runpy.run_path(str(SCRIPT))["main"]([str(assets), *more]))


def make_assets(folder: Path, photographs: int) -> Path:
    random = np.random.default_rng(0)
    for name in ("bsds400", "set5/HR", "set5/LRbicx4", "weights"):
        (folder / name).mkdir(parents=True)
    for number in range(photographs):
        image = random.integers(0, 256, (49, 66, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"bsds400/{number:03d}.jpg"), image)
    cv2.imwrite(str(folder / "set5/HR/a.png"), image)
    cv2.imwrite(str(folder / "set5/LRbicx4/a.png"), image[::4, ::4])
    (folder / "weights/net.pth").write_bytes(b"weights")
    (folder / "weights").chmod(0o555)
    return folder


def test_every_tenth_photograph_is_held_out(tmp_path, monkeypatch, without_workers):
    monkeypatch.chdir(tmp_path)
    assert run(make_assets(tmp_path / "assets", 20)) == 0
    data = tmp_path / "datasets/bsds400"
    assert sorted(path.stem for path in (data / "held_out/GT").iterdir()) == ["009", "019"]
    gt, lq = (cv2.imread(str(data / f"held_out/{side}/009.png")) for side in ("GT", "LQ"))
    assert gt.shape == (48, 64, 3)
    assert np.array_equal(lq, downscale(gt, 4))

    few = [path.stem for path in (data / "few/LQ").iterdir()]

    keys = [line.split(".")[0] for line in (data / "GT.lmdb/meta_info.txt").read_text().splitlines()]
    stems = {f"{number:03d}" for number in range(20)} - {"009", "019"}
    assert set(keys) == stems | {f"{stem}_half" for stem in stems}
    assert sorted(few) == ["000", "010"]
    assert (tmp_path / "datasets/weights/net.pth").read_bytes() == b"weights"
    assert (tmp_path / "datasets/Set5/LRbicx4/a.png").is_file()


def test_other_scales_of_shipped_networks(tmp_path, monkeypatch, without_workers):
    monkeypatch.chdir(tmp_path)
    assert run(make_assets(tmp_path / "assets", 10), "--shipped") == 0
    names = list((tmp_path / "datasets/bsds400/photographs").iterdir())
    for scale in (2, 3):
        meta = tmp_path / f"datasets/bsds400_x{scale}/LQ_X{scale}.lmdb/meta_info.txt"
        assert len(meta.read_text().splitlines()) == len(names)
        hr, lr = (cv2.imread(str(tmp_path / f"datasets/Set5/{side}x{scale}/a.png")) for side in ("HR", "LRbic"))
        assert np.array_equal(lr, downscale(hr, scale))


def test_a_folder_without_photographs_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "assets").mkdir()
    assert run(tmp_path / "assets") == 1
    assert "Expected at least 10 photographs in" in capsys.readouterr().err
    assert not (tmp_path / "datasets").exists()

import shutil
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest

from dscsr_model.data.prepare import no_progress
from dscsr_model.data.verify import verify

pytestmark = pytest.mark.usefixtures("without_workers")


def run(folder, scale=None):
    return verify(Path(folder), scale, 1, no_progress)


@pytest.fixture
def data(make_pair, tmp_path):
    make_pair("png")
    return tmp_path / "data"


def change(path, key, value):
    """Replace an entry, or remove it."""
    environment = lmdb.open(str(path), map_size=2**26, sync=False)
    with environment.begin(write=True) as transaction:
        if value is None:
            assert transaction.delete(key.encode())
        else:
            transaction.put(key.encode(), value)
    environment.close()


def test_lmdbs_of_basicsr(tmp_path, photographs):
    lmdb_util = pytest.importorskip("basicsr.utils.lmdb_util")
    keys = [f"photo{number}" for number in range(5)]
    for folder, name in (("hr", "DIV2K_train_HR_sub.lmdb"), ("lr", "DIV2K_train_LR_bicubic_X2_sub.lmdb")):
        (tmp_path / folder).mkdir()
        for key, image in zip(keys, photographs, strict=True):
            image = image[:160, :208] if folder == "hr" else cv2.cvtColor(image[:160:2, :208:2], cv2.COLOR_RGB2GRAY)
            cv2.imwrite(str(tmp_path / folder / f"{key}.png"), image)
        files = sorted(path.name for path in (tmp_path / folder).iterdir())
        target = tmp_path / "theirs" / name
        target.parent.mkdir(exist_ok=True)
        lmdb_util.make_lmdb_from_imgs(str(tmp_path / folder), str(target), files, keys, map_size=2**30)
    report = run(tmp_path / "theirs")
    assert report.faults == []
    assert "DIV2K_train_HR_sub.lmdb with DIV2K_train_LR_bicubic_X2_sub.lmdb: 5 pairs x2" in report.lines


def test_every_fault_at_once(data):
    gt, lq = data / "GT.lmdb", data / "LQ_X4.lmdb"
    value = cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (36, 48, 3), dtype=np.uint8))[1].tobytes()
    change(gt, "photo0", None)
    change(gt, "photo1", value[: len(value) // 2])
    change(gt, "photo2", value)
    change(lq, "unlisted", value)
    meta = lq / "meta_info.txt"
    meta.write_text(meta.read_text().replace("photo3.png", "photo9.png").replace("photo4.png (", "photo4.png (1"))
    change(lq, "photo9", value)
    faults = "\n".join(run(data).faults)
    assert "GT.lmdb: listed in meta_info.txt, but not in data.mdb: 1, photo0" in faults
    assert "GT.lmdb: `photo1` does not decode" in faults
    assert "GT.lmdb: `photo2` is (36, 48, 3), but listed as" in faults
    assert "LQ_X4.lmdb: in data.mdb, but not listed in meta_info.txt: 2, photo3, unlisted" in faults
    assert "LQ_X4.lmdb: without a GT in GT.lmdb: 2, photo0, photo9" in faults
    assert "LQ_X4.lmdb: missing, though in GT.lmdb: 1, photo3" in faults
    assert "LQ_X4.lmdb: `photo9` is (36, 48, 3), but listed as" in faults
    assert "LQ_X4.lmdb: `photo4` is (1" in faults
    assert "which is not x4" in faults
    assert run(data).lines[-1] == "Prepare again what is at fault."


def test_scale(data, tmp_path):
    assert run(data, 4).faults == []
    assert len(run(data, 2).faults) == 5
    (data / "LQ_X4.lmdb").rename(data / "LQ_X2.lmdb")
    assert "LQ_X2.lmdb: `photo0` is" in run(data).faults[0]
    (data / "LQ_X2.lmdb").rename(data / "small.lmdb")
    assert "GT.lmdb with small.lmdb: 5 pairs x4" in run(data).lines


def test_unreadable_lists(data):
    (data / "GT.lmdb" / "meta_info.txt").write_text("nonsense")
    (data / "LQ_X4.lmdb" / "meta_info.txt").unlink()
    faults = run(data).faults
    assert "but got 'nonsense' in line 1" in faults[0]
    assert "Expected an LMDB with data.mdb and meta_info.txt" in faults[1]


def test_one_lmdb_alone_and_leftovers(data):
    assert run(data / "GT.lmdb").faults == []
    (data / ".GT.lmdb.tmp").mkdir()
    assert "left by an interrupted `dscsr prepare`" in run(data).lines[0]
    shutil.rmtree(data / "LQ_X4.lmdb")
    assert run(data).faults == []

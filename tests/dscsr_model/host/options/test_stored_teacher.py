"""Stored outputs of a teacher: what is not theirs is found before training, with one clear message."""

import json
import shutil
from pathlib import Path

import option_files
import pytest
from option_files import REMOVED

from dscsr_model.data.teacher_store import RECORD, Source
from dscsr_model.weights import sha256

ROOT = "datasets: train: dataroot_teacher"
KEY = ROOT.replace(": ", ":")
ALONE = {"teacher": REMOVED, "train:affinity_opt": REMOVED}


@pytest.fixture
def stored(data, tmp_path):
    """Options with what the teacher of ``data`` has said, changed at will."""

    def options(pair="GT LQ", **changes):
        gt, lq = (str(data / f"{name}.lmdb") for name in pair.split())
        source = Source(file="teacher.pth", sha256=sha256(data / "teacher.pth"), network="SPAN")
        path = option_files.store_teacher(Path(lq), tmp_path / "stored", 4, [source])
        if changes:
            record = json.loads((path / RECORD).read_text())
            (path / RECORD).write_text(json.dumps({**record, **changes}))
        return {
            "datasets:train:type": "PairedCropDataset", KEY: str(path), "datasets:train:dataroot_gt": gt,
            "datasets:train:dataroot_lq": lq, "datasets:train:io_backend": {"type": "lmdb"},
        }  # fmt: skip

    return options


def test_they_do_without_a_teacher_or_beside_the_same_one(stored, check_all):
    check_all({**stored(), **ALONE}, {}, "DistillationModel")
    check_all(stored(), {}, "DistillationModel")  # which is needed, as there is a loss on layers
    check_all({**stored(), "teacher:self_ensemble": True}, {}, "DistillationModel")


BAD = [
    ({"teacher": REMOVED}, {}, "teacher", "`affinity_opt` compares with it, layers of which are not stored. Add it"),
    ({"teacher:weights": "@base.pth"}, {}, "teacher: weights", "whose outputs are in `dataroot_teacher`, SPAN (teach"),
    ({"teacher:border": 2}, {}, "teacher: border", "Expected none, as stored outputs are those of whole images"),
    ({"teacher:self_ensemble": False}, {}, "teacher: self_ensemble", "Expected true, as the outputs in"),
    ({"train:teacher_opt:target": "gt"}, {}, ROOT, "Expected a loss that compares with these outputs, but got none"),
    ({KEY: "nowhere.lmdb"}, {}, ROOT, "nowhere.lmdb: Expected outputs of a teacher, with a file teacher.json, but got"),
    ({KEY: "@GT.lmdb"}, {}, ROOT, "GT.lmdb: Expected outputs of a teacher, with a file teacher.json, but got none."),
    ({}, {"scale": 2}, ROOT, "Expected outputs of scale 4 and 3 channels, but got some of scale 2 and 3"),
    ({}, {"channels": 1}, ROOT, "but got some of scale 4 and 1"),
    ({}, {"teachers": 3}, ROOT, "but got one that cannot be read"),
    ({}, {"lq": "0"}, ROOT, "Expected outputs that were made of the LQ images of `dataroot_lq`, but got outputs for"),
    ({"datasets:train:dataroot_gt": "@GT_raw.lmdb", "datasets:train:dataroot_lq": "@LQ_raw.lmdb"}, {}, ROOT,
     "Expected outputs for the images of `dataroot_gt`, but got others: 9 keys in one of them only, such as `0000"),
    ({"datasets:train:dataroot_gt": "@gt", "datasets:train:dataroot_lq": "@lq",
      "datasets:train:io_backend": {"type": "disk"}}, {}, ROOT, "LMDBs beside `dataroot_teacher`, but got folders."),
    ({"datasets:train:noise": 25}, {}, ROOT, "Expected no `noise` beside `dataroot_teacher`, but got noise that each"),
    ({"datasets:val:type": "PairedCropDataset", "datasets:val:dataroot_teacher": "x"}, {},
     "datasets: val: dataroot_teacher", "Expected stored outputs in `train` alone"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "record", "key", "text"), BAD)
def test_each_fault_is_found_with_one_message(stored, check_all, data, changes, record, key, text):
    changes = {name: str(data / value[1:]) if str(value).startswith("@") else value for name, value in changes.items()}
    check_all({**stored(**record), **changes}, {key: text}, "DistillationModel")


def test_csd_is_drawn_to_them(stored, check_all):
    kept = {"train:teacher_opt": REMOVED, **stored()}
    check_all(kept, {}, "CSDModel")
    alone = {**kept, "train:contrastive_opt": REMOVED}
    check_all(alone, {ROOT: "Expected a loss that compares with these outputs"}, "CSDModel")


def test_other_sizes_types_and_models_that_do_not_read_them(stored, check, check_all, tmp_path):
    options = stored()
    check_all({**options, "model_type": "EfficientSRModel"}, {ROOT: "that takes stored outputs (`CSDModel`, `DSC"})
    of_bytes = shutil.copytree(tmp_path / "stored/TEACHER_X4.lmdb", tmp_path / "of_bytes.lmdb")
    shutil.copy(f"{options['datasets:train:dataroot_gt']}/data.mdb", of_bytes)
    found = check({**options, **ALONE, KEY: str(of_bytes)}, "DistillationModel")[ROOT]
    assert "Expected `0000_s001` of 13824 bytes, 16 bits for each value, but got" in found
    file = tmp_path / "stored/TEACHER_X4.lmdb/meta_info.txt"
    file.write_text(file.read_text().replace("(48,48,3)", "(44,48,3)"))
    found = check({**options, **ALONE}, "DistillationModel")[ROOT]
    assert "Expected outputs of the sizes of GT, [48, 48] of `0000_s001`, but got [44, 48]." in found

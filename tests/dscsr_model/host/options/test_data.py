"""Datasets, GPUs and batches: what is missing or does not fit together is found before training starts."""

import shutil
from pathlib import Path
from typing import Any

import option_files
import pytest
from option_files import REMOVED
from small_models import SWINIR

from dscsr_arch.foreign import find_backbone

GT, LQ = "datasets: train: dataroot_gt", "datasets: train: dataroot_lq"
VAL_GT, VAL_LQ = "datasets: val: dataroot_gt", "datasets: val: dataroot_lq"
BATCH, RATIO = "datasets:train:batch_size_per_gpu", "datasets:train:dataset_enlarge_ratio"
PATCH, CROPS = "datasets:train:gt_size", {"datasets:train:type": "PairedCropDataset"}


@pytest.fixture
def own(tmp_path) -> Path:
    """Data that a test may change."""
    return option_files.make_data(tmp_path / "own")


def key_of(name: str) -> str:
    return name.replace(":", ": ")


# --- what is there ---


def test_what_is_not_there(check_all, data, monkeypatch):
    monkeypatch.setenv("HOME", str(data))
    check_all({"datasets:val:dataroot_gt": "~/gt"}, {})
    changes = {
        "datasets:train:dataroot_gt": ("no/GT.lmdb", f"which does not exist. Prepare it as datasets/README.md says, or "
                                       f"correct the path (taken from {Path.cwd()})"),
        "datasets:train:dataroot_lq": (str(data / "gt"), "ends in .lmdb (io_backend is lmdb), but got"),
        "datasets:val:dataroot_lq": (str(data / "lq" / "baby.png"), "which is a file"),
    }  # fmt: skip
    found = {key_of(key): text for key, (_, text) in changes.items()}
    check_all({key: value for key, (value, _) in changes.items()}, found)
    slash = {"datasets:train:dataroot_gt": f"{data}/GT.lmdb/", "datasets:train:dataroot_lq": f"{data}/LQ.lmdb/"}
    check_all(slash, dict.fromkeys((GT, LQ), "Remove the slash at its end"))
    disk = {"datasets:train:io_backend": {"type": "disk"}}
    check_all(disk, dict.fromkeys((GT, LQ), "This is an LMDB: set `io_backend: {type: lmdb}`"))


def test_sets_that_are_missing_are_left_out_when_asked(check_all, data, tmp_path):
    gone = {"datasets:test_2": option_files.paired("gone", tmp_path / "nowhere")}
    keys = [f"datasets: test_2: dataroot_{kind}" for kind in ("gt", "lq")]
    check_all(gone, dict.fromkeys(keys, "which does not exist"), is_train=False)
    check_all(gone, {}, is_train=False, skip_missing=True)
    check_all({**gone, "datasets:test_1": REMOVED}, dict.fromkeys(keys, ""), is_train=False, skip_missing=True)


def _listed(kind: str, old: str, new: str):
    """A change of the list of an LMDB."""

    def change(own: Path) -> None:
        meta = own / f"{kind}.lmdb" / "meta_info.txt"
        meta.write_text(meta.read_text().replace(old, new, 1) if old else new)

    return change


def _lmdb(kind: str, names: list[str], size: tuple[int, int], **how: Any):
    """Another LMDB in its place."""

    def change(own: Path) -> None:
        shutil.rmtree(own / f"{kind}.lmdb")
        option_files.write_lmdb(own / f"{kind}.lmdb", names, size, **how)

    return change


def _cut(own: Path) -> None:
    file = own / "GT.lmdb/data.mdb"
    file.write_bytes(file.read_bytes()[:-5000])


def _rename(own: Path) -> None:
    for file in (own / "lq").iterdir():
        file.rename(file.with_name(f"{file.stem}x4.png"))


def _nest(own: Path) -> None:
    for name in ("baby.png", "bird.png", "head.png"):
        (own / "gt" / name).unlink()
    (own / "gt/HR").mkdir()


def _images(folder: str, names: list[str], size: tuple[int, int]):
    return lambda own: option_files.write_images(own / folder, names, size)


KEYS = [f"{i:04d}_s001" for i in range(6)]
SET = ["baby.png", "bird.png", "head.png"]
TWICE = "a.1.png (48,48,3) 1\na.2.png (48,48,3) 1\n"
GONE = "0000_s001.png (12,12,3) 1\n"
DAMAGES: list[tuple[Any, str, str]] = [
    (lambda own: (own / "LQ.lmdb/data.mdb").unlink(), LQ, "data.mdb and meta_info.txt"),
    (_listed("GT", "", "0001 48 48\n"), GT, "'0001 48 48' in line 1"),
    (_listed("GT", "", TWICE), GT, "`a` for the second time"),
    (_listed("LQ", GONE, f"{GONE}gone.png (12,12,3) 1\n"), LQ, "1 of 7 that are not (`gone`)"),
    (_lmdb("GT", KEYS, (48, 48), encoded=False), GT, "encoded images (PNG or JPEG)"),
    (_cut, GT, "truncated"),
    (lambda own: (own / "GT.lmdb/data.mdb").write_bytes(b"no database" * 1000), GT, "an LMDB that opens"),
    (_lmdb("LQ", ["0000_s001", "other"], (12, 12)), LQ, "5 only in GT (`0001_s001`, `0002_s001`, `0003_s001` and 2 "
     "more) and 1 only in LQ (`other`). Build both with one run of `dscsr prepare`; `dscsr prepare --verify`"),
    (_rename, VAL_LQ, "no `baby.png`, `bird.png`, `head.png` in"),
    (_images("lq", ["more.png"], (24, 20)), VAL_LQ, "as many LQ images as GT images (3), but got 4, among them"),
    (lambda own: (own / "gt/notes.txt").write_text("x"), VAL_GT, "only images (BasicSR opens every file"),
    (_nest, VAL_GT, "itself, only folders (`HR`)"),
    (lambda own: (own / "gt/baby.png").write_bytes(b"no image"), VAL_GT, "baby.png"),
    (_listed("LQ", "(12,12,3)", "(12,11,3)"), LQ, "1 of 6 pairs that are not, for example `0000_s001`, GT 48×48"),
    (_images("lq", SET, (32, 26)), VAL_LQ, "GT 4 times as large as LQ (`scale: 4`), but got images that are 3 times"),
    (_lmdb("GT", KEYS, (49, 48)), LQ, "6 of 6 pairs that are not"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "key", "text"), DAMAGES)
def test_data_that_cannot_be_used(check_all, own, damage, key, text):
    damage(own)
    check_all({}, {key: text}, data=own)


def test_names_of_lq(check_all, own):
    _rename(own)
    check_all({"datasets:val:filename_tmpl": "{}x4"}, {}, data=own)
    check_all({}, {VAL_LQ: "set `filename_tmpl` to '{}x4'"}, data=own)
    meta, key = own / "meta.txt", "datasets: val: meta_info_file"
    changes = {"datasets:val:meta_info_file": str(meta), "datasets:val:filename_tmpl": "{}x4"}
    check_all(changes, {key: "which does not exist"}, data=own)
    meta.write_text("baby.png (96,80,3)\nghost.png (96,80,3)\n")
    check_all(changes, {key: "ghost.png"}, data=own)
    meta.write_text("baby.png (96,80,3)\n")
    check_all(changes, {}, data=own)


def test_validation_may_crop_the_ground_truth(check_all, own):
    option_files.write_images(own / "gt", ["baby.png"], (24 * 4 + 3, 20 * 4 + 2))
    check_all({}, {}, data=own)


# --- what fits together ---

COLOR = {f"datasets:{name}:color": "y" for name in ("train", "val")}
LUMA = {"type": "MSRResNet", "num_in_ch": 1, "num_out_ch": 1, "num_feat": 8, "num_block": 1, "upscale": 4}


@pytest.mark.parametrize(
    ("changes", "key", "text"),
    [
        ({"scale": 2, "network_g:upscale": 2, "datasets:val": REMOVED, "val": REMOVED}, LQ,
         "GT 2 times as large as LQ (`scale: 2`), but got images that are 4 times as large, for example"),
        ({"datasets:train:dataroot_gt": "@LQ.lmdb", "datasets:train:dataroot_lq": "@GT.lmdb"}, GT,
         "GT that is smaller, for example `0000_s001`, GT 12×12 and LQ 48×48. Exchange `dataroot_gt` and"),
        ({"network_g:upscale": 2}, "network_g: upscale", "Expected 4, as `scale: 4` at the top says, but got 2"),
        ({"network_g": {"type": "SwinIR", "window_size": 8, "upsampler": "pixelshuffle"}}, "network_g: upscale",
         "got 2, its default"),
        ({PATCH: 30}, "datasets: train: gt_size", "a multiple of the scale, 4, but got 30. Write 28 or 32."),
        ({PATCH: 52}, "datasets: train: gt_size", "at most 48, the smallest side of the GT images, but got 52. 6 of 6"),
        ({BATCH: 7}, key_of(BATCH), "at most 6 (images of an epoch), but got 7 of 6 images: no whole batch"),
        ({BATCH: 10**400}, key_of(BATCH), "at most 6"),
        ({RATIO: 10**12}, key_of(RATIO), "fits into memory, at most"),
        ({RATIO: 1e308}, key_of(RATIO), "fits into memory, at most"),
        ({"datasets:train:persistent_workers": True}, "datasets: train: persistent_workers", "`num_worker_per_gpu: 0`"),
        ({"datasets:train:persistent_workers": True, "datasets:train:prefetch_mode": "cpu",
          "datasets:train:num_worker_per_gpu": 1}, "datasets: train: persistent_workers", "wait for the same workers"),
        ({"datasets:val:persistent_workers": True}, "datasets: val: persistent_workers", "validates without"),
        ({"val:metrics:psnr:crop_border": 500}, "val: metrics: psnr: crop_border", "leaves something of every image"),
        ({"network_g:num_in_ch": 1}, "network_g: num_in_ch", "Expected 3, the channels of the datasets' images"),
        ({"network_g": {"type": "SPANF", "num_in_ch": 1}}, "network_g: num_in_ch", "Expected 3, the channels"),
        ({**COLOR, "network_g": {**LUMA, "num_in_ch": 3}}, "network_g: num_in_ch", "Expected 1, the channels"),
        ({"network_g": {**SWINIR, "upscale": 4, "in_chans": 1}}, "network_g: in_chans", "Expected 3, the channels"),
    ],
)  # fmt: skip
def test_what_does_not_fit(check_all, changes, key, text):
    check_all(changes, {key: text})


def test_what_fits(check_all):
    check_all({BATCH: 7, RATIO: 2}, {})
    check_all({**COLOR, "network_g": LUMA}, {})


def test_an_lmdb_is_opened_once_only(check_all, data):
    roots = {"dataroot_gt": str(data / "GT.lmdb"), "dataroot_lq": str(data / "LQ.lmdb")}
    val = {"name": "v", "type": "PairedImageDataset", **roots, "io_backend": {"type": "lmdb"}}
    used = {VAL_GT: f"`{GT}` opens already", VAL_LQ: f"`{LQ}` opens already. py-lmdb"}
    check_all({"datasets:val": val}, used)


def test_a_file_where_the_results_go(check):
    Path("experiments").write_text("")
    assert "a file `experiments`" in check({})["name"]


def test_gpus_and_processes(check_all, monkeypatch):
    def machine(gpus: int) -> None:
        # Not torch's own functions: a CUDA build's optimizers, which the check tries, would go and use that GPU.
        monkeypatch.setattr("dscsr_model.host.options.data._gpus", lambda: gpus)

    prefetch = {"datasets:train:prefetch_mode": "cuda", "datasets:train:pin_memory": True}
    unpinned, pin = {**prefetch, "datasets:train:pin_memory": False}, "datasets: train: pin_memory"
    machine(0)
    check_all({"num_gpu": 1}, {"num_gpu": "sees no usable GPU here. Set `num_gpu: auto`, or 0 for the CPU"})
    check_all(prefetch, {"datasets: train: prefetch_mode": "no usable GPU"})
    machine(1)
    check_all({"num_gpu": 2}, {"num_gpu": "at most 1"})
    check_all({"num_gpu": 2}, {}, launcher="pytorch")
    check_all({**prefetch, "num_gpu": 1}, {})
    check_all(unpinned, {pin: "Set `pin_memory: true`"})
    machine(4)
    check_all({"num_gpu": "auto"}, {key_of(BATCH): "at most 1 (images of an epoch, per GPU), but got 2 × 4 GPUs of 6"})
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_all({BATCH: 4}, {})
    shared = "at most 3 (images of an epoch for each of 2 processes), but got 4 of 6 images: no whole batch in an epoch"
    check_all({BATCH: 4}, {key_of(BATCH): shared}, launcher="pytorch")


def test_channels_of_a_gray_network(check_all, own):
    """LMDBs of one channel are gray by themselves; folders when told; of BasicSR's datasets only `y` has one."""
    gray = {"type": "SPAN", "num_in_ch": 1, "num_out_ch": 1, "feature_channels": 6, "upscale": 4}
    for name in ("GT.lmdb", "LQ.lmdb"):
        meta = own / name / "meta_info.txt"
        meta.write_text(meta.read_text().replace(",3)", ",1)"))
    crops = {"network_g": gray, **CROPS}
    check_all(crops, {"datasets: val": "images of 1 channel, as the network's `num_in_ch` says, but got 3."}, data=own)
    crops["datasets:val:type"] = "PairedCropDataset"
    check_all(crops, {"datasets: val": "Set `color: gray`"}, data=own)
    crops["datasets:val:color"] = "gray"
    check_all(crops, {}, data=own)
    lone = {"name": "lone", "type": "SingleImageDataset", "dataroot_lq": str(own / "lq")}
    changes = {"datasets:val_2": {**lone, "io_backend": {"type": "disk"}}, "val:metrics": None}
    check_all({**crops, **changes}, {"datasets: val_2": "`dscsr upscale`"}, data=own)
    check_all({**crops, "datasets:val:color": "y"}, {"datasets: val: color": "one of `rgb`, `gray`"}, data=own)
    check_all({**crops, "network_g:num_in_ch": 3}, {"network_g: num_in_ch": "Expected 1, the channels"}, data=own)


@pytest.fixture
def their_windows(monkeypatch):
    registry = pytest.importorskip("basicsr.utils.registry").ARCH_REGISTRY
    monkeypatch.setitem(registry._obj_map, "Another", find_backbone("SwinIR"))


@pytest.mark.parametrize("kind", ["SwinIR", "Another"])
def test_networks_with_windows(check_all, their_windows, kind):
    """Patches must fit before anything starts, also with a network of somebody else's, such as HAT."""
    network = {"network_g": {**SWINIR, "type": kind, "upscale": 4}}
    check_all(network, {}, "EfficientSRModel")
    patch = {"datasets: train: gt_size": "in steps of 8, but got 10 (`gt_size: 40`). Write `gt_size: 32 or 64`"}
    check_all({**network, PATCH: 40}, patch, "EfficientSRModel")
    check_all(
        {**network, "network_g:ape": True}, {"network_g": "images a whole number of times larger"}, "EfficientSRModel"
    )


@pytest.mark.parametrize("changes", [{"upsampler": ""}, {"in_chans": 1}])
def test_a_network_whose_output_is_not_the_datas(check_all, their_windows, changes):
    """Whatever its arguments are called; a mean of three would stretch one channel to three."""
    network = {**SWINIR, "type": "Another", "upscale": 4, **changes}
    expected = {"network_g": "Expected images (3, 64, 64) from (3, 16, 16), as the data are, but got"}
    check_all({"network_g": network}, expected, "EfficientSRModel")

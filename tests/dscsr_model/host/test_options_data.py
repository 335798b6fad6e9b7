"""Faults of datasets, GPUs and batches that the option check finds before training starts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import option_files
import pytest
import torch
from option_files import REMOVED, changed

from dscsr_model.host.options.check import Fault

GT, LQ = "datasets: train: dataroot_gt", "datasets: train: dataroot_lq"
VAL_GT, VAL_LQ = "datasets: val: dataroot_gt", "datasets: val: dataroot_lq"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return option_files.make_data(tmp_path / "data")


@pytest.fixture
def training(data: Path) -> dict[str, Any]:
    return option_files.training_options(data)


@pytest.fixture
def check(tmp_path: Path):
    def run(options: dict[str, Any], *, is_train: bool = True, **arguments: Any) -> Fault | None:
        """The one fault of these options, or None."""
        file = option_files.write_options(tmp_path / "options.yml", options)
        faults = option_files.faults_of(file, is_train=is_train, **arguments)
        assert len(faults) <= 1, "\n".join(map(str, faults))
        return faults[0] if faults else None

    return run


def assert_fault(fault: Fault | None, key: str, *words: str) -> None:
    assert fault is not None
    assert fault.key == key
    for word in words:
        assert word in str(fault), str(fault)


# --- what is there ---


def test_missing_folders(check, training, data):
    fault = check(changed(training, {"datasets:train:dataroot_gt": "no/GT.lmdb"}))
    assert_fault(fault, GT, "'no/GT.lmdb', which does not exist", "datasets/README.md", str(Path.cwd()))
    fault = check(changed(training, {"datasets:val:dataroot_lq": str(data / "no")}))
    assert_fault(fault, VAL_LQ, "which does not exist")
    fault = check(changed(training, {"datasets:val:dataroot_lq": str(data / "lq" / "baby.png")}))
    assert_fault(fault, VAL_LQ, "which is a file")


def test_a_home_folder_is_found(check, training, data, monkeypatch):
    monkeypatch.setenv("HOME", str(data))
    assert check(changed(training, {"datasets:val:dataroot_gt": "~/gt"})) is None


def test_a_folder_of_images_is_no_lmdb(check, training, data):
    fault = check(changed(training, {"datasets:train:dataroot_gt": str(data / "gt")}))
    assert_fault(fault, GT, "ends in .lmdb", "type: disk")


@pytest.mark.parametrize("name", ["data.mdb", "meta_info.txt"])
def test_incomplete_lmdbs(check, training, data, name):
    (data / "LQ.lmdb" / name).unlink()
    assert_fault(check(training), LQ, "an LMDB with data.mdb and meta_info.txt", "not both")


def test_a_meta_info_that_is_none(check, training, data):
    (data / "GT.lmdb" / "meta_info.txt").write_text("0001 48 48\n")
    assert_fault(check(training), GT, "'0001 48 48' in line 1")


def test_names_that_become_one_key(check, training, data):
    (data / "GT.lmdb" / "meta_info.txt").write_text("a.1.png (48,48,3) 1\na.2.png (48,48,3) 1\n")
    assert_fault(check(training), GT, "`a` for the second time", "first dot")


def test_names_without_an_image(check, training, data):
    for name in ("GT.lmdb", "LQ.lmdb"):
        with (data / name / "meta_info.txt").open("a") as file:
            file.write(f"gone.png ({48 if name == 'GT.lmdb' else 12},{48 if name == 'GT.lmdb' else 12},3) 1\n")
    shutil.rmtree(data / "GT.lmdb")
    keys = [*(f"{i:04d}_s001" for i in range(6)), "gone"]
    option_files.write_lmdb(data / "GT.lmdb", keys, (48, 48))
    assert_fault(check(training), LQ, "1 of 7 that are not (`gone`)")


def test_raw_pixels_under_a_dataset_that_decodes(check, training, data):
    shutil.rmtree(data / "GT.lmdb")
    keys = [f"{i:04d}_s001" for i in range(6)]
    option_files.write_lmdb(data / "GT.lmdb", keys, (48, 48), encoded=False)
    assert_fault(check(training), GT, "encoded images", "--format png")


def test_truncated_lmdbs(check, training, data):
    file = data / "GT.lmdb" / "data.mdb"
    file.write_bytes(file.read_bytes()[:-5000])
    assert_fault(check(training), GT, "it is truncated")


def test_a_damaged_lmdb(check, training, data):
    (data / "GT.lmdb" / "data.mdb").write_bytes(b"no database" * 1000)
    assert_fault(check(training), GT, "an LMDB that opens")


def test_an_lmdb_is_opened_once_only(training, data, tmp_path):
    roots = {"dataroot_gt": str(data / "GT.lmdb"), "dataroot_lq": str(data / "LQ.lmdb")}
    val = {"name": "v", "type": "PairedImageDataset", **roots, "io_backend": {"type": "lmdb"}}
    file = option_files.write_options(tmp_path / "options.yml", changed(training, {"datasets:val": val}))
    gt, lq = option_files.faults_of(file)
    assert_fault(gt, VAL_GT, "`datasets: train: dataroot_gt` opens already", "opens a path only once")
    assert_fault(lq, VAL_LQ, "`datasets: train: dataroot_lq` opens already")


def test_sets_that_are_missing_are_left_out_when_asked(data, tmp_path):
    options = option_files.testing_options(data)
    options["datasets"]["test_2"] = option_files.paired("gone", tmp_path / "nowhere")
    file = option_files.write_options(tmp_path / "options.yml", options)
    assert len(option_files.faults_of(file, is_train=False)) == 2
    assert option_files.faults_of(file, is_train=False, skip_missing=True) == []
    del options["datasets"]["test_1"]
    option_files.write_options(file, options)
    gt, _ = option_files.faults_of(file, is_train=False, skip_missing=True)
    assert_fault(gt, "datasets: test_2: dataroot_gt", "which does not exist")


# --- pairs ---


def test_lmdbs_with_other_names(check, training, data):
    shutil.rmtree(data / "LQ.lmdb")
    option_files.write_lmdb(data / "LQ.lmdb", ["0000_s001", "other"], (12, 12))
    assert_fault(check(training), LQ, "5 only in GT", "1 only in LQ (`other`)", "--verify")


def test_folders_with_other_names_suggest_the_template(check, training, data):
    for file in (data / "lq").iterdir():
        file.rename(file.with_name(f"{file.stem}x4.png"))
    assert_fault(check(training), VAL_LQ, "no `baby.png`", "filename_tmpl` to '{}x4'")
    assert check(changed(training, {"datasets:val:filename_tmpl": "{}x4"})) is None


def test_an_image_too_many(check, training, data):
    option_files.write_images(data / "lq", ["more.png"], (24, 20))
    assert_fault(check(training), VAL_LQ, "as many LQ images as GT images (3)", "4, among them `more.png`")


def test_files_that_are_no_images(check, training, data):
    (data / "gt" / "notes.txt").write_text("x")
    assert_fault(check(training), VAL_GT, "only images", "`notes.txt`")


def test_a_folder_of_folders(check, training, data):
    (data / "nested").mkdir()
    (data / "gt").rename(data / "nested" / "HR")
    fault = check(changed(training, {"datasets:val:dataroot_gt": str(data / "nested")}))
    assert_fault(fault, VAL_GT, "only folders (`HR`)")


def test_broken_images(check, training, data):
    (data / "gt" / "baby.png").write_bytes(b"no image")
    assert_fault(check(training), VAL_GT, "baby.png, which is no image or a broken one")


def test_meta_info_files(check, training, data):
    meta = data / "meta.txt"
    changes = {"datasets:val:meta_info_file": str(meta)}
    key = "datasets: val: meta_info_file"
    assert_fault(check(changed(training, changes)), key, "which does not exist")
    meta.write_text("baby.png (96,80,3)\nghost.png (96,80,3)\n")
    assert_fault(check(changed(training, changes)), key, "ghost.png")
    meta.write_text("baby.png (96,80,3)\n")
    assert check(changed(training, changes)) is None


# --- sizes ---


def test_data_of_another_scale(check, training, data):
    options = changed(training, {"scale": 2, "network_g:upscale": 2, "datasets:val": REMOVED, "val": REMOVED})
    assert_fault(check(options), LQ, "GT 2 times as large", "4 times as large", "GT 48×48 and LQ 12×12")


def test_one_pair_of_another_size(check, training, data):
    meta = data / "LQ.lmdb" / "meta_info.txt"
    meta.write_text(meta.read_text().replace("(12,12,3)", "(12,11,3)", 1))
    assert_fault(check(training), LQ, "1 of 6 pairs that are not", "LQ 11×12")


def test_validation_folders_of_another_scale(check, training, data):
    shutil.rmtree(data / "lq")
    option_files.write_images(data / "lq", ["baby.png", "bird.png", "head.png"], (32, 26))
    assert_fault(check(training), VAL_LQ, "GT 4 times as large", "3 times as large")


def test_validation_may_crop_the_ground_truth_but_training_may_not(check, training, data):
    option_files.write_images(data / "gt", ["baby.png"], (24 * 4 + 3, 20 * 4 + 2))
    assert check(training) is None
    shutil.rmtree(data / "GT.lmdb")
    option_files.write_lmdb(data / "GT.lmdb", [f"{i:04d}_s001" for i in range(6)], (49, 48))
    assert_fault(check(training), LQ, "6 of 6 pairs that are not")


def test_network_and_options_of_different_scale(check, training):
    fault = check(changed(training, {"network_g:upscale": 2}))
    assert_fault(fault, "network_g: upscale", "Expected 4, as `scale: 4` at the top says, but got 2")
    fault = check(changed(training, {"network_g": {"type": "SPAN", "upscale": 3}}))
    assert_fault(fault, "network_g: upscale", "got 3")
    fault = check(changed(training, {"network_g": {"type": "SwinIR", "window_size": 8, "upsampler": "pixelshuffle"}}))
    assert_fault(fault, "network_g: upscale", "got 2, its default")


def test_patches(check, training):
    fault = check(changed(training, {"datasets:train:gt_size": 30}))
    assert_fault(fault, "datasets: train: gt_size", "a multiple of the scale, 4", "Write 28 or 32")
    fault = check(changed(training, {"datasets:train:gt_size": 52}))
    assert_fault(fault, "datasets: train: gt_size", "at most 48", "6 of 6 are smaller")


# --- batches and GPUs ---


def test_fewer_images_than_a_batch(check, training):
    options = changed(training, {"datasets:train:batch_size_per_gpu": 7})
    key = "datasets: train: batch_size_per_gpu"
    assert_fault(check(options), key, "at most 6", "7 of 6 images: no whole batch", "dataset_enlarge_ratio: 2`")
    assert check(changed(options, {"datasets:train:dataset_enlarge_ratio": 2})) is None


def test_batches_are_shared_among_processes(check, training, monkeypatch):
    options = changed(training, {"datasets:train:batch_size_per_gpu": 4})
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert check(options) is None
    key = "datasets: train: batch_size_per_gpu"
    assert_fault(check(options, launcher="pytorch"), key, "at most 3", "each of 2 processes", "enlarge_ratio: 2`")


def test_batches_are_multiplied_by_gpus(check, training, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    fault = check(changed(training, {"num_gpu": "auto"}))
    assert_fault(fault, "datasets: train: batch_size_per_gpu", "at most 1", "2 × 4 GPUs of 6 images")


def test_gpus(check, training, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert_fault(check(changed(training, {"num_gpu": 1})), "num_gpu", "no usable GPU", "`num_gpu: auto`, or 0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert_fault(check(changed(training, {"num_gpu": 2})), "num_gpu", "at most 1")
    assert check(changed(training, {"num_gpu": 2}), launcher="pytorch") is None
    assert check(changed(training, {"num_gpu": 1})) is None


def test_prefetching_to_the_gpu(check, training, monkeypatch):
    options = changed(training, {"datasets:train:prefetch_mode": "cuda", "datasets:train:pin_memory": True})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert_fault(check(options), "datasets: train: prefetch_mode", "no usable GPU")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert check(options) is None
    fault = check(changed(options, {"datasets:train:pin_memory": False}))
    assert_fault(fault, "datasets: train: pin_memory", "Set `pin_memory: true`")


def test_workers_that_cannot_persist(check, training):
    fault = check(changed(training, {"datasets:train:persistent_workers": True}))
    assert_fault(fault, "datasets: train: persistent_workers", "`num_worker_per_gpu: 0`")
    fault = check(changed(training, {"datasets:val:persistent_workers": True}))
    assert_fault(fault, "datasets: val: persistent_workers", "validates without")


@pytest.mark.parametrize("name", ["train_2", "test_1", "valid"])
def test_datasets_of_another_phase(check, training, data, name):
    fault = check(changed(training, {f"datasets:{name}": option_files.paired("x", data)}))
    assert_fault(fault, f"datasets: {name}", "`train`, `val` or `val_…`")


def test_training_data_in_a_test(check, data):
    options = changed(option_files.testing_options(data), {"datasets:train": option_files.paired("x", data)})
    assert_fault(check(options, is_train=False), "datasets: train", "a testing dataset")


@pytest.mark.parametrize("name", ["train", "val"])
def test_a_backend_has_a_type_alone(check, training, name):
    fault = check(changed(training, {f"datasets:{name}:io_backend:db_path": "x"}))
    assert_fault(fault, f"datasets: {name}: io_backend: db_path", "a known option", "Known here: `type`.")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("RealESRGANDataset", "which gives ground truth and kernels, from which RealESRNetModel makes `lq`"),
        ("SingleImageDataset", "which gives no ground truth"),
        ("REDSDataset", "which gives sequences of images"),
    ],
)
@pytest.mark.parametrize("model", ["SRModel", "EfficientSRModel"])
def test_datasets_of_something_else_than_pairs(check, training, model, kind, words):
    changes = {f"datasets:train:{name}": REMOVED for name in ("dataroot_gt", "gt_size", "use_hflip", "use_rot")}
    fault = check(changed(training, {"model_type": model, "datasets:train:type": kind, **changes}))
    assert_fault(fault, "datasets: train: type", "a dataset of image pairs", words, "Take PairedImageDataset")


def test_an_epoch_whose_order_does_not_fit_into_memory(check, training):
    fault = check(changed(training, {"datasets:train:dataset_enlarge_ratio": 10**12}))
    assert_fault(fault, "datasets: train: dataset_enlarge_ratio", "fits into memory, at most", "but got 6e+12.")
    assert check(changed(training, {"datasets:train:dataset_enlarge_ratio": 1e308})).key == fault.key
    batch = changed(training, {"datasets:train:batch_size_per_gpu": 10**400})
    assert_fault(check(batch), "datasets: train: batch_size_per_gpu", "at most 6")


# --- what fits together ---


def test_a_border_that_leaves_nothing(check, training):
    fault = check(changed(training, {"val:metrics:psnr:crop_border": 500}))
    assert_fault(fault, "val: metrics: psnr: crop_border", "leaves something of every image", "smallest side")


def test_two_sets_of_one_name(check, training):
    second = dict(training["datasets"]["val"])
    fault = check(changed(training, {"datasets:val_2": second}))
    assert_fault(fault, "datasets: val_2: name", "which is `val`", "Rename")
    assert check(changed(training, {"datasets:val_2": {**second, "name": "another"}})) is None


@pytest.mark.parametrize("name", ["num_in_ch", "num_out_ch"])
def test_channels_that_the_images_do_not_have(check, training, name):
    fault = check(changed(training, {f"network_g:{name}": 1}))
    assert_fault(fault, f"network_g: {name}", "Expected 3, the channels", "got 1", "`color`")


def test_one_channel_for_luma(check, training):
    luma = {f"datasets:{name}:color": "y" for name in training["datasets"]}
    network = {"type": "MSRResNet", "num_in_ch": 1, "num_out_ch": 1, "num_feat": 8, "num_block": 1, "upscale": 4}
    assert check(changed(training, {**luma, "network_g": network})) is None
    fault = check(changed(training, {**luma, "network_g": {**network, "num_in_ch": 3}}))
    assert_fault(fault, "network_g: num_in_ch", "Expected 1, the channels")


def test_a_weight_of_a_loss_that_is_text(check, training):
    fault = check(changed(training, {"train:pixel_opt:loss_weight": "one"}))
    assert_fault(fault, "train: pixel_opt: loss_weight", "Expected a number", "'one'")


def test_a_file_where_the_results_go(check, training, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("experiments").write_text("")
    assert_fault(check(training), "name", "a file `experiments`", "Move it away")


def test_swapped_folders(check, training):
    train = training["datasets"]["train"]
    swapped = {
        "datasets:train:dataroot_gt": train["dataroot_lq"],
        "datasets:train:dataroot_lq": train["dataroot_gt"],
    }
    assert_fault(check(changed(training, swapped)), GT, "GT that is smaller", "Exchange `dataroot_gt` and")


def test_an_lmdb_under_disk(training, tmp_path):
    file = tmp_path / "options.yml"
    option_files.write_options(file, changed(training, {"datasets:train:io_backend": {"type": "disk"}}))
    gt, lq = option_files.faults_of(file, is_train=True)
    assert_fault(gt, GT, "This is an LMDB: set `io_backend: {type: lmdb}`")
    assert_fault(lq, LQ, "This is an LMDB")


def test_a_slash_that_basicsr_stumbles_over(check, training):
    path = training["datasets"]["train"]["dataroot_gt"] + "/"
    assert_fault(check(changed(training, {"datasets:train:dataroot_gt": path})), GT, "Remove the slash at its end")


GRAY = {"type": "SPAN", "num_in_ch": 1, "num_out_ch": 1, "feature_channels": 6, "upscale": 4}


def test_channels_of_a_gray_network(check, training, data):
    """LMDBs of one channel are gray by themselves; folders when told; of BasicSR's datasets only `y` has one."""
    for name in ("GT.lmdb", "LQ.lmdb"):
        meta = data / name / "meta_info.txt"
        meta.write_text(meta.read_text().replace(",3)", ",1)"))
    crops = {"network_g": GRAY, "datasets:train:type": "PairedCropDataset"}
    fault = check(changed(training, crops))
    assert_fault(fault, "datasets: val", "images of 1 channel", "got 3", "Take `type: PairedCropDataset` with")
    crops["datasets:val:type"] = "PairedCropDataset"
    assert_fault(check(changed(training, crops)), "datasets: val", "got 3", "Set `color: gray`")
    crops["datasets:val:color"] = "gray"
    assert check(changed(training, crops)) is None
    lone = {
        "name": "lone",
        "type": "SingleImageDataset",
        "dataroot_lq": str(data / "lq"),
        "io_backend": {"type": "disk"},
    }
    assert_fault(
        check(changed(training, {**crops, "datasets:val_2": lone, "val:metrics": None})),
        "datasets: val_2",
        "`dscsr upscale`",
    )
    fault = check(changed(training, {**crops, "datasets:val:color": "y"}))
    assert_fault(fault, "datasets: val: color", "rgb", "'y'")
    colours = {**crops, "network_g": {**GRAY, "num_in_ch": 3}}
    assert_fault(check(changed(training, colours)), "network_g: num_in_ch", "Expected 1, the channels")

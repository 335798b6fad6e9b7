"""The option check knows what EfficientSRModel knows beside SRModel, and what only it can do."""

import re
from typing import Any

import option_files
import pytest
from option_files import REMOVED, changed
from small_models import SWINIR

from dscsr_arch.cssr_arch import find_backbone


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Faults of a training with EfficientSRModel, as {key: text}."""
    data = option_files.make_data(tmp_path / "data")
    raw = {f"dataroot_{kind.lower()}": str(tmp_path / f"{kind}_raw.lmdb") for kind in ("GT", "LQ")}
    for name, side in (("dataroot_gt", 48), ("dataroot_lq", 12)):
        option_files.write_lmdb(tmp_path / raw[name].split("/")[-1], ["a", "b", "c"], (side, side), encoded=False)
    base = changed(option_files.training_options(data), {"model_type": "EfficientSRModel"})
    crops = {"datasets:train:type": "PairedCropDataset", **{f"datasets:train:{k}": v for k, v in raw.items()}}

    def check(crop_dataset: bool = False, **changes: Any) -> dict[str, str]:
        options = changed(base, {**(crops if crop_dataset else {}), **changes})
        file = option_files.write_options(tmp_path / "opt.yml", options)
        return {fault.key: str(fault) for fault in option_files.faults_of(file)}

    return check


GOOD: dict[str, dict[str, Any]] = {
    "nothing": {},
    "speed": {"train:precision": "bf16", "train:channels_last": True, "train:compile": "max-autotune"},
    "compile": {"train:compile": True, "train:accumulate_steps": 4},
    "BasicSR's average": {"train:ema_warmup": False},
    "guards": {"train:grad_clip_norm": 0.5, "train:max_bad_steps": 10},
    "AdamW": {"train:optim_g": {"type": "AdamW", "lr": 1e-3, "weight_decay": 0.1, "amsgrad": True}},
    "SGD": {"train:optim_g": {"type": "SGD", "lr": 1e-3, "momentum": 0.9, "nesterov": True}},
    "torch's schedule": {"train:scheduler": {"type": "CosineAnnealingLR", "T_max": 10}},
    "BasicSR's schedule": {"train:scheduler": {"type": "CosineAnnealingRestartLR", "periods": [10]}},
    "losses": {"train:pixel_opt": REMOVED, "train:edge_opt": {"type": "WeightedTVLoss"}, "train:b_opt": None},
    "validation": {"val:tile": 64, "val:tile_overlap": 0, "val:self_ensemble": True, "val:best_metric": "psnr"},
    "checkpoints": {"logger:keep_checkpoints": 3},
}


@pytest.mark.parametrize("case", GOOD)
def test_what_it_knows_is_no_fault(check, case):
    assert check(**GOOD[case]) == {}


@pytest.mark.parametrize("kind", ["SwinIR", "Another"])
@pytest.mark.parametrize(
    ("changes", "key", "text"),
    [
        ({}, None, ""),
        ({"datasets:train:gt_size": 40}, "datasets: train: gt_size", "in steps of 8, but got 10 .* Write .* 32 or 64"),
        ({"network_g:ape": True}, "network_g", "of SwinIR: .* its class a `size_multiple`"),
    ],
)
def test_patches_that_do_not_fit_into_windows(check, monkeypatch, kind, changes, key, text):
    """Before anything starts, also with a network of somebody else's, such as HAT."""
    registry = pytest.importorskip("basicsr.utils.registry").ARCH_REGISTRY
    monkeypatch.setitem(registry._obj_map, "Another", find_backbone("SwinIR"))
    faults = check(**{"network_g": {**SWINIR, "type": kind, "upscale": 4}, **changes})
    assert list(faults) == ([key] if key else [])
    assert re.search(text, "".join(faults.values()), flags=re.DOTALL)


@pytest.mark.parametrize(
    ("changes", "got"),
    [
        ({"upsampler": ""}, r"got \(3, 16, 16\) from SwinIR"),
        ({"in_chans": 1}, "from SwinIR"),  # the mean of three would stretch its output to three channels
    ],
)
def test_a_network_whose_output_is_not_the_datas(check, monkeypatch, changes, got):
    """Whatever its arguments are called."""
    registry = pytest.importorskip("basicsr.utils.registry").ARCH_REGISTRY
    monkeypatch.setitem(registry._obj_map, "Another", find_backbone("SwinIR"))
    faults = check(network_g={**SWINIR, "type": "Another", "upscale": 4, **changes})
    assert list(faults) == ["network_g"]
    assert re.search(f"images .3, 64, 64. from .3, 16, 16., .*{got}", faults["network_g"], flags=re.DOTALL)


def test_a_mean_of_three_channels_under_one(check):
    gray = {"type": "EDSR", "num_in_ch": 1, "num_out_ch": 1, "num_feat": 4, "num_block": 1, "upscale": 4}
    sets = {f"datasets:{name}:color": "y" for name in ("train", "val")}
    assert "EDSR gives" in check(network_g=gray, **sets)["network_g"]


def test_crops_may_be_uint8_and_turned_on_the_device(check):
    assert check(crop_dataset=True, **{"datasets:train:output": "uint8", "datasets:train:augment": "device"}) == {}


BAD = [
    ("train:precision", "fp8", "Expected one of `fp32`, `bf16`, `fp16`, but got the text 'fp8'"),
    ("train:compile", "fast", "Expected true, false or a mode of torch.compile, but got the text 'fast'"),
    ("train:accumulate_steps", 0, "Expected a whole number of at least 1, but got 0"),
    ("train:max_bad_steps", 0, "Expected a whole number of at least 1, but got 0"),
    ("train:ema_warmup", 10, "Expected true or false, but got 10"),
    ("train:grad_clip_norm", -1.0, "Expected a number above 0, but got -1.0"),
    ("train:precison", "bf16", "Did you mean `precision`?"),
    ("train:optim_g:type", "AdmW", "Did you mean `AdamW`?"),
    ("train:optim_g:type", "LBFGS", "Expected an optimizer of EfficientSRModel, but got the text 'LBFGS'"),
    ("train:optim_g:momentun", 0.9, "Expected an argument of Adam, but got `momentun`"),
    ("train:scheduler:type", "CosineAnealingLR", "Did you mean `CosineAnnealingLR`?"),
    ("train:scheduler:type", "ReduceLROnPlateau", "Expected a schedule of EfficientSRModel"),
    (
        "train:scheduler",
        {"type": "OneCycleLR", "max_lr": 0.1, "total_steps": 4},
        "but got 4 steps, fewer than `total_iter",
    ),
    ("train:edge_opt", {"type": "L1Los"}, "Did you mean `L1Loss`?"),
    ("val:tile", 0, "Expected a whole number of at least 1, but got 0"),
    ("val:tile_overlap", -1, "Expected a whole number of at least 0, but got -1"),
    ("val:best_metric", "psnr_y", "Did you mean `psnr`?"),
    ("logger:keep_checkpoints", 0, "Expected a whole number of at least 1, but got 0"),
]


@pytest.mark.parametrize(("key", "value", "text"), BAD)
def test_what_it_does_not_know_is_a_fault(check, key, value, text):
    faults = check(**{key: value})
    found = [said for where, said in faults.items() if where.startswith(key.replace(":", ": "))]
    assert len(found) == 1, faults
    assert text in found[0]


def test_arguments_of_torchs_schedules_are_checked(check):
    faults = check(**{"train:scheduler": {"type": "CosineAnnealingLR", "eta_min": 0.0}})
    assert "as CosineAnnealingLR has no default for it" in faults["train: scheduler: T_max"]


def test_a_training_set_that_is_no_section(check):
    assert "datasets: train" in check(**{"datasets:train": 1.5})


def test_no_loss_at_all(check):
    assert "Expected a loss" in check(**{"train:pixel_opt": REMOVED})["train: pixel_opt"]
    assert "Expected a loss" in check(**{"train:pixel_opt": None, "train:edge_opt": None})["train: pixel_opt"]


@pytest.mark.parametrize(("option", "value", "stock"), [("output", "uint8", "float32"), ("augment", "device", "cpu")])
def test_srmodel_takes_neither_bytes_nor_crops_that_are_to_be_turned(check, option, value, stock):
    faults = check(crop_dataset=True, model_type="SRModel", **{f"datasets:train:{option}": value})
    said = faults[f"datasets: train: {option}"]
    assert f"Expected `{stock}`, but got `{value}`. SRModel trains on what it is given" in said
    assert check(crop_dataset=True, model_type="SRModel") == {}


@pytest.mark.parametrize("key", ["train:precision", "val:tile", "logger:keep_checkpoints"])
def test_srmodel_does_not_know_them(check, key):
    assert key.replace(":", ": ") in check(model_type="SRModel", **{key: 1})

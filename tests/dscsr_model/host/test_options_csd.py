"""Faults of CSD's options are found before training, each with one clear message."""

from __future__ import annotations

import re
from typing import Any

import option_files
import pytest
import torch
from option_files import REMOVED, changed

from dscsr_arch.checkpoint import save_state_dict
from dscsr_arch.cssr_arch import find_backbone

EDSR = {**option_files.edsr(), "num_feat": 8}
NETWORK = {"type": "CSSRNet", "backbone": EDSR, "widths": [0.25, 0.5]}
CONTRAST = {"type": "ContrastiveLoss", "loss_weight": 200, "num_negatives": 2, "features": "teacher"}
VGG = {**CONTRAST, "features": "vgg19", "vgg_weights": "random"}
L1 = {"type": "L1Loss", "loss_weight": 1.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images, weights of the teacher, of a smaller one, and what is no weights."""
    root = option_files.make_data(tmp_path_factory.mktemp("csd") / "data")
    for name, channels in {"teacher": 8, "smaller": 4}.items():
        arguments = {key: value for key, value in EDSR.items() if key != "type"} | {"num_feat": channels}
        save_state_dict({"params": find_backbone("EDSR")(**arguments).state_dict()}, root / f"{name}.pth")
    torch.save({"params": {"features.0.weight": torch.zeros(1)}}, root / "other.pth")
    return root


@pytest.fixture
def check(data, tmp_path, monkeypatch):
    """Faults of CSD's options, as {key: text}; ``@name`` stands for a file of the data folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def check(is_train: bool = True, **changes: Any) -> dict[str, str]:
        csd = {
            "model_type": "CSDModel",
            "network_g": NETWORK,
            "path:pretrain_network_g": "@teacher.pth",
            "train:teacher_opt": {**L1, "output_of": "teacher", "end_iter": 5},
            "train:contrastive_opt": CONTRAST,
        }
        stock = option_files.training_options(data) if is_train else option_files.testing_options(data)
        if not is_train:
            csd = {name: value for name, value in csd.items() if not name.startswith("train")}
        file = option_files.write_options(tmp_path / "opt.yml", changed(changed(stock, csd), changes))
        file.write_text(re.sub(r"'?@(\w+\.pth)'?", rf"'{data}/\1'", file.read_text()))
        return {fault.key: str(fault) for fault in option_files.faults_of(file, is_train=is_train)}

    return check


GOOD: dict[str, dict[str, Any]] = {
    "CSD": {},
    "VGG": {"train:contrastive_opt": VGG},
    "layers": {"train:contrastive_opt": {**CONTRAST, "feature_layers": ["conv_first", "body.0"]}},
    "joint training": {"train:contrastive_opt": REMOVED},
    "distillation": {"train:contrastive_opt": REMOVED, "train:kd_opt": {**L1, "target": "teacher", "start_iter": 2}},
    "student alone": {"train:contrastive_opt": REMOVED, "train:teacher_opt": REMOVED},
    "student from scratch": {"train:contrastive_opt": REMOVED, "train:teacher_opt": REMOVED,
                             "path:pretrain_network_g": None},
    "SPAN": {"network_g": {"type": "CSSRNet", "backbone": {"type": "SPAN", "feature_channels": 8}, "widths": [0.5]},
             "path:pretrain_network_g": None, "train:contrastive_opt": VGG},
    "validation": {"val:widths": [0.5, 1], "val:best_metric": "psnr_w0.5", "val:tile": 16, "val:self_ensemble": True},
    "ways": {"train:precision": "bf16", "train:compile": True, "train:accumulate_steps": 1},
    "bytes": {"datasets:train:type": "PairedCropDataset", "datasets:train:output": "uint8"},
}  # fmt: skip


@pytest.mark.parametrize("case", GOOD)
def test_what_it_knows_is_no_fault(check, case):
    assert check(**GOOD[case]) == {}


def test_testing(check):
    assert check(is_train=False) == {}
    assert check(is_train=False, **{"val:widths": [0.25], "val:best_metric": "ssim"}) == {}
    assert list(check(is_train=False, **{"val:widths": [0.75]})) == ["val: widths"]


def backbone(**changes: Any) -> dict[str, Any]:
    return {"network_g": {**NETWORK, "backbone": {**EDSR, **changes}}}


WIDTHS = "network_g:widths"
PIXEL = "train:pixel_opt"
BAD: list[tuple[dict[str, Any], str, str]] = [
    # widths
    ({WIDTHS: [0.3]}, "network_g", "width 0.3 to leave a whole number of channels, from 1, but got 2.4 of `num_feat:"),
    ({WIDTHS: [0.05]}, "network_g", "Expected width 0.05 to leave a whole number of channels, from 1, but got 0.4"),
    ({WIDTHS: [2]}, "network_g", "Expected `widths` to be different numbers between 0 and 1"),
    ({"val:widths": [0.75]}, "val: widths", "Expected widths among 0.25, 0.5, 1.0, but got [0.75]"),
    ({"val:widths": "all"}, "val: widths", "Expected a list of numbers, but got the text 'all'"),
    ({"val:best_metric": "psnr_w0.75"}, "val: best_metric",
     "one of `psnr`, `psnr_w0.25`, `psnr_w0.5`, `psnr_w1.0`, but got"),
    # the backbone
    (backbone(type="EDRS"), "network_g: backbone: type", "Expected a registered network, but got the text 'EDRS'. Did "
     "you mean `EDSR`?"),
    (backbone(num_fet=8), "network_g: backbone: num_fet", "Did you mean `num_feat`?"),
    (backbone(upscale=2), "network_g: backbone: upscale", "Expected 4, as `scale: 4` at the top says, but got 2"),
    ({"network_g": {**NETWORK, "backbone": {"type": "EDSR", "num_in_ch": 3}}}, "network_g: backbone: num_out_ch",
     "has no default"),
    ({"network_g": {**NETWORK, "backbone": "EDSR"}}, "network_g", "Expected `backbone` to be a network section"),
    ({"network_g": {"type": "CSSRNet"}}, "network_g: backbone", "Add `backbone:`"),
    ({"network_g": EDSR}, "network_g: type", "Expected CSSRNet, as CSDModel trains students, but got the text 'EDSR'"),
    ({"network_g": {**NETWORK, "lora": {"layers": {"*": [1, 1]}}}}, "network_g: lora", "a model type that knows `lora"),
    # the teacher
    ({"path:pretrain_network_g": "@smaller.pth"}, "path: pretrain_network_g",
     "Expected weights of this CSSRNet, but got"),
    ({"path:pretrain_network_g": "@other.pth"}, "path: pretrain_network_g", "whose layers differ"),
    ({"path:pretrain_network_g": "nowhere.pth"}, "path: pretrain_network_g", "which does not exist"),
    ({"path:pretrain_network_g": None}, "path: pretrain_network_g", "Expected a trained teacher, as its first layers"),
    # the losses
    ({"train:contrastive_opt:num_negatives": 3}, "train: contrastive_opt: num_negatives",
     "Expected a batch of at least 3 negatives, but got 2"),
    ({"train:accumulate_steps": 2}, "train: contrastive_opt: num_negatives", "but got 1, as `batch_size_per_gpu: 2`"),
    ({"train:contrastive_opt:features": "vgg19"}, "train: contrastive_opt: vgg_weights", "vgg19-dcbb9e9d.pth"),
    ({"datasets:train:gt_size": 12, "train:contrastive_opt": VGG},
     "datasets: train: gt_size", "Expected patches of at least 16×16 pixels, as VGG-19 compares them, but got 12"),
    ({"train:contrastive_opt:feature_layers": ["body.7"]}, "train: contrastive_opt: feature_layers",
     "Expected a layer of EDSR, but got 'body.7'"),
    ({"train:contrastive_opt:output_of": "teacher"}, "train: contrastive_opt", "to draw students to the teacher"),
    ({f"{PIXEL}:output_of": "studnt"}, "train: pixel_opt: output_of", "Did you mean `student`?"),
    ({f"{PIXEL}:outputof": "student"}, "train: pixel_opt: outputof", "Expected an argument of L1Loss"),
    ({f"{PIXEL}:start_iter": -1}, "train: pixel_opt: start_iter", "a whole number of at least 1"),
    ({f"{PIXEL}:start_iter": 7, "train:contrastive_opt": REMOVED}, "train: total_iter",
     "Expected a loss in every iteration, but got none in iteration 6 of 10"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "key", "text"), BAD)
def test_each_fault_is_found_with_one_message(check, changes, key, text):
    faults = check(**changes)
    assert list(faults) == [key], faults
    assert text in faults[key]


def test_faults_are_told_together(check):
    faults = check(**{
        **backbone(type="EDRS"), "val:best_metric": 3, f"{PIXEL}:target": "lq", "train:accumulate_steps": 2,
    })  # fmt: skip
    keys = {"network_g: backbone: type", "val: best_metric", "train: pixel_opt: target"}
    assert set(faults) == {*keys, "train: contrastive_opt: num_negatives"}


def test_other_models_test_its_smallest_student_but_do_not_train_it(check):
    assert check(is_train=False, model_type="SRModel") == {}
    faults = check(is_train=False, model_type="EfficientSRModel", **backbone(num_fet=8))
    assert list(faults) == ["network_g: backbone: num_fet"]
    only = {"train:teacher_opt": REMOVED, "train:contrastive_opt": REMOVED, "model_type": "EfficientSRModel"}
    faults = check(**only)
    assert list(faults) == ["model_type"]
    assert "Expected CSDModel, as CSSRNet has several widths, but got `EfficientSRModel`" in faults["model_type"]


def test_keys_of_csd_under_other_models(check):
    only = {"train:teacher_opt": REMOVED, "train:contrastive_opt": REMOVED, "model_type": "EfficientSRModel"}
    faults = check(**only, **{"network_g": EDSR, f"{PIXEL}:output_of": "student", "val:widths": [0.5]})
    assert set(faults) == {"train: pixel_opt: output_of", "val: widths"}

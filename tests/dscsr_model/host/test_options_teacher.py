"""Faults of `teacher:`, `lora:`, targets and layers are found before training, each with one clear message."""

import re
from typing import Any

import option_files
import pytest
import torch
from option_files import REMOVED, changed
from small_models import SWINIR

from dscsr_arch import SPAN, conv_lora
from dscsr_arch.checkpoint import save_state_dict
from dscsr_arch.cssr_arch import find_backbone

AFFINITY = {"type": "SpatialAffinityLoss", "layers": ["block_1", "block_6"]}
LORA = {"layers": {"body.*": [2, 4]}}
GRAY = {"type": "SPAN", "feature_channels": 6, "upscale": 4, "num_in_ch": 1, "rgb_mean": [0.5]}
WINDOWS = {**SWINIR, "upscale": 4, "img_size": 24, "window_size": 12}
BASE = {"type": "SPAN", "feature_channels": 8, "upscale": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images, and weights of a teacher, of one of another scale, of a base and of adapters."""
    root = option_files.make_data(tmp_path_factory.mktemp("teachers") / "data")
    torch.manual_seed(0)
    for name, arguments in {"teacher": {}, "x2": {"upscale": 2}, "gray": {"num_in_ch": 1, "rgb_mean": [0.5]}}.items():
        save_state_dict({"params": SPAN(**{"feature_channels": 6, "upscale": 4, **arguments}).state_dict()},
                        root / f"{name}.pth")  # fmt: skip
    edsr = find_backbone("EDSR")(**{key: value for key, value in option_files.edsr().items() if key != "type"})
    save_state_dict({"params": edsr.state_dict()}, root / "edsr.pth")
    windows = find_backbone("SwinIR")(**{key: value for key, value in WINDOWS.items() if key != "type"})
    save_state_dict({"params": windows.state_dict()}, root / "windows.pth")
    base = SPAN(feature_channels=8, upscale=4)
    save_state_dict({"params": base.state_dict()}, root / "base.pth")
    (root / "broken.pth").write_bytes((root / "teacher.pth").read_bytes()[:1000])
    adapted = conv_lora.inject(base.fuse(), {"block_1": (1, 2)})
    save_state_dict({"params": conv_lora.lora_state_dict(adapted)}, root / "lora.pth")
    save_state_dict({"params": adapted.state_dict()}, root / "whole.pth")
    return root


@pytest.fixture
def check(data, tmp_path):
    """Faults of a distillation, as {key: text}; ``@name`` stands for a file of the data folder."""

    def check(**changes: Any) -> dict[str, str]:
        distillation = {
            "model_type": "DistillationModel",
            "network_g": BASE,
            "teacher": {"weights": "@teacher.pth"},
            "train:teacher_opt": {"type": "L1Loss", "target": "teacher"},
            "train:affinity_opt": AFFINITY,
        }
        options = changed(changed(option_files.training_options(data), distillation), changes)
        file = option_files.write_options(tmp_path / "opt.yml", options)
        file.write_text(re.sub(r"'?@(\w+\.pth)'?", rf"'{data}/\1'", file.read_text()))
        return {fault.key: str(fault) for fault in option_files.faults_of(file)}

    return check


GOOD: dict[str, dict[str, Any]] = {
    "all": {},
    "of one section": {"teacher": {"weights": "@teacher.pth", "network": {**BASE, "feature_channels": 6}}},
    "windows of 12": {"datasets:train:gt_size": 48, "teacher": {"weights": "@windows.pth", "network": WINDOWS},
                      "train:affinity_opt": {**AFFINITY, "teacher_layers": ["conv_first", "conv_after_body"]}},
    "two teachers": {"teacher": {"weights": ["@teacher.pth", "@base.pth"], "self_ensemble": True, "param_key": None}},
    "other layers": {"train:affinity_opt": {**AFFINITY, "teacher_layers": ["block_2", "block_5"], "pool": 2}},
    "no teacher needed": {"teacher": REMOVED, "train:teacher_opt": REMOVED, "train:affinity_opt": REMOVED},
    "EDSR": {"network_g": option_files.edsr(), "train:affinity_opt": {
        **AFFINITY, "layers": ["body.0", "conv_first"], "teacher_layers": ["block_1", "block_6"]}},
    "LoRA": {"model_type": "DSCLoRAModel", "network_g": {**BASE, "lora": {"layers": {"block_*": [1, 2]}}},
             "path:pretrain_network_g": "@base.pth"},
    "whole LoRA": {"network_g": {**BASE, "lora": {"layers": {"block_1": [1, 2]}}},
                   "path:pretrain_network_g": "@whole.pth"},
    "clipped": {"network_g": {**BASE, "lora": {"layers": {"block_1": None, "*": [999, 2]}, "rank": "auto"}},
                "path:pretrain_network_g": "@base.pth"},
    "adapters": {"network_g": {**BASE, "lora": {"weights": "@lora.pth", "dropout": 0}},
                 "path:pretrain_network_g": "@base.pth"},
    "DSCLoRA": {"model_type": "DSCLoRAModel", "network_g": {**BASE, "type": "DSCLoRA"},
                "path:pretrain_network_g": "@base.pth"},
    "LoRA without a teacher": {"model_type": "EfficientSRModel", "teacher": REMOVED, "train:teacher_opt": REMOVED,
                               "train:affinity_opt": REMOVED, "network_g": {**option_files.edsr(), "lora": LORA},
                               "path:pretrain_network_g": "@edsr.pth"},
}  # fmt: skip


@pytest.mark.parametrize("case", GOOD)
def test_what_it_knows_is_no_fault(check, case):
    assert check(**GOOD[case]) == {}


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"teacher": REMOVED}, "teacher", "Expected a section `teacher:`, but got none, and `teacher_opt`, `affinity_opt`"),
    ({"network_g": {**BASE, "num_in_ch": -1}}, "network_g: num_in_ch", "Expected 3, the channels of"),
    ({"teacher": {"weights": "nowhere.pt"}}, "teacher: weights", "Expected a weight file at nowhere.pt, but"),
    ({"teacher": {"weights": "@broken.pth"}}, "teacher: weights", "Expected a whole weight file at"),
    ({"teacher": {"weights": "@lora.pth"}}, "teacher: weights", "LoRA adapters alone"),
    ({"teacher": {"weights": []}}, "teacher: weights", "Expected a path or a list of paths, but got []"),
    ({"teacher": {"network": BASE}}, "teacher: weights", "but got no such key. Add `weights:`"),
    ({"teacher": {"weights": "@teacher.pth", "self_ensembl": True}}, "teacher: self_ensembl", "mean `self_ensemble`?"),
    ({"teacher": {"weights": "@teacher.pth", "network": BASE}}, "teacher: weights", "differently shaped"),
    ({"teacher": {"weights": "@teacher.pth", "network": {"type": "SPAM"}}}, "teacher: network: type", "mean `SPAN`?"),
    ({"teacher": {"weights": "@teacher.pth", "network": {**BASE, "upscale": 7}}}, "teacher: network", "one of (1, 2,"),
    ({"teacher": {"weights": "@teacher.pth", "param_key": "parms"}}, "teacher: weights", "under the key 'parms'"),
    ({"teacher": {"weights": "@x2.pth"}}, "teacher", "Expected a teacher of scale 4, as `scale: 4` says, but got a SPAN"
     " of scale 2. Take another one."),
    ({"teacher": {"weights": ["@teacher.pth", "@x2.pth"]}}, "teacher", "a SPAN of scale 2"),
    ({"teacher": {"weights": "@gray.pth", "network": GRAY}}, "teacher",
     "Expected a teacher for images of 3 channels"),
    ({"train:affinity_opt": {**AFFINITY, "layers": ["block_1", "blok_2"]}}, "train: affinity_opt: layers: blok_2",
     "Expected a layer of SPAN, but got 'blok_2'. Perhaps one of these: block_2"),
    ({"train:affinity_opt": {**AFFINITY, "teacher_layers": ["block_1", "body.1"]}},
     "train: affinity_opt: teacher_layers: body.1", "Expected a layer of SPAN, but got 'body.1'"),
    ({"train:affinity_opt": {**AFFINITY, "teacher_layers": ["block_1"]}}, "train: affinity_opt", "to name 2 layers"),
    ({"train:affinity_opt": {**AFFINITY, "layers": []}}, "train: affinity_opt: layers",
     "Expected a list of layer names"),
    ({"train:affinity_opt": {**AFFINITY, "target": "gt"}}, "train: affinity_opt", "to be the teacher"),
    ({"train:affinity_opt": {"type": "SpatialAffinityLoss", "teacher_layers": ["block_1"]}}, "train: affinity_opt",
     "Expected `layers` beside `teacher_layers`"),
    ({"train:teacher_opt": {"type": "L1Loss", "target": "techer"}}, "train: teacher_opt: target",
     "Did you mean `teacher`?"),
    ({"train:affinity_opt": {"type": "L1Loss", "layers": ["block_1"]}}, "train: affinity_opt: layers: block_1",
     "Expected features that L1Loss can compare, for an image of 16×16, but got 8 channels of 16×16 beside the "
     "teacher's 6 channels of 16×16. Take layers that match"),
    ({"train:affinity_opt": {**AFFINITY, "layers": ["block_1"], "teacher_layers": ["upsampler"]}},
     "train: affinity_opt: layers: block_1", "beside the teacher's 3 channels of 64×64"),
    ({"teacher": {"weights": "@windows.pth", "network": WINDOWS},
      "train:affinity_opt": {**AFFINITY, "teacher_layers": ["conv_first", "conv_after_body"]}},
     "datasets: train: gt_size", "in steps of 12, but got 8 (`gt_size: 32`). Write `gt_size: 48`."),
    ({"network_t": BASE}, "network_t", "top-level `teacher:` section"),
    ({"model_type": "EfficientSRModel", "train:affinity_opt": REMOVED}, "teacher",
     "Expected a model type that knows `teacher:` (`DSCLoRAModel`, `DistillationModel`), but got"),
    ({"model_type": "EfficientSRModel", "train:affinity_opt": REMOVED}, "train: teacher_opt: target",
     "Expected a model type that knows `target:`"),
    ({"model_type": "DSCLoRAModel", "path:pretrain_network_g": "@base.pth"}, "network_g",
     "Expected a network with LoRA, but got SPAN without"),
    ({"model_type": "DSCLoRAModel", "network_g": {**BASE, "type": "DSCLoRA"}}, "path: pretrain_network_g",
     "Expected the base of the LoRA, but got none"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "key", "text"), BAD)
def test_each_fault_is_found_with_one_message(check, changes, key, text):
    faults = check(**changes)
    assert key in faults, faults
    assert text in faults[key]
    model_type_is_wrong = changes.get("model_type") == "EfficientSRModel"
    assert len(faults) == (2 if model_type_is_wrong else 1), faults


BAD_LORA: list[tuple[Any, str, str]] = [
    ({"layers": {"body.*": [99, 4]}}, ": layers", "a LoRA rank of at most 8 (all that a weight"),
    ({"layers": {"boddy.*": [2, 4]}}, ": layers", "Expected the pattern 'boddy.*' to meet a convolution"),
    ({"layers": {"body.*": 2}}, ": layers", "Expected (rank, alpha) for the pattern 'body.*', but got 2"),
    ({"layers": {0: [2, 4]}}, ": layers", "Expected a pattern of layer names, but got the value 0. Quote it."),
    ({"layers": [1, 2]}, ": layers", "Expected a section"),
    ({**LORA, "dropout": 1}, ": dropout", "from 0 to below 1"),
    ({**LORA, "rank": 1}, ": rank", "Expected one of `auto`, but got 1"),
    ({"weights": "@lora.pth", "rank": "auto"}, ": rank", "Expected `rank` beside `layers`"),
    ({**LORA, "weights": "nowhere.pt"}, ": weights", "Expected a weight file at nowhere.pt"),
    ({**LORA, "weights": "@base.pth"}, ": weights", "Expected LoRA adapters alone"),
    ({"weights": "@lora.pth"}, ": weights", "Expected adapters of convolutions of the network"),
    ({"dropout": 0}, "", "Expected `lora: layers` or `lora: weights`, but got neither"),
    ([1], "", "Expected a section"),
]  # fmt: skip


@pytest.mark.parametrize(("section", "key", "text"), BAD_LORA)
def test_faults_of_lora(check, section, key, text):
    network = {**option_files.edsr(), "lora": section}
    faults = check(network_g=network, **{"train:affinity_opt": REMOVED, "path:pretrain_network_g": "@edsr.pth"})
    assert list(faults) == [f"network_g: lora{key}"]
    assert text in faults[f"network_g: lora{key}"]


@pytest.mark.parametrize("model_type", ["EfficientSRModel", "DistillationModel", "DSCLoRAModel"])
def test_lora_on_a_random_network_is_a_fault(check, model_type):
    only = {"teacher": REMOVED, "train:teacher_opt": REMOVED, "train:affinity_opt": REMOVED}
    faults = check(model_type=model_type, network_g={**option_files.edsr(), "lora": LORA}, **only)
    assert list(faults) == ["path: pretrain_network_g"]
    assert "Expected the base of the LoRA, but got none" in faults["path: pretrain_network_g"]


def test_stock_models_do_not_know_lora(check):
    network = {**option_files.edsr(), "lora": LORA}
    only = {"teacher": REMOVED, "train:teacher_opt": REMOVED, "train:affinity_opt": REMOVED}
    faults = check(model_type="SRModel", network_g=network, **only)
    assert list(faults) == ["network_g: lora"]
    assert (
        "a model type that knows `lora:` (`DSCLoRAModel`, `DistillationModel`, `EfficientSRModel`"
        in faults["network_g: lora"]
    )


def test_dsclora_takes_its_ranks_as_arguments(check):
    network = {**BASE, "type": "DSCLoRA", "lora": {"layers": {"conv_1": [1, 1]}}}
    faults = check(network_g=network, **{"path:pretrain_network_g": "@base.pth"})
    assert list(faults) == ["network_g: lora: layers"]
    assert "a network without LoRA for `lora: layers`, but got DSCLoRA" in faults["network_g: lora: layers"]


def test_faults_are_told_together(check):
    faults = check(
        teacher={"weights": "@x2.pth"},
        **{"train:affinity_opt": {**AFFINITY, "layers": ["blok_1", "blok_2"]}, "train:teacher_opt:target": "me"},
    )
    keys = {"teacher", "train: teacher_opt: target", *(f"train: affinity_opt: layers: blok_{n}" for n in (1, 2))}
    assert set(faults) == keys


def test_a_border_that_leaves_nothing_of_a_patch(check):
    assert not check(**{"teacher:border": 3})  # gt_size 32, x4: 8 pixels
    faults = check(**{"teacher:border": 4})
    assert list(faults) == ["teacher: border"]
    assert "got 4, while patches have 8 LQ pixels" in faults["teacher: border"]
    assert "Take at most 3, or larger patches." in faults["teacher: border"]
    assert "a whole number of at least 0" in check(**{"teacher:border": -1})["teacher: border"]


def test_a_scale_of_zero_is_a_fault_of_its_own_beside_a_border(check):
    faults = check(scale=0, teacher={"weights": "@teacher.pth", "border": 2})
    assert "scale" in faults
    assert "teacher: border" not in faults

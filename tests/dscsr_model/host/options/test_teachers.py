"""Teachers, the layers that are compared, and LoRA: each fault is found before training, with one clear message."""

from typing import Any

import option_files
import pytest
import torch
from option_files import AFFINITY, BASE, REMOVED
from small_models import LARGE_WINDOWS

DISTILLATION = "DistillationModel"
LORA = {"layers": {"body.*": [2, 4]}}
GRAY = {"type": "SPAN", "feature_channels": 6, "upscale": 4, "num_in_ch": 1, "rgb_mean": [0.5]}
EDSR, OF_WINDOWS = option_files.edsr(), {"weights": "@windows.pth", "network": LARGE_WINDOWS}
ALONE = {"teacher": REMOVED, "train:teacher_opt": REMOVED, "train:affinity_opt": REMOVED}
ON_BASE = {"path:pretrain_network_g": "@base.pth"}


def with_lora(lora: Any, **changes: Any) -> dict[str, Any]:
    return {"network_g": {**BASE, "lora": lora}, **ON_BASE, **changes}


GOOD: dict[str, dict[str, Any]] = {
    "windows of 12": {"datasets:train:gt_size": 48, "teacher": OF_WINDOWS,
                      "train:affinity_opt": {**AFFINITY, "teacher_layers": ["conv_first", "conv_after_body"]}},
    "two teachers": {"teacher": {"weights": ["@teacher.pth", "@base.pth"], "self_ensemble": True, "param_key": None}},
    "a network beside a file that tells its own": {
        "teacher": {"weights": ["@teacher.pth", "@windows.pth"], "network": [None, LARGE_WINDOWS]}},
    "other layers": {"train:affinity_opt": {**AFFINITY, "teacher_layers": ["block_2", "block_5"], "pool": 2}},
    "regressors": {"train:affinity_opt": {"type": "MSELoss", "layers": ["block_1"], "regress": True}},
    "attention": {"train:affinity_opt": {**AFFINITY, "type": "AttentionTransferLoss", "power": 1, "distance": "norm"}},
    "no teacher needed": ALONE,
    "EDSR": {"network_g": EDSR, "train:affinity_opt": {
        **AFFINITY, "layers": ["body.0", "conv_first"], "teacher_layers": ["block_1", "block_6"]}},
    "LoRA": with_lora({"layers": {"block_*": [1, 2]}}, model_type="DSCLoRAModel"),
    "whole LoRA": with_lora({"layers": {"block_1": [1, 2]}}, **{"path:pretrain_network_g": "@whole.pth"}),
    "clipped": with_lora({"layers": {"block_1": None, "*": [999, 2]}, "rank": "auto"}),
    "adapters": with_lora({"weights": "@lora.pth", "dropout": 0}),
    "DSCLoRA": {"model_type": "DSCLoRAModel", "network_g": {**BASE, "type": "DSCLoRA"}, **ON_BASE},
    "LoRA without a teacher": {"model_type": "EfficientSRModel", **ALONE, "network_g": {**EDSR, "lora": LORA},
                               "path:pretrain_network_g": "@edsr.pth"},
    "a border of three": {"teacher:border": 3},  # gt_size 32, x4: 8 pixels
}  # fmt: skip


@pytest.mark.parametrize("case", GOOD)
def test_what_it_knows_is_no_fault(check_all, case):
    check_all(GOOD[case], {}, DISTILLATION)


def affinity(**changes: Any) -> dict[str, Any]:
    return {"train:affinity_opt": {**AFFINITY, **changes}}


def teacher(**section: Any) -> dict[str, Any]:
    return {"teacher": {"weights": "@teacher.pth", **section}}


LOSS = "train: affinity_opt"
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"teacher": REMOVED}, "teacher", "Expected a section `teacher:`, but got none, and `teacher_opt`, `affinity_opt`"),
    ({"network_g": {**BASE, "num_in_ch": -1}}, "network_g: num_in_ch", "Expected 3, the channels of"),
    (teacher(weights="nowhere.pt"), "teacher: weights", "nowhere.pt"),
    (teacher(weights="@broken.pth"), "teacher: weights", "a whole weight file"),
    (teacher(weights="@nan.pth", network=BASE), "teacher: weights", "Expected finite weights, but got 8 of 8 in conv_"),
    ({**ALONE, "network_g": BASE, "path:pretrain_network_g": "@nan.pth"}, "path: pretrain_network_g", "finite weights"),
    (teacher(weights="@lora.pth"), "teacher: weights", "LoRA adapters alone"),
    (teacher(weights=[]), "teacher: weights", "Expected a path or a list of paths, but got []"),
    ({"teacher": {"network": BASE}}, "teacher: weights", "but got no such key. Add `weights:`"),
    (teacher(self_ensembl=True), "teacher: self_ensembl", "mean `self_ensemble`?"),
    (teacher(network=BASE), "teacher: weights", "\nCorrect `teacher: network:`, or leave it out if"),
    (teacher(network={**BASE, "upscale": 7}), "teacher: network", "one of (1, 2,"),
    (teacher(network=[BASE, None]), "teacher: network", "Expected a section, or a list of 1, one for each"),
    (teacher(network=[{**BASE, "upscal": 4}]), "teacher: network: 1: upscal", "Did you mean `upscale`?"),
    (teacher(network=[{**BASE, "upscale": 7}]), "teacher: network: 1", "one of (1, 2,"),
    (teacher(param_key="parms"), "teacher: weights", "under the key 'parms'"),
    (teacher(weights="@x2.pth"), "teacher",
     "Expected a teacher of scale 4, as `scale: 4` says, but got SPAN of scale 2. Take another one."),
    (teacher(weights="@gray.pth", network=GRAY), "teacher",
     "Expected a teacher for images of 3 channels, which `network_g` takes, but got SPAN, whose first layer takes 1."),
    (teacher(border=4), "teacher: border",
     "got 4, while patches have 8 LQ pixels (`gt_size: 32`). Take at most 3, or larger patches."),
    (affinity(layers=["block_1", "blok_2"]), f"{LOSS}: layers: blok_2", "Perhaps one of these: block_2"),
    (affinity(teacher_layers=["block_1", "body.1"]), f"{LOSS}: teacher_layers: body.1", "Expected a layer of SPAN"),
    (affinity(teacher_layers=["block_1"]), LOSS, "to name 2 layers"),
    (affinity(layers=[]), f"{LOSS}: layers", "Expected a list of layer names"),
    (affinity(target="gt"), LOSS, "to be the teacher"),
    (affinity(layers=None, teacher_layers=["block_1"]), LOSS, "Expected `layers` beside `teacher_layers`"),
    ({"train:teacher_opt:target": "techer"}, "train: teacher_opt: target", "Did you mean `teacher`?"),
    (affinity(type="L1Loss", layers=["block_1"]), f"{LOSS}: layers: block_1",
     "Expected features that L1Loss can compare, for an image of 8×8, but got 8 channels of 8×8 beside the "
     "teacher's 6 channels of 8×8. Take layers that match"),
    (affinity(pool=9, layers=["block_1"]), f"{LOSS}: layers: block_1", "of 8×8. Expected features of at least 9×9 (`p"),
    (affinity(layers=["block_1"], teacher_layers=["upsampler"]), f"{LOSS}: layers: block_1", "3 channels of 32×32"),
    ({"datasets:train:gt_size": 48, "teacher": OF_WINDOWS, **affinity(layers=["block_1"], teacher_layers=["layers.0"])},
     f"{LOSS}: layers: block_1", "beside the teacher's 144×8 numbers without height and width. Name layers that put"),
    (affinity(layers=["block_1"], teacher_layers=["upsampler"], type="MSELoss", regress=True),
     f"{LOSS}: layers: block_1", "3 channels of 32×32"),
    ({"datasets:train:gt_size": 48, "teacher": OF_WINDOWS,
      **affinity(type="MSELoss", layers=["block_1"], teacher_layers=["layers.0"], regress=True)},
     f"{LOSS}: layers: block_1", "numbers without height and width. Name layers that put"),
    (affinity(layers=None, regress=True), LOSS, "Expected `layers` beside `regress`"),
    (affinity(type="AttentionTransferLoss", power=0.5), LOSS, "Expected `power` to be a number of at least 1"),
    (affinity(type="AttentionTransferLoss", distance="l1"), LOSS, "Expected `distance` to be one of"),
    ({"teacher": OF_WINDOWS, **affinity(teacher_layers=["conv_first", "conv_after_body"])},
     "datasets: train: gt_size", "in steps of 12, but got 8 (`gt_size: 32`). Write `gt_size: 48`."),
    ({"model_type": "DSCLoRAModel", **ON_BASE}, "network_g", "Expected a network with LoRA, but got SPAN without"),
    ({"model_type": "DSCLoRAModel", "network_g": {**BASE, "type": "DSCLoRA"}}, "path: pretrain_network_g",
     "Expected the base of the LoRA, but got none"),
    *((with_lora(lora), f"network_g: lora{key}", text) for lora, key, text in [
        ({"layers": {"block_1*": [99, 4]}}, ": layers", "a LoRA rank of at most"),
        ({"layers": {"boddy.*": [2, 4]}}, ": layers", "the pattern 'boddy.*' to meet a convolution or linear layer"),
        ({"layers": {"block_1*": 2}}, ": layers", "(rank, alpha) for the pattern 'block_1*', but got 2"),
        ({"layers": {0: [2, 4]}}, ": layers", "a pattern of layer names, but got the value 0. Quote it."),
        ({"layers": {"*": [1, 1]}, "dropout": 1}, ": dropout", "from 0 to below 1"),
        ({"layers": {"*": [1, 1]}, "rank": 1}, ": rank", "Expected one of `auto`, but got 1"),
        ({"weights": "@lora.pth", "rank": "auto"}, ": rank", "Expected `rank` beside `layers`"),
        ({"weights": "@lora.pth", "dora": True}, ": dora", "Expected `dora` beside `layers`"),
        ({"layers": {"block_1": [1, 2]}, "weights": "@lora.pth", "dora": True}, ": weights", "one of rank 1, DoRA"),
        ({"layers": {"*": [1, 1]}, "weights": "@base.pth"}, ": weights", "LoRA adapters alone"),
        ({"dropout": 0}, "", "`lora: layers` or `lora: weights`, but got neither"),
        ([1], "", "Expected a section"),
    ]),
    ({"network_g": {**EDSR, "lora": {"weights": "@lora.pth"}}, "path:pretrain_network_g": "@edsr.pth",
      **affinity(layers=["body.0", "conv_first"], teacher_layers=["block_1", "block_6"])},
     "network_g: lora: weights", "adapters of layers of the network"),
    ({"network_g": {**BASE, "type": "DSCLoRA", "lora": {"layers": {"conv_1": [1, 1]}}}, **ON_BASE},
     "network_g: lora: layers", "a network without LoRA for `lora: layers`, but got DSCLoRA"),
    (with_lora({"layers": {"block_1": [1, 2]}}, **{"train:quantize": {"method": "pact", "bits": 8}}),
     "train: quantize", "a plain network to quantize, but got one with LoRA"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "key", "text"), BAD)
def test_each_fault_is_found_with_one_message(check_all, changes, key, text):
    check_all(changes, {key: text}, DISTILLATION)


def test_lora_of_a_layer_that_is_read_and_not_called_is_a_fault(check_all, tmp_path):
    code = """
import torch
from basicsr.utils.registry import ARCH_REGISTRY
@ARCH_REGISTRY.register()
class Reading(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.read = torch.nn.Conv2d(3, 48, 3, padding=1), torch.nn.Linear(48, 48)
    def forward(self, x):
        x = torch.nn.functional.linear(self.body(x).movedim(1, -1), self.read.weight)
        return torch.nn.functional.pixel_shuffle(x.movedim(-1, 1), 4)
"""
    (tmp_path / "reading_arch.py").write_text(code)
    path = {"path:pretrain_network_g": "@edsr.pth", "path:strict_load_g": False}
    changes = {**ALONE, **path, "import": "reading_arch.py", "model_type": "EfficientSRModel"}
    lora = {"layers": {"*": [2, 4]}}
    told = {
        "network_g: lora: layers": "layers that the network calls, but got read, which it does not call: LoRA there"
    }
    check_all({**changes, "network_g": {"type": "Reading", "lora": lora}}, told, DISTILLATION)
    lora["layers"] = {"read": None, **lora["layers"]}
    check_all({**changes, "network_g": {"type": "Reading", "lora": lora}}, {}, DISTILLATION)


def test_layers_of_a_teacher_that_pads_by_itself(check_all, tmp_path):
    """As HAT does, so that it takes patches of every size."""
    (tmp_path / "padding_arch.py").write_text("""
import torch
from basicsr.utils.registry import ARCH_REGISTRY
@ARCH_REGISTRY.register()
class Padding(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Conv2d(3, 48, 1)
    def forward(self, x):
        sides = [-side % 8 for side in x.shape[2:]]
        y = self.body(torch.nn.functional.pad(x, (0, sides[1], 0, sides[0])))
        return torch.nn.functional.pixel_shuffle(y, 4)[..., : 4 * x.shape[2], : 4 * x.shape[3]]
""")
    torch.save({"body.weight": torch.ones(48, 3, 1, 1), "body.bias": torch.ones(48)}, tmp_path / "padding.pth")
    changes = {
        "import": "padding_arch.py",
        "teacher": {"weights": "padding.pth", "network": {"type": "Padding"}},
        **affinity(layers=["block_1"], teacher_layers=["body"]),
    }
    told = {f"{LOSS}: layers: block_1": "12×12, but got 8 channels of 12×12 beside the teacher's 48 channels of 16×16."}
    check_all({**changes, "datasets:train:gt_size": 48}, told, DISTILLATION)
    check_all({**changes, "datasets:train:gt_size": 32}, {}, DISTILLATION)


@pytest.mark.parametrize("model_type", ["EfficientSRModel", "DistillationModel", "DSCLoRAModel", "SRModel"])
def test_lora_needs_a_base_and_a_model_that_knows_it(check_all, model_type):
    expected = {"path: pretrain_network_g": "Expected the base of the LoRA, but got none"}
    if model_type == "SRModel":
        expected = {"network_g: lora": "that knows `lora:` (`DSCLoRAModel`, `DistillationModel`, `EfficientSRModel`)"}
    check_all({**ALONE, "model_type": model_type, "network_g": {**EDSR, "lora": LORA}}, expected, DISTILLATION)


def test_a_teacher_needs_a_model_that_knows_it(check_all):
    other = {
        "teacher": "Expected a model type that knows `teacher:` (`DSCLoRAModel`, `DistillationModel`), but got",
        "train: teacher_opt: target": "Expected a model type that knows `target:`",
    }
    check_all({"model_type": "EfficientSRModel", "train:affinity_opt": REMOVED}, other, DISTILLATION)

"""Faults of our losses that the option check finds before training starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import option_files
import pytest
import torch
from option_files import changed

from dscsr_arch.cssr_arch import find_backbone
from dscsr_model.host.options.check import Fault

KEY = "train: contrastive_opt"
CONTRASTIVE = {"type": "ContrastiveLoss", "loss_weight": 200, "num_negatives": 2, "vgg_weights": "random"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, and the weights of a teacher."""
    root = option_files.make_data(tmp_path_factory.mktemp("data"))
    arguments = {name: value for name, value in option_files.edsr().items() if name != "type"}
    torch.save({"params": find_backbone("EDSR")(**arguments).state_dict()}, root / "teacher.pth")
    return root


@pytest.fixture
def check(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def run(losses: dict[str, Any], changes: dict[str, Any] | None = None) -> Fault | None:
        """The one fault of options with these losses beside the pixel loss (batch 2), or None."""
        sections = {f"train:{name}": section for name, section in losses.items()}
        options = option_files.training_options(data)
        network = {"type": "CSSRNet", "backbone": option_files.edsr(), "widths": [0.5]}
        csd = {"model_type": "CSDModel", "network_g": network, "path:pretrain_network_g": str(data / "teacher.pth")}
        options = changed(options, {**csd, **sections, **(changes or {})})
        faults = option_files.faults_of(option_files.write_options(tmp_path / "options.yml", options))
        assert len(faults) <= 1, "\n".join(map(str, faults))
        return faults[0] if faults else None

    return run


def assert_fault(fault: Fault | None, key: str, *words: str) -> None:
    assert fault is not None
    assert fault.key == key
    for word in words:
        assert word in str(fault), str(fault)


def contrastive(**changes: Any) -> dict[str, Any]:
    return {"contrastive_opt": {**CONTRASTIVE, **changes}}


def test_losses_without_a_fault(check):
    assert check(contrastive()) is None
    assert check(contrastive(features="teacher", layer_weights=[1, 2], vgg_weights="nowhere.pth")) is None
    assert check({"affinity_opt": {"type": "SpatialAffinityLoss", "pool": 2, "reduction": "sum"}}) is None


def test_weights_that_are_not_there_are_named_with_their_source(check, tmp_path):
    fault = check(contrastive(vgg_weights="imagenet"))
    assert_fault(fault, f"{KEY}: vgg_weights", "vgg19-dcbb9e9d.pth' or '", str(tmp_path / "torch"), "no such file.")
    assert_fault(fault, f"{KEY}: vgg_weights", "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth")
    by_default = {name: value for name, value in CONTRASTIVE.items() if name != "vgg_weights"}
    assert_fault(check({"contrastive_opt": by_default}), f"{KEY}: vgg_weights", "for `vgg_weights: imagenet`")
    assert_fault(check(contrastive(vgg_weights="no.pth")), f"{KEY}: vgg_weights", "'no.pth', which does not exist")


def test_weights_of_another_network(check):
    torch.save({"params": {"features.0.weight": torch.zeros(8, 3, 3, 3)}}, "other.pth")
    fault = check(contrastive(vgg_weights="other.pth"))
    assert_fault(fault, f"{KEY}: vgg_weights", "'other.pth', whose layers differ", "0.weight")
    Path("broken.pth").write_bytes(b"no weights")
    assert_fault(check(contrastive(vgg_weights="broken.pth")), f"{KEY}: vgg_weights", "broken.pth")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"features": "vgg16"}, "Expected `features` to be one of"),
        ({"layer_weights": [1, 1]}, "Expected 5 `layer_weights`"),
        ({"num_negatives": 0}, "Expected `num_negatives`"),
        ({"distance": "l2"}, "Expected `distance`"),
        ({"input_range": 255}, "Expected `input_range` to be 1"),
    ],
)
def test_values_it_does_not_take(check, changes, words):
    assert_fault(check(contrastive(**changes)), KEY, "values that ContrastiveLoss takes", words)


def test_values_that_affinity_does_not_take(check):
    fault = check({"affinity_opt": {"type": "SpatialAffinityLoss", "pool": 0}})
    assert_fault(fault, "train: affinity_opt", "values that SpatialAffinityLoss takes", "`pool` to be a whole number")


def test_an_argument_that_does_not_exist(check):
    assert_fault(check(contrastive(num_negative=3)), f"{KEY}: num_negative", "Did you mean `num_negatives`?")


def test_a_batch_smaller_than_the_negatives(check):
    fault = check(contrastive(num_negatives=10))
    assert_fault(fault, f"{KEY}: num_negatives", "a batch of at least 10 negatives", "2, as `batch_size_per_gpu: 2`")
    fault = check(contrastive(), {"train:accumulate_steps": 2})
    assert_fault(fault, f"{KEY}: num_negatives", "1, as `batch_size_per_gpu: 2` in 2 parts", "`num_negatives: 1`")


def test_a_batch_of_one_that_excludes_itself(check):
    one = {"datasets:train:batch_size_per_gpu": 1}
    assert check(contrastive(num_negatives=1), one) is None
    fault = check(contrastive(num_negatives=1, exclude_self=True), one)
    assert_fault(fault, f"{KEY}: exclude_self", "another sample to compare a negative with", "a batch of one")


def test_a_model_type_without_negatives(check):
    plain = {"model_type": "EfficientSRModel", "network_g": option_files.edsr()}
    fault = check(contrastive(), plain)
    assert_fault(fault, f"{KEY}: type", "a teacher and negatives (`CSDModel`), but got `model_type: EfficientSRModel`")


def test_losses_of_one_name_in_the_log(check):
    fault = check({"pix_opt": {"type": "L1Loss"}}, {"model_type": "EfficientSRModel", "network_g": option_files.edsr()})
    assert_fault(fault, "train: pix_opt", "`pix_opt` beside `pixel_opt`, both logged as `l_pix`. Rename `pix_opt`.")

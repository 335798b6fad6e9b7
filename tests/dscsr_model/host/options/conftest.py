"""Tiny options of every model type of ours, and weights for them, made once."""

import math
import re
from pathlib import Path
from typing import Any

import option_files
import pytest
import torch
from option_files import MODELS, changed
from small_models import LARGE_WINDOWS

from dscsr_arch import SPAN, conv_lora


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Images, and weights by the names that tests use; nobody changes them."""
    root = option_files.make_data(tmp_path_factory.mktemp("options") / "data")
    for name, side in (("GT_raw", 48), ("LQ_raw", 12)):
        option_files.write_lmdb(root / f"{name}.lmdb", ["a", "b", "c"], (side, side), encoded=False)
    torch.manual_seed(0)
    networks = {
        "teacher": SPAN(feature_channels=6, upscale=4),
        "x2": SPAN(feature_channels=6, upscale=2),
        "gray": SPAN(feature_channels=6, upscale=4, num_in_ch=1, rgb_mean=[0.5]),
        "base": SPAN(feature_channels=8, upscale=4),
        "edsr": option_files.build(option_files.edsr()),
        "smaller": option_files.build({**option_files.edsr(), "num_feat": 4}),
        "windows": option_files.build(LARGE_WINDOWS),
    }
    for name, network in networks.items():
        torch.save({"params": network.state_dict()}, root / f"{name}.pth")
    diverged = networks["base"].state_dict() | {"conv_cat.bias": torch.tensor([math.nan] * 8)}
    torch.save({"params": diverged}, root / "nan.pth")
    adapted = conv_lora.inject(networks["base"].fuse(), {"block_1": (1, 2)})
    torch.save({"params": conv_lora.lora_state_dict(adapted)}, root / "lora.pth")
    torch.save({"params": adapted.state_dict()}, root / "whole.pth")
    torch.save({"params": {"features.0.weight": torch.zeros(8, 3, 3, 3)}}, root / "other.pth")
    (root / "broken.pth").write_bytes((root / "teacher.pth").read_bytes()[:1000])
    return root


@pytest.fixture
def check(data, tmp_path, monkeypatch):
    """Faults of options as the only file of a working directory, as {key: text}; ``@name`` is a file of ``data``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def check(
        changes: dict[str, Any], model: str = "SRModel", *, is_train: bool = True, data: Path = data, **arguments: Any
    ) -> dict[str, str]:
        stock = option_files.training_options(data) if is_train else option_files.testing_options(data)
        of_model = {key: value for key, value in MODELS[model].items() if is_train or not key.startswith("train")}
        file = option_files.write_options(tmp_path / "options.yml", changed(changed(stock, of_model), changes))
        file.write_text(re.sub(r"'?@(\w+\.\w+)'?", rf"'{data}/\1'", file.read_text()))
        faults = option_files.faults_of(file, is_train=is_train, **arguments)
        return {fault.key: str(fault) for fault in faults}

    return check


@pytest.fixture
def check_all(check):
    """Check that these faults are found, each once, and no other."""

    def check_all(changes: dict[str, Any], expected: dict[str, str], *model: str, **arguments: Any) -> None:
        found = check(changes, *model, **arguments)
        assert set(found) == set(expected), found
        for key, text in expected.items():
            assert text in found[key], found[key]

    return check_all

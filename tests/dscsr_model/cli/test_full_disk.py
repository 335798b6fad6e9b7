"""A disk that takes no more: every command says so once, leaves nothing half-made, and a training can go on."""

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from training_runs import experiment, pipeline, write_options

from dscsr_arch import SPAN
from dscsr_arch.checkpoint import save_state_dict
from dscsr_model.cli import main


@contextlib.contextmanager
def full_disk(size: int = 30_000) -> Iterator[None]:
    """Nobody may write a file of more bytes: what the system then says is what it says of a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Weights and a photograph whose results are larger than what the disk takes."""
    monkeypatch.chdir(tmp_path)
    save_state_dict({"params": SPAN(feature_channels=16).state_dict()}, tmp_path / "w.pth")
    (tmp_path / "photographs").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    cv2.imwrite("photographs/a.png", noise)
    return tmp_path


COMMANDS = {
    "pth": "export w.pth -o out/w.pth",
    "safetensors": "export w.pth -o out/w.safetensors",
    "torchscript": "export w.pth -o out/w.pt",
    "upscale": "upscale -i photographs -o out -w w.pth",
    "prepare": "prepare --gt photographs --out out --scale 4 --crop-size 48 --step 16",
}
SLOW = {
    "onnx": "export w.pth -o out/w.onnx",
    "torch.export": "export w.pth -o out/w.pt2",
    "submit": "submit w.pth --team 07 --name Fast -o out",
    "profile": "profile w.pth --size 32 32 --seconds 0.1 --no-flops --no-baseline --psnr w=30 --plot out/p.png",
}


@pytest.mark.parametrize(
    "command", [*COMMANDS.values(), *(pytest.param(command, marks=pytest.mark.slow) for command in SLOW.values())]
)
def test_a_command_says_it_once_and_leaves_nothing(folder, capsys, command):
    if "profile" in command:
        (folder / "out").mkdir()
    with full_disk():
        assert main(command.split()) == 1
    said = capsys.readouterr().err
    assert said.count("Expected room on the disk for ") == 1
    assert "Traceback" not in said
    assert not [file for file in (folder / "out").rglob("*") if file.is_file()]


@pytest.mark.parametrize("what", ["checkpoint", "image"])
def test_a_training_says_it_once_and_goes_on_when_there_is_room(tmp_path, capsys, what):
    changes = {"train:total_iter": 4, "logger:save_checkpoint_freq": 2, "logger:use_tb_logger": False}
    if what == "image":
        changes |= {"val:save_img": True, "val:val_freq": 1}
    write_options(tmp_path, **changes)
    with full_disk(12_000), pytest.raises(RuntimeError, match="exit code 1"):
        pipeline(tmp_path)
    said = capsys.readouterr().err
    assert said.count("Expected room on the disk for ") == 1
    assert f"{tmp_path}/experiments/tiny/{'visualization' if what == 'image' else 'models'}/" in said
    assert "Traceback" not in said
    assert not list(experiment(tmp_path).rglob(".*.tmp"))
    pipeline(tmp_path, "--auto_resume")
    assert torch.load(experiment(tmp_path) / "training_states/4.state")["iter"] == 4

"""A network that dscsr does not know, and spandrel does: every command but `submit` takes its file."""

import importlib

import numpy as np
import pytest
import torch
from PIL import Image

from dscsr_model.cli import main
from dscsr_model.training.teacher import build_teachers


@pytest.fixture
def compact(tmp_path, monkeypatch, spandrel):
    """BasicSR's SRVGGNetCompact; its weights are compact.pth."""
    monkeypatch.chdir(tmp_path)
    network = importlib.import_module("basicsr.archs.srvgg_arch").SRVGGNetCompact(num_feat=8, num_conv=2, upscale=2)
    torch.save({"params": network.state_dict()}, "compact.pth")
    return network.eval()


@pytest.mark.filterwarnings("ignore:.*taken for")
@torch.no_grad()
def test_every_command_but_submit_takes_it(compact, tmp_path, capsys):
    image = np.random.default_rng(0).integers(0, 256, (11, 14, 3), np.uint8)
    Image.fromarray(image).save("image.png")
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    wanted = compact(x).clamp(0, 1).mul(255).round()[0].permute(1, 2, 0)
    assert main(["export", "compact.pth", "-o", "compact.onnx"]) == 0
    for weights in ("compact.pth", "compact.onnx"):
        assert main(["upscale", "-i", "image.png", "-o", f"out_{weights}", "-w", weights]) == 0
        got = torch.from_numpy(np.array(Image.open(next((tmp_path / f"out_{weights}").iterdir()))))
        assert (got - wanted).abs().max() <= 1  # sums in another order, rounded
    assert "is taken for Compact, as spandrel does" in capsys.readouterr().err
    quick = ["--size", "8", "8", "--seconds", "1e-6", "--device", "cpu", "--variants", "eager", "--no-baseline"]
    assert main(["profile", "compact.pth", *quick]) == 0
    assert "compact" in capsys.readouterr().out
    (teacher,) = build_teachers({"weights": "compact.pth"}, build=lambda section: None)
    assert torch.equal(teacher(x), compact(x))
    assert main(["submit", "compact.pth", "--team", "7", "--name", "Mine", "-o", "kit"]) == 1
    assert "but got Compact" in capsys.readouterr().err

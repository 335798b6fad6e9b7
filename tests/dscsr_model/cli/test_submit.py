"""`dscsr submit` as a user runs it."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from dscsr_arch import RCAN, SPAN, SPANF, SPANV2
from dscsr_arch.metadata import beside
from dscsr_model.cli import main
from dscsr_model.export.ntire import kit as kits


@pytest.fixture
def weights(tmp_path):
    """A training checkpoint of a small SPAN."""
    path = tmp_path / "net_g_latest.pth"
    network = SPAN(feature_channels=6)
    torch.save({"params": network.state_dict(), **beside(network)}, path)
    return path


def submit(*args):
    return main(["submit", *map(str, args)])


def test_the_whole_way(weights, tmp_path, monkeypatch, capsys):
    """With a real bare process: figures on the screen, kit in the folder, PSNR of two images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kits, "Kit", partial(kits.Kit, seconds=0))
    sizes = {"HR/1.png": (64, 48), "HR/2.png": (50, 41), "LR/1x4.png": (16, 12), "LR/2x4.png": (12, 10)}
    for name, size in sizes.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((*size[::-1], 3), 99, np.uint8)).save(tmp_path / name)
    words = ("--team", "7", "--name", "Tiny", "-o", "kits/tiny", "--data", "HR", "LR", "--fold", "exact")
    assert submit(weights, *words) == 0
    told = capsys.readouterr()
    for line in ("SPAN, 6 channels, x4, conv_2 folded", "FLOPs at 256x256", "mean of 2 images in HR"):
        assert line in told.out
    assert "differs from the trained network by at most" in told.out
    assert "2/2" in told.err
    kit = tmp_path / "kits" / "tiny"
    mark = json.loads((kit / "kit.json").read_text())
    state = torch.load(kit / "model_zoo" / "team07_Tiny.pth", weights_only=True)
    assert mark["parameters"] == sum(tensor.numel() for tensor in state.values())
    assert f"({mark['parameters']:,})" in told.out
    assert f"({mark['parameters']:,})" in (kit / "README.md").read_text()
    assert mark["files"] == [
        "README.md", "model_zoo/team07_Tiny.pth", "models/team07_Tiny.py", "test_demo_branch.txt"
    ]  # fmt: skip
    assert mark["psnr"] > 0


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize(
    ("network", "words", "told"),
    [
        (SPANF(feature_channels=6, num_blocks=2, tail_channels=5), (), "SPANF, 6 channels, x4\n"),
        (SPANF(feature_channels=6, num_blocks=2), ("--fold",), "conv_near folded into conv_cat"),
        (SPANV2(feature_channels=6, num_blocks=2), (), "SPANV2, 6 channels, x4\n"),
        (RCAN(num_feat=6, num_group=2, num_block=2, squeeze_factor=3), (), "RCAN, 6 channels, x4, 2 blocks\n"),
    ],
)
def test_every_kind_of_network(network, words, told, tmp_path, checked_here, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save({"params": network.state_dict(), **beside(network)}, "net.pth")
    assert submit("net.pth", "--team", "7", "--name", "Tiny", "-o", "kit", *words) == 0
    said = capsys.readouterr().out
    assert told in said
    assert ("Saved by --fold" in said) == ("--fold" in words)
    assert "differs from the trained network by at most" in said


NO_NAMES = ("../evil", 'x"\nimport os', "a\n", "", "9a", "é", "a.py", "a" * 61, "{x}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(
            ({"--team": team}, "Expected the number of a team, 01 to 99")
            for team in ("0", "100", "7.5", "07/../../x", "٧")
        ),
        *(({"--name": name}, "Expected a name of letters, digits and _ that begins") for name in NO_NAMES),
        ({"--name": "nn"}, "is in use in the network's file"),
        ({"-o": "."}, "but got ., which is the folder that you are in. Name a folder that is neither"),
        ({"--data": ("nowhere", "nowhere")}, "Expected a folder of images, but"),
        ({"--set": ("upscale=2", "num_out_ch=12")}, "Expected a network of scale 4 for RGB images"),
    ],
)
def test_wrong_arguments_get_one_message(changes, message, weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = {"--team": "07", "--name": "Tiny", "-o": "kit", **changes}
    words = [word for name, value in arguments.items() for word in (name, *np.atleast_1d(value))]
    assert submit(weights, *words) == 1
    told = capsys.readouterr()
    assert message in told.err
    assert (told.err.count("\n"), told.out) == (1, "")
    assert [path.name for path in tmp_path.iterdir()] == [weights.name]

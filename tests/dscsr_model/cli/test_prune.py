import cv2
import numpy as np
import pytest
import torch

from dscsr_arch import SPANF, load_model
from dscsr_arch.metadata import beside
from dscsr_model.cli import main


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A SPANF in the working directory, and images to prune with."""
    monkeypatch.chdir(tmp_path)
    network = SPANF(feature_channels=8, upscale=2, num_blocks=2)
    torch.save({"params": network.state_dict(), **beside(network)}, "spanf.pth")
    for folder, size in (("GT", 40), ("LQ", 20)):
        (tmp_path / folder).mkdir()
        for name in "ab":
            cv2.imwrite(f"{folder}/{name}.png", np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8))
    return "spanf.pth"


def test_what_is_printed_and_what_is_written(weights, capsys):
    words = ["prune", weights, "-o", "new/out.pth", "--keep", "0.25", "--layers", "tail"]
    assert main([*words, "--data", "GT", "LQ", "--refit"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    first, _, *table = printed.out.splitlines()
    assert first == "new/out.pth  SPANF, tail_channels 8 → 2; channels ranked by first-order Taylor on 2 images"
    rows = [line.split() for line in table if line]
    assert rows[2] == ["conv_cat", "8", "2"]
    figures = {row[0]: row[1:] for row in rows[3:]}
    assert figures["parameters"] == ["4,360", "3,538"]
    assert figures["FLOPs"][2:] == ["0.28", "G", "0.23", "G"]
    assert [row[2] for row in rows if row[0] == "PSNR"] == ["Y", "RGB"]
    cut = load_model("new/out.pth")
    assert cut.arguments["tail_channels"] == 2
    assert cut(torch.rand(1, 3, 9, 7)).shape == (1, 3, 18, 14)


def test_the_whole_width_by_kernels_alone(weights, capsys):
    """A tail that is as wide as the blocks stays so; a part of channels is rounded; nothing is replaced unasked."""
    words = ["prune", weights, "-o", "out.safetensors", "--keep", "0.7"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "feature_channels 8 → 6; channels ranked by the L2 norm of the kernels that read them" in out
    assert "together: block_1.c3_r, block_2.c3_r" in out
    assert "each alone: block_1.c1_r, block_1.c2_r, block_2.c1_r, block_2.c2_r and 1 more" in out
    arguments = load_model("out.safetensors").arguments
    assert (arguments["feature_channels"], arguments["tail_channels"]) == (6, None)
    assert main(words) == 1
    assert "out.safetensors" in capsys.readouterr().err
    assert main([*words, "--force"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--keep", "1.5"], "a part of the channels between 0 and 1, or a number of channels from 2, but got 1.5"),
        (["--keep", "0.5", "--layers", "tails"], "Did you mean: tail_channels?"),
        (["--keep", "0.5", "--refit"], "Expected images for --refit, but got none. Add --data GT LQ."),
        (["--keep", "0.5", "-o", "out.onnx"], "OUT to end in .pth or .safetensors"),
        (["--keep", "0.5", "-o", "spanf.pth", "--force"], "the source itself"),
        (["--keep", "0.5", "--data", "GT", "nowhere"], "nowhere"),
    ],
)
def test_errors(weights, words, message, capsys, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    assert main(["prune", weights, "-o", "out.pth", *words]) == 1
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_adapters_alone_are_no_network(weights, capsys):
    layer = "block_1.c1_r.eval_conv"
    torch.save({f"{layer}.lora_A": torch.rand(2, 9), f"{layer}.lora_B": torch.rand(8, 2)}, "l.pth")
    assert main(["prune", "l.pth", "-o", "out.pth", "--keep", "0.5"]) == 1
    assert "LoRA adapters alone" in capsys.readouterr().err

import re

import pytest
import torch
from option_files import write_images
from small_models import with_updates

from dscsr_arch import SPAN, conv_lora, load_model
from dscsr_arch.metadata import beside
from dscsr_arch.quantized_conv import inject
from dscsr_arch.weight_files import read_weight_file
from dscsr_model.cli import main
from dscsr_model.training.lora import lora_files


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two checkpoints, one with an average, and two pairs of images."""
    monkeypatch.chdir(tmp_path)
    for name, keys in {"a": ["params", "params_ema"], "b": ["params"]}.items():
        networks = {key: SPAN(feature_channels=4, upscale=2, img_range=1.0) for key in keys}
        torch.save({key: net.state_dict() for key, net in networks.items()} | beside(networks["params"]), f"{name}.pth")
    write_images(tmp_path / "HR", ["1.png", "2.png"], (40, 36))
    write_images(tmp_path / "LR", ["1.png", "2.png"], (20, 18))
    return tmp_path


DATA = ["--data", "HR", "LR"]


def test_each_is_measured_and_the_mean_is_what_is_written(folder, capsys):
    assert main(["average", "a.pth", "b.pth", "-o", "mean.safetensors", "--shares", "1", "3", *DATA]) == 0
    header, _, first, second, mean, _, *about = capsys.readouterr().out.splitlines()
    assert header.split() == ["network", "weights", "share", "PSNR", "PSNR", "Y"]
    assert first.split()[:3] == ["a", "params_ema", "0.25"]
    assert second.split()[:3] == ["b", "params", "0.75"]
    assert mean.startswith("their mean ")
    figures = [float(line.split()[-2]) for line in (first, second, mean)]
    assert about[0] == "mean.safetensors  fused weights, safetensors"
    assert about[1] == "  SPAN, 4 channels, x2, 3,436 parameters when fused"
    gain, best = re.fullmatch(r"  PSNR ([+-][\d.]+) dB against the best of them, ([ab])", about[2]).groups()
    assert float(gain) == pytest.approx(figures[2] - max(figures[:2]), abs=2e-4)
    assert best == "ab"[figures.index(max(figures[:2]))]
    written, parts = load_model("mean.safetensors"), [load_model(f"{name}.pth").fuse() for name in "ab"]
    assert written.arguments["img_range"] == 1
    kernels = [network.state_dict()["block_1.c1_r.eval_conv.weight"] for network in (*parts, written)]
    torch.testing.assert_close(kernels[2], 0.25 * kernels[0] + 0.75 * kernels[1])


def test_without_data_nothing_is_claimed(folder, capsys):
    assert main(["average", "a.pth", "b.pth", "-o", "mean.pth"]) == 0
    printed = capsys.readouterr().out
    assert "is not known: no --data HR LR was given" in printed
    assert "their mean" not in printed


def test_bits_of_quantized_networks_are_told(folder, capsys):
    network = inject(SPAN(feature_channels=4, upscale=2, img_range=1.0).fuse(), "pams", 4)
    for name in "ab":
        torch.save({"params": network.state_dict(), **beside(network)}, f"{name}.pth")
    assert main(["average", "a.pth", "b.pth", "-o", "mean.pth"]) == 0
    assert "\n  20 convolutions in 4 bits, all else in float32\n" in capsys.readouterr().out


def test_adapters_stay_adapters_and_with_their_base_become_a_network(folder, capsys):
    base = SPAN(feature_channels=4, upscale=2, img_range=1.0).fuse()
    torch.save({"params": base.state_dict(), **beside(base)}, "base.pth")
    for number in "12":
        adapted = with_updates(conv_lora.inject(load_model("base.pth"), {"block_*": (1, 2)}), 0.1)
        torch.save(lora_files(adapted)["lora"], f"lora_{number}.pth")
    files = ["average", "lora_1.pth", "lora_2.pth"]
    assert main([*files, "-o", "lora.pth"]) == 0
    assert "2 times the rank of the first one" in capsys.readouterr().out
    assert read_weight_file("lora.pth").metadata == read_weight_file("lora_1.pth").metadata
    assert main([*files, "-o", "whole.pth", "--base", "base.pth", *DATA]) == 0
    image = torch.rand(1, 3, 9, 7)
    with torch.no_grad():
        one, two, mean = (load_model(name, base="base.pth")(image) for name in ("lora_1.pth", "lora_2.pth", "lora.pth"))
        torch.testing.assert_close(load_model("whole.pth")(image), mean, rtol=1e-4, atol=1e-5)
    assert (one - two).abs().max() > 1e-3

    other = SPAN(feature_channels=4, upscale=2, img_range=1.0).fuse()
    torch.save(lora_files(conv_lora.inject(other, {"block_*": (1, 2)}))["lora"], "lora_2.pth")
    for words, told in (
        (["-o", "no.pth"], "lora_2.pth: Expected adapters that were trained on one base, that of lora_1.pth, but got"),
        (["-o", "no.pth", *DATA], "Expected --base WEIGHTS to measure adapters with"),
        (["-o", "no.safetensors"], "-o to end in .pth for adapters"),
    ):
        assert main([*files, *words]) == 1
        assert told in capsys.readouterr().err
    assert not (folder / "no.pth").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a.pth", "-o", "no.pth"], "Expected two weight files or more, but got one."),
        (["a.pth", "a.pth", "-o", "no.pth"], "one that is named twice"),
        (["a.pth", "b.pth", "-o", "no.onnx"], "-o to end in .pth or .safetensors"),
        (["a.pth", "b.pth", "-o", "a.pth", "--force"], "an output beside the sources"),
        (
            ["a.pth", "b.pth", "-o", "HR/1.png.pth", "--shares", "1", "0"],
            "2 positive numbers for --shares, but got 1 0",
        ),
        (["a.pth", "b.pth", "-o", "b.pth"], "a new file, but got `b.pth`, which exists"),
        (["a.pth", "b.pth", "-o", "no.pth", "--data", "HR", "HR"], "Give folders of scale 2"),
    ],
)
def test_what_is_refused(folder, capsys, words, told):
    before = sorted(folder.rglob("*"))
    assert main(["average", *words]) == 1
    assert told in capsys.readouterr().err
    assert sorted(folder.rglob("*")) == before

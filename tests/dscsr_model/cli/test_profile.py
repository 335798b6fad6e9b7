"""The command as a person runs it: files and option files in, table, JSON and image out, and each message."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dscsr_arch import CARN, EDSR, SPAN, DSCLoRA
from dscsr_arch.metadata import beside
from dscsr_model import cli

QUICK = ("--size", "8", "12", "--seconds", "1e-6", "--device", "cpu", "--variants", "eager", "--no-flops")
COUNTED = (*QUICK[:-1], "--no-baseline")


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def weights(name, network):
    torch.save({"params": network.state_dict(), **beside(network)}, name)
    return name


def options(name, text):
    Path(name).write_text(text, encoding="utf-8")
    return name


def span(name="span.pth"):
    return weights(name, SPAN(feature_channels=4, upscale=2))


def figures(capsys, *arguments, quick=QUICK):
    """By the name of each network, as ``--json -`` prints them."""
    assert cli.main(["profile", *map(str, arguments), *quick, "--json", "-"]) == 0
    return {network["name"]: network for network in json.loads(capsys.readouterr().out)["networks"]}


def message(capsys, *arguments):
    """What the command says when it refuses; nothing else is printed."""
    assert cli.main(["profile", *map(str, arguments)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line


def parameters(network):
    return sum(parameter.numel() for parameter in network.fuse().parameters())


def test_networks_side_by_side(capsys):
    found = figures(capsys, span(), weights("lora.pth", DSCLoRA(feature_channels=6)), quick=COUNTED)
    assert {name: network["parameters"] for name, network in found.items()} == {
        "span": parameters(SPAN(feature_channels=4, upscale=2)),
        "lora": parameters(SPAN(feature_channels=6)),
    }
    assert all(network["variants"]["eager"]["median_ms"] > 0 for network in found.values())
    assert found["span"]["scores"]["2026"]["baseline_source"] == "published"


def test_option_files_need_no_weights(capsys):
    first = options("wide.yml", "network_g: {type: SPAN, feature_channels: 6}")
    second = options("edsr.yml", "network_g: {type: EDSR, num_in_ch: 3, num_out_ch: 3, num_feat: 8, num_block: 2}")
    found = figures(capsys, span(), "-opt", first, "-opt", second)
    edsr = EDSR(3, 3, num_feat=8, num_block=2)
    assert list(found) == ["span", "wide", "edsr"]
    assert found["wide"]["parameters"] == parameters(SPAN(feature_channels=6))
    assert found["edsr"]["parameters"] == sum(parameter.numel() for parameter in edsr.parameters())


CSSR = "network_g: {type: CSSRNet, backbone: {type: CARN, num_feat: 16}, widths: [0.5, 0.25]}"


def test_a_cssrnet_comes_at_all_its_widths_or_at_one(capsys):
    options("csd.yml", CSSR)
    options("carn.yml", "network_g: {type: CARN, num_feat: 16}")
    sizes = {name: network["parameters"] for name, network in figures(capsys, "-opt", "csd.yml").items()}
    expected = {f"csd at {width}": parameters(CARN(num_feat=n)) for width, n in ((1, 16), (0.5, 8), (0.25, 4))}
    assert sizes == expected
    for file in (("-opt", "csd.yml"), ("-opt", "carn.yml"), (weights("carn.pth", CARN(num_feat=16)),)):
        (one,) = figures(capsys, *file, "--width", "0.5").values()
        assert one["parameters"] == expected["csd at 0.5"]


def test_table_json_and_image(capfd):
    arguments = (span(), "--psnr", "span=28.5", "--json", "figures.json", "--plot", "figure.png")
    assert cli.main(["profile", *arguments, *QUICK]) == 0
    out, err = capfd.readouterr()
    assert err == "", "PyTorch's profiler is silent"
    assert "28.50 dB" in out
    assert out.endswith("\nfigures.json\n\nfigure.png\n")
    assert json.loads(Path("figures.json").read_text(encoding="utf-8"))["networks"][0]["psnr"] == 28.5
    assert Image.open("figure.png").size == (1280, 800)
    assert "Expected a new file, but got `figure.png`, which exists. Add --force" in message(capfd, *arguments)
    assert cli.main(["profile", *arguments, *QUICK, "--force"]) == 0
    assert sorted(entry.name for entry in Path().iterdir()) == ["figure.png", "figures.json", "span.pth"]


def test_psnr_is_measured_on_folders_and_time_on_images(capsys):
    for folder, side in (("hr", 24), ("lr", 12)):
        Path(folder).mkdir()
        Image.fromarray(np.full((side, side, 3), 99, np.uint8)).save(f"{folder}/a.png")
    random = options("random.yml", "network_g: {type: SPAN, feature_channels: 4, upscale: 2}")
    found = figures(capsys, span(), "-opt", random, "--data", "hr", "lr", "--images", "lr")
    assert found["span"]["psnr_source"] == "measured"
    assert found["span"]["psnr"] > 0
    assert found["span"]["variants"]["eager"]["images_mean_ms"] > 0
    assert found["random"]["psnr"] is None


def test_a_leaderboard_beside_the_figures(capsys):
    file = weights("net.pth", SPAN(feature_channels=4))
    arguments = ("profile", file, *QUICK[:-1], "--leaderboard")
    assert cli.main([*arguments, "--json", "figures.json"]) == 0
    out = capsys.readouterr().out
    assert "> net" in out
    assert "~ An estimate, made on this machine's CPU: time (eager) over that of SPAN-28 here" in out
    assert "Not measured: net; add --data HR LR." in out
    board = json.loads(Path("figures.json").read_text(encoding="utf-8"))["leaderboard"]
    assert [row["rank"] for row in board["official"]] == [*range(1, 10), None]
    assert board["networks"]["net"]["runtime_is_estimated"]
    assert "`net`, which makes 3×64×64 of 3×32×32" in message(capsys, span("net.pth"), *QUICK[:-1], "--leaderboard")
    weights("gray.pth", EDSR(1, 1, num_feat=4, num_block=1, upscale=4))
    assert "`gray`, which makes 1×128×128 of 1×32×32" in message(capsys, "gray.pth", *QUICK[:-1], "--leaderboard")


def test_networks_of_basicsr_need_it(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "basicsr.archs", None)
    options("edsr.yml", "network_g: {type: MSRResNet, num_in_ch: 3, num_out_ch: 3}")
    line = message(capsys, "-opt", "edsr.yml", *QUICK)
    assert "network_g of edsr.yml: Expected a network of dscsr" in line
    assert "Install it: python -m dscsr_model.host.install_basicsr" in line


def test_without_fvcore_there_is_a_remedy_and_a_way_without(capsys, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "fvcore"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fvcore", None)
    assert "pip install 'dscsr[profile]'" in message(capsys, span(), *COUNTED)
    network = figures(capsys, "span.pth")["span"]
    assert (network["flops"], network["scores"]) == (None, {})
    assert network["parameters"] > 0


def test_without_matplotlib_nothing_is_measured_in_vain(capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "dscsr_model.profiling.plot", raising=False)
    monkeypatch.delattr("dscsr_model.profiling.plot", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    line = message(capsys, span(), "--plot", "a.png", "--psnr", "span=3", *QUICK)
    assert "Expected matplotlib to draw with" in line
    assert "pip install 'dscsr[profile]'" in line


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "Expected an option file (YAML) at net.yml, but got one that cannot be read"),
        ("name: x", "Expected a section `network_g` with a `type` in net.yml, but got none"),
        ("network_g: {feature_channels: 4}", "but got one without"),
        ("network_g: {type: SPAN, feature_channels: 999999999}", "fit into memory, but got this: Storage size"),
        ("network_g: {type: SPAN, feature_channels: 9999999}", "fit into memory, but got this: its weights take"),
        ("network_g: {type: SPAM}", "network_g of net.yml: Expected the type of a registered network, but got 'SPAM'"),
        ("network_g: {type: SPAN, features: 4}", "unexpected keyword argument 'features'"),
        ("network_g: {type: CSSRNet, backbone: {type: CARN, num_feat: 16}, widths: [3]}", "Expected `widths`"),
    ],
)
def test_option_files_that_describe_nothing(capsys, content, part):
    if content is not None:
        options("net.yml", content)
    assert part in message(capsys, "-opt", "net.yml", *QUICK)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((), "Expected weight files, or -opt FILE, but got neither"),
        (("a.yml",), "a.yml, an option file. Write -opt a.yml"),
        (("none.pth",), "Expected a weight file at none.pth, but got none"),
        (("span.pth", "span.pth"), "Expected different networks, but got `span` twice"),
        (("-opt", "a.yml", "--param-key", "x"), "Expected a weight file for --base and --param-key"),
        (("span.pth", "--size", "0", "8"), "Expected an image of at least 1×1 pixels, but got 0×8"),
        (("span.pth", "--size", "9000000", "9000000"), "room for an image of 9000000×9000000"),
        (("span.pth", "--seconds", "0"), "Expected seconds above 0 for each variant, but got 0"),
        (("span.pth", "--threads", "0"), "Expected --threads to be at least 1, but got 0"),
        (("span.pth", "--variants", "fast"), "Expected variants among"),
        (("span.pth", "--images", "none"), "Expected a folder of images, but got none"),
        (("span.pth", "--plot", "a.doc"), "Expected --plot to end in .png, .pdf, .svg, but got `a.doc`"),
        (("span.pth", "--plot", "a.png"), "Expected PSNR for --plot, but got none"),
        (("span.pth", "--json", "none/a.json"), "Expected a folder to write a.json into, but got `none`"),
        (("span.pth", "--psnr", "28"), "Expected --psnr NAME=VALUE with a positive number, but got '28'"),
        (("span.pth", "--psnr", "spam=28"), "Expected a name among span for --psnr, but got 'spam'"),
        (("span.pth", "--leaderboard", "--no-flops"), "FLOPs and the baseline for --leaderboard, but got --no-flops"),
        (("span.pth", "--leaderboard", "--no-baseline"), "for --leaderboard, but got --no-baseline"),
        (("span.pth", "--baseline-ms", "1999=3"), "Expected a name among 2025, 2026 for --baseline-ms"),
    ],
)
def test_what_a_user_can_do_wrong(capsys, arguments, part):
    span()
    assert part in message(capsys, *arguments)

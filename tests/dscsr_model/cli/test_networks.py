"""The arguments that name a network by its weight file, and what the file and the user say of it."""

import argparse

import pytest
import torch
import yaml

from dscsr_arch import CARN, SPAN
from dscsr_arch.errors import DscsrError
from dscsr_arch.metadata import beside, describe
from dscsr_model.cli import networks
from dscsr_model.cli.networks import read_overrides


def test_values_are_those_of_option_files():
    words = ["norm=false", "img_range=1", "rgb_mean=[0.5, 0.5, 0.5]", "type=a=b"]
    assert read_overrides(words) == {"norm": False, "img_range": 1, "rgb_mean": [0.5] * 3, "type": "a=b"}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("norm", "Expected --set NAME=VALUE, such as norm=false, but got 'norm'. Write it without spaces"),
        ("2x=1", "Expected --set NAME=VALUE"),
        ("norm={a", "Expected a value as in an option file in --set 'norm={a'"),
        ("base=a.pth", r"Expected an argument of the network in --set, but got 'base=a.pth'. Write --base FILE"),
        ("path=a.pth", "Leave it out"),
    ],
)
def test_what_is_no_argument_of_a_network_gets_one_message(word, message):
    with pytest.raises(DscsrError, match=message) as error:
        read_overrides(["upscale=2", word])
    assert "\n" not in str(error.value)


OWN = {"feature_channels": 4, "upscale": 2, "img_range": 1.0, "rgb_mean": [0.1, 0.2, 0.3]}
REMEDY = "If that is wrong: --set NAME=VALUE, or -opt FILE of its training."


@pytest.fixture
def load(tmp_path, monkeypatch, capsys):
    """Load a weight file as a command does; gives metadata and the lines that a user sees."""
    monkeypatch.chdir(tmp_path)
    torch.save({"params": SPAN(**OWN).state_dict()}, "mute.pth")
    torch.save({"params": SPAN(**OWN).state_dict(), **beside(SPAN(**OWN))}, "says.pth")

    def run(*words):
        parser = argparse.ArgumentParser()
        parser.add_argument("weights")
        networks.add_arguments(parser)
        metadata = describe(networks.load_network(parser.parse_args(words)))
        return metadata.arguments, capsys.readouterr().err.splitlines()

    return run


def options(**network):
    with open("opt.yml", "w") as file:
        yaml.safe_dump({"network_g": network}, file)


def test_what_is_assumed_is_told_in_one_line(load):
    arguments, lines = load("mute.pth")
    assert arguments["img_range"] == 255
    said = "mute.pth does not say what its shapes cannot tell; assumed: "
    assert lines == [f"dscsr: {said}img_range 255, rgb_mean 0.4488/0.4371/0.404, norm true. {REMEDY}"]
    assert load("mute.pth")[1] == lines  # every time, not once in a process
    arguments, lines = load("mute.pth", "--set", "img_range=1", "rgb_mean=[0.1, 0.2, 0.3]")
    assert arguments == {**arguments, **OWN}
    assert lines == [f"dscsr: {said}norm true. {REMEDY}"]
    arguments, lines = load("says.pth")
    assert (arguments, lines) == ({**arguments, **OWN}, [])


def test_weights_without_a_norm_assume_nothing(load):
    torch.save(SPAN(feature_channels=4, upscale=2, norm=False).state_dict(), "mute.pth")
    arguments, lines = load("mute.pth")
    assert (arguments["norm"], lines) == (False, [])


def test_the_option_file_of_the_training_says_all(load):
    options(type="SPAN_dscsr", **{name: value for name, value in OWN.items() if name != "rgb_mean"})
    arguments, lines = load("mute.pth", "-opt", "opt.yml")
    assert (arguments["img_range"], arguments["rgb_mean"], lines) == (1, [0.4488, 0.4371, 0.4040], [])
    options(type="DSCLoRA", **OWN)  # the fused network of its training
    arguments, lines = load("mute.pth", "-opt", "opt.yml")
    assert (arguments["rgb_mean"], lines) == (OWN["rgb_mean"], [])
    options(type="SPAN", lora={"layers": {"block_*": [1, 1]}}, **OWN)
    assert load("mute.pth", "-opt", "opt.yml") == (arguments, [])


def test_the_option_file_of_students_and_their_teacher(load):
    backbone = {"type": "CARN", "num_feat": 8, "upscale": 2, "final_relu": True}
    options(type="CSSRNet", backbone=backbone, widths=[0.5])
    for width in (8, 4):
        torch.save(CARN(num_feat=width, upscale=2).state_dict(), "carn.pth")
        arguments, lines = load("carn.pth", "-opt", "opt.yml")
        assert (arguments["num_feat"], arguments["final_relu"], lines) == (width, True, [])
    torch.save(CARN(num_feat=16, upscale=2).state_dict(), "carn.pth")
    with pytest.raises(DscsrError, match=r"carn.pth: .* file \(num_feat: 8\), but got others \(num_feat: 16\)"):
        load("carn.pth", "-opt", "opt.yml")


def test_the_users_word_wins_and_one_line_says_so(load):
    options(type="SPAN", **{**OWN, "img_range": 2.0})
    arguments, lines = load("says.pth", "-opt", "opt.yml")
    assert (arguments["img_range"], lines) == (2, ["dscsr: says.pth says img_range 1; taken, as given: img_range 2."])
    arguments, lines = load("says.pth", "-opt", "opt.yml", "--set", "img_range=3")
    assert (arguments["img_range"], lines) == (3, ["dscsr: says.pth says img_range 1; taken, as given: img_range 3."])


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"type": "CARN"}, "Expected metadata of SPAN, since the layers are its, but got 'CARN'. Name the one"),
        ({"type": "SPAN"}, r"upscale among \[4\], but got 12"),
        ({"type": "SPAN", "upscale": 2}, r"mute.pth: .* \(feature_channels: 48\), but .* \(feature_channels: 4\)"),
        ({"type": "SPAN", **OWN, "norm": 1}, "network_g of the option file: Expected `norm` to be true .* got 1"),
        ({"type": "CSSRNet"}, "Expected arguments that the network can be built from, but got .* 'backbone'"),
        ({}, "Expected a section `network_g` with a `type` in opt.yml"),
    ],
)
def test_an_option_file_of_another_training_gets_one_message(load, network, message):
    options(**network)
    with pytest.raises(DscsrError, match=message):
        load("mute.pth", "-opt", "opt.yml")

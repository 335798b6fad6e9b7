"""`dscsr weights`, and names in place of files wherever a command takes weights."""

import hashlib
import re
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from PIL import Image

from dscsr_arch import SPAN, conv_lora, load_model
from dscsr_model import weights
from dscsr_model.cli import main
from dscsr_model.data.bicubic import downscale, resize
from dscsr_model.data.image_io import read_rgb
from dscsr_model.evaluation.metrics import psnr, ssim

CARD = (
    *("licence", "terms", "set5", "measured", "data", "options", "commands", "hours", "machine", "versions", "date"),
    "teacher",
)
ROW = ("what", "network", "scale", "parameters", "source", "file", "licence")


@pytest.fixture
def released(tmp_path, monkeypatch):
    """The file of public weights ``tiny_x2``, not yet where it belongs; downloads go to ``tmp_path/share``."""
    file = tmp_path / "as_released.pth"
    torch.save(SPAN(feature_channels=4, upscale=2).fuse().state_dict(), file)
    row = {
        "what": "a SPAN", "network": "SPAN", "scale": 2, "parameters": 1234, "source": "https://there/as_released.pth",
        "file": file.name, "bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "licence": "MIT",
    }  # fmt: skip
    monkeypatch.setattr(weights, "public", lambda: {"tiny_x2": weights.Card("tiny_x2", row)})
    monkeypatch.setenv("DSCSR_WEIGHTS", str(tmp_path / "share"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "share").mkdir()
    return file


@pytest.fixture
def run(capsys):
    def run(*words):
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_all_are_listed_and_told(run, monkeypatch):
    monkeypatch.delenv("DSCSR_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    code, out, _ = run("weights")
    assert code == 0
    assert "/data/dscsr/weights" in out
    for name, card in weights.known().items():
        known = card.text.split() if card.shipped else [card.facts["source"], card.facts.get("sha256", "")]
        assert all(fact in out for fact in (name, card.facts["licence"], *([] if card.shipped else known)))
        code, told, _ = run("weights", name)
        assert code == 0
        assert all(fact in told for fact in known)
    assert run("weights", "span_ch26")[2] == (
        "dscsr: error: Expected the name of weights, but got `span_ch26`. Did you mean `span_ch26_x4`?\n"
    )


@pytest.mark.parametrize(
    "command",
    [
        ("export", "tiny_x2", "-o", "out.safetensors"),
        ("export", "adapters.pth", "--base", "tiny_x2", "-o", "out.safetensors"),
        ("profile", "tiny_x2", "--no-flops"),
        ("submit", "tiny_x2", "--team", "07", "--name", "Tiny", "-o", "kit"),
        ("upscale", "-i", "photo.png", "-o", "out", "-w", "tiny_x2"),
    ],
    ids=lambda command: " ".join(command[:3]),
)
def test_commands_tell_where_a_missing_file_is_to_be_had(run, released, command):
    code, _, err = run(*command)
    assert code == 1
    assert f"Expected the file of the public weights `tiny_x2` at {released.parent}/share/tiny_x2.pth, but got" in err
    assert "Download it from https://there/as_released.pth; `dscsr weights tiny_x2` says how." in err


@pytest.mark.parametrize("name", ["tiny_x2.pth", "as_released.pth"])
def test_a_downloaded_file_is_found(run, released, name):
    """As its card says it is to be called, or as it was; nothing is said of what shapes do not tell."""
    out = run("weights", "tiny_x2")[1]
    assert f"save it as\n  {released.parent}/share/tiny_x2.pth\nfor example by\n  curl -L --create-dirs -o" in out
    released.rename(released.parent / "share" / name)
    assert f"It is here: {released.parent}/share/{name}" in run("weights", "tiny_x2")[1]
    assert re.search(r"tiny_x2 .* MIT +here\n", run("weights")[1])
    adapted = conv_lora.inject(load_model(f"share/{name}"), {"block_1": (1, 2)})
    torch.save({"params": conv_lora.lora_state_dict(adapted)}, "adapters.pth")
    assert run("export", "tiny_x2", "-o", "fused.safetensors") == (0, ANY, "")
    assert run("export", "adapters.pth", "--base", "tiny_x2", "-o", "merged.safetensors")[0] == 0


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (lambda _: b"<html>", r"but got one of 6 bytes, not [\d,]+\. Download it again from https"),
        (lambda whole: whole[:-1] + b"!", r"but got one of SHA-256 \w{64}, not \w{64}\. Download it again"),
    ],
    ids=["size", "content"],
)
def test_another_file_is_refused_by_the_name_of_the_released_one(run, released, content, told):
    """By its path it is used, and so is any file that is called as weights are."""
    file = released.parent / "share/tiny_x2.pth"
    file.write_bytes(content(released.read_bytes()))
    assert "not the released file" in run("weights")[1]
    code, _, err = run("export", "tiny_x2", "-o", "out.safetensors")
    assert code == 1
    assert re.search(told, err), err
    released.rename("tiny_x2")
    assert run("export", "tiny_x2", "-o", "out.safetensors")[0] == 0


@pytest.mark.parametrize(
    ("word", "told"),
    [
        (
            "tiny_x4",
            "a weight file, or a name of weights, but got `tiny_x4`, which is neither. Did you mean `tiny_x2`?",
        ),
        ("tiny_x2.pth", "Did you mean `tiny_x2`?"),
        ("else", "which is neither. Names are `"),
        ("no.pth", "a weight file at no.pth, but got none"),
    ],
)
def test_what_is_neither_a_name_nor_a_file(run, released, word, told):
    code, _, err = run("export", word, "-o", "out.safetensors")
    assert code == 1
    assert told in err


@pytest.mark.parametrize("scale", [card.facts["scale"] for card in weights.shipped().values()])
def test_upscaling_with_nothing_said_beats_bicubic_as_the_card_says(assets, tmp_path, run, scale):
    originals = {}
    for file in (assets / "set5/HR").iterdir():
        image = read_rgb(file)
        height, width = (side // scale * scale for side in image.shape[:2])
        originals[file.stem] = image[:height, :width]
        Image.fromarray(downscale(originals[file.stem], scale)).save(tmp_path / file.name)
    said = [] if scale == 4 else ["--scale", scale]
    code, out, err = run("upscale", "-i", tmp_path, "-o", tmp_path / "out", *said)
    assert code == 0
    assert f"5 images x{scale}" in out
    assert f"weights: span_x{scale}, SPAN x{scale} (come with dscsr" in err
    figures = [
        [
            measure(image, original, scale, luma=True)
            for image in (
                read_rgb(tmp_path / f"out/{name}_x{scale}.png"),
                resize(read_rgb(tmp_path / f"{name}.png"), scale),
            )
            for measure in (psnr, ssim)
        ]
        for name, original in originals.items()
    ]
    ours, our_ssim, bicubic, _ = np.mean(figures, axis=0)
    assert ours > bicubic + 1
    facts = weights.of_scale(scale).facts["set5"]
    assert (ours, our_ssim) == (pytest.approx(facts["psnr"], abs=0.01), pytest.approx(facts["ssim"], abs=0.001))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--scale", 7], "Expected a scale whose weights come with dscsr (4), but got 7. Name other weights with -w"),
        (
            ["--scale", 4, "-w", "as_released.pth"],
            "Expected weights of --scale 4, but got as_released.pth, of scale 2.",
        ),
        (["--base", "span_x4"], "Expected -w WEIGHTS with --base, --width, --param-key, --set or -opt, but got none."),
    ],
)
def test_scales_that_cannot_be_had(run, released, monkeypatch, words, told):
    monkeypatch.setattr(weights, "shipped", lambda: {"span_x4": weights.Card("span_x4", {"scale": 4}, shipped=True)})
    Image.new("RGB", (8, 8)).save("photo.png")
    code, _, err = run("upscale", "-i", "photo.png", "-o", "out", *words)
    assert code == 1
    assert told in err


def test_cards_are_those_of_their_files():
    """Front matter that a program reads, and all that it must say; shipped files are few and small."""
    files = [card.place for card in weights.shipped().values()]
    assert sum(file.stat().st_size for file in files) < 3 * 2**20
    for name, card in weights.shipped().items():
        network = load_model(card.place)
        size = sum(parameter.numel() for parameter in network.parameters())
        assert name == f"{card.facts['network'].lower()}_x{card.facts['scale']}" == card.facts["name"]
        assert (type(network).__name__, network.upscale, size) == tuple(
            card.facts[key] for key in ("network", "scale", "parameters")
        )
        for key in CARD:
            assert card.facts[key], f"{name}.md says nothing of {key}"
    for name, card in weights.public().items():
        assert re.fullmatch(r"[a-z0-9_]+_x[234]", name)
        assert set(card.facts) <= {*ROW, "bytes", "sha256", "set5"}
        assert set(ROW) <= set(card.facts)
        assert len(card.facts.get("sha256", "0" * 64)) == 64


@pytest.mark.parametrize(
    "name", ["span_ch26_x4", "span_ch28_x4", "dscf_ch26_x4", "spanf_ch32_x4", "pds_ch32_x4", "spanv2_ch32_x4"]
)
def test_released_files_are_those_of_the_table(assets, monkeypatch, name):
    monkeypatch.setenv("DSCSR_WEIGHTS", str(assets / "weights"))
    assert weights.find(name).name == f"{name}_fused.pth"
    network, facts = load_model(weights.find(name)), weights.public()[name].facts
    assert (type(network).__name__, network(torch.zeros(1, 3, 8, 8)).shape[-1]) == (
        facts["network"],
        8 * facts["scale"],
    )
    assert sum(parameter.numel() for parameter in network.parameters()) == facts["parameters"]

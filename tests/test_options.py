"""Every file in options/ says how to run it, passes the option check on data of its kind, and its network runs."""

import re
from collections.abc import Iterator
from pathlib import Path

import option_files
import pytest
import torch
import yaml

from dscsr_arch import SPAN, SPANF, SPANV2
from dscsr_arch.sizes import padded, size_requirements
from dscsr_model import weights
from dscsr_model.losses import vgg
from dscsr_model.losses.vgg import VGG19Features

OPTIONS = Path(__file__).resolve().parents[1] / "options"
FILES = sorted(OPTIONS.rglob("*.yml"))


def test_there_are_options_and_they_lie_flat():
    assert len(FILES) >= 7
    assert all(file.parent == OPTIONS for file in FILES)


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def file(request: pytest.FixtureRequest) -> Path:
    return request.param


def comment_lines(file: Path) -> Iterator[str]:
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            return
        yield line.removeprefix("#").strip()


def phase_of(file: Path) -> str:
    """train or test, from the command among the first lines, which must name this very file."""
    commands = [line for line in list(comment_lines(file))[:6] if f"-opt options/{file.name}" in line]
    assert commands, f"{file.name} does not open with the command that runs it"
    match = re.match(r"dscsr (train|test) ", commands[0])
    assert match is not None, commands[0]
    return match[1]


def test_the_header_tells_the_command_and_the_data(file):
    header = list(comment_lines(file))
    phase = phase_of(file)
    assert any("datasets/" in line for line in header), "where does the data come from?"
    assert "yaml-language-server: $schema=schema.json" in header
    for line in header:
        for named in re.findall(r"options/\S+?\.yml", line):
            assert (OPTIONS.parent / named).is_file(), named
        assert not re.search(r"-opt options/(?!" + re.escape(file.stem) + r"\.yml)", line), line
    options = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert options["name"] == file.stem
    assert ("train" in options) == (phase == "train")
    for name in (options["path"].get("pretrain_network_g"), options.get("teacher", {}).get("weights")):
        if name is not None and "/" not in name:
            told = name in weights.public() and "`dscsr weights " in " ".join(header)
            assert told or name in weights.shipped(), f"where is {name} to be had?"


@pytest.fixture(scope="module")
def torch_home(tmp_path_factory):
    """A cache of torch.hub that has VGG-19, or what passes for it."""
    home = tmp_path_factory.mktemp("torch")
    (home / "hub/checkpoints").mkdir(parents=True)
    torch.save(VGG19Features("random").state_dict(), home / "hub/checkpoints" / vgg.FILE)
    return home


def test_it_passes_the_check_and_its_network_runs(file, tmp_path, monkeypatch, torch_home):
    """The file itself, with data in its place: what a YAML writer makes of it has no 1e-4 that is text."""
    text = file.read_text(encoding="utf-8")
    options = yaml.safe_load(text)
    network = option_files.build(options["network_g"])
    for name, dataset in options["datasets"].items():
        roots = {key: value for key, value in dataset.items() if key.startswith("dataroot")}
        stages = options.get("train", {}).get("stages", ())
        option_files.make_dataset(tmp_path / name, dataset, options["scale"], stages)
        for key, root in roots.items():
            text = re.sub(rf"{key}: {re.escape(root)}(?!\S)", f"{key}: {dataset[key]}", text, count=1)
    path = options["path"]
    option_files.make_weights(tmp_path, path.get("pretrain_network_g"), path.get("param_key_g"), network)
    if teacher := options.get("teacher"):
        width = re.search(r"_ch(\d+)_", teacher["weights"])
        kind = {"spanf": SPANF, "spanv2": SPANV2}.get(Path(teacher["weights"]).name.split("_")[0], SPAN)
        like = kind(feature_channels=int(width[1]) if width else 28, upscale=options["scale"])
        option_files.make_weights(tmp_path, teacher["weights"], teacher["param_key"], like)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    checked = tmp_path / file.name
    checked.write_text(text, encoding="utf-8")
    faults = option_files.faults_of(checked, is_train=phase_of(file) == "train")
    assert not faults, "\n".join(map(str, faults))

    with torch.no_grad():
        image = padded(network.eval(), torch.rand(1, 3, 17, 13), size_requirements(network))
    assert image.shape == (1, 3, 17 * options["scale"], 13 * options["scale"])
    assert torch.isfinite(image).all()

"""A kit: its content, the check that it must pass, and what it refuses."""

import math
import os
import re
import sys
import types
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from dscsr_arch import CARN, RCAN, SPAN, SPANF, SPANV2, DSCLoRA
from dscsr_arch.errors import DscsrError
from dscsr_model.evaluation.protocol import Quality
from dscsr_model.export.ntire import bare_check, own_file, self_check, texts
from dscsr_model.export.ntire import kit as kits
from dscsr_model.export.ntire.single_file import single_file
from dscsr_model.profiling.complexity import count as count_with_fvcore

FIGURES = self_check.Figures(1, 2, 3, 4, 0.0, 0.0, [[5, 6]], "3.9", "1.13")


def make(network, out, name="FastSPAN", **settings):
    return kits.make(network, kits.Kit(7, name, out, seconds=0, **settings), lambda items, *_: items)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def network():
    return SPAN(feature_channels=4)


@pytest.fixture
def unchecked(monkeypatch):
    """For what comes after the self-check: the folder, the texts."""
    monkeypatch.setattr(kits, "self_check", lambda *_args, **_settings: FIGURES)


@pytest.fixture
def alone(tmp_path, network, unchecked):
    """Arguments that load the network from a kit's files as the challenge does."""
    make(network, tmp_path / "kit")
    return [str(tmp_path / "kit" / each) for each in ("models/team07_FastSPAN.py", "model_zoo/team07_FastSPAN.pth")]


CHALLENGE = """
def select_model(args, device):
    model_id = args.model_id
    if model_id == 0:
        pass
{branch}    else:
        raise NotImplementedError(f"Model {{model_id}} is not implemented.")
    model.eval()
    tile = None
    for k, v in model.named_parameters():
        v.requires_grad = False
    return model.to(device), name, data_range, tile


def main(args):
    model, name, data_range, tile = select_model(args, torch.device("cpu"))
    image = args.image * (data_range / 255)
    return name, (model(image) * (255 / data_range)).clamp(0, 255).round()
"""
"""What test_demo.py of 2025 and of 2026, which are alike here, does with a kit."""


def dsclora(folder):
    network = DSCLoRA(feature_channels=8)
    torch.nn.init.normal_(network.block_1.c1_r.eval_conv.lora_B)
    return network.eval(), network


def own_of_255(folder):
    """Twice the size twice, and a layer that does nothing but at a mean other than 0."""
    code = """
import torch.nn as nn
import torch.nn.functional as F
class Doubling(nn.Module):
    def __init__(self, times):
        super(Doubling, self).__init__()
        self.times = times
        self.norm = nn.BatchNorm2d(3)
    def forward(self, x):
        return F.interpolate(self.norm(x), scale_factor=2 ** self.times, mode="nearest")
"""
    (folder / "doubling.py").write_text(code)
    network = torch.nn.BatchNorm2d(3).eval()
    network.running_mean[:] = 51
    weights = {f"module.norm.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"params_ema": weights}, folder / "doubling.pth")
    own = own_file.read(folder / "doubling.py", "Doubling", folder / "doubling.pth", {"times": 2}, data_range=255.0)
    return own, lambda x: F.interpolate(network(255 * x) / 255, scale_factor=4, mode="nearest")


@pytest.mark.parametrize("made_of", [dsclora, own_of_255])
@torch.no_grad()
def test_kit_does_in_the_challenge_what_the_network_does(made_of, tmp_path, unchecked, monkeypatch):
    """The lines of the branch, run in the place that is for them, on the files of the kit."""
    (tmp_path / "given").mkdir()
    given, network = made_of(tmp_path / "given")
    make(given, tmp_path / "kit")
    assert files(tmp_path / "kit") == [
        "README.md", "kit.json", "model_zoo/team07_FastSPAN.pth", "models/team07_FastSPAN.py", "test_demo_branch.txt"
    ]  # fmt: skip
    assert sorted(os.listdir(tmp_path)) == ["given", "kit"]
    branch = (tmp_path / "kit" / "test_demo_branch.txt").read_text()
    namespace = {"os": os, "torch": torch}
    exec(CHALLENGE.format(branch=branch), namespace)
    monkeypatch.chdir(tmp_path / "kit")
    monkeypatch.syspath_prepend(str(tmp_path / "kit"))
    for name in ("models", "models.team07_FastSPAN"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    image = torch.randint(60, 200, (1, 3, 11, 17)).float()
    name, got = namespace["main"](types.SimpleNamespace(model_id=7, image=image))
    assert name == "07_FastSPAN"
    assert (got - (255 * network(image / 255)).clamp(0, 255)).abs().max() < 0.51  # rounded to 8 bits
    assert got.std() > 1
    state = torch.load("model_zoo/team07_FastSPAN.pth", weights_only=True)
    assert type(state) is dict
    assert {tensor.dtype for name, tensor in state.items() if "num_batches" not in name} == {torch.float32}
    assert branch.rstrip() in (tmp_path / "kit" / "README.md").read_text()


def test_the_file_warms_up_where_there_is_a_gpu(alone, monkeypatch):
    x = torch.rand(1, 3, 8, 9)
    with torch.no_grad():
        expected = bare_check.load(alone[0], "FastSPAN", alone[1])(x)
    moved, seen = [], []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda self: moved.append("cuda") or self)
    monkeypatch.setattr(torch.nn.Module, "cpu", lambda self: moved.append("cpu") or self)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: seen.append(tuple(self.shape)) or self)
    network = bare_check.load(alone[0], "FastSPAN", alone[1])
    assert (moved, seen) == (["cuda", "cpu"], [(1, 3, 256, 256)])
    with torch.no_grad():
        assert torch.equal(network(x), expected)


# --- the check ----------------------------------------------------------------------------------------------------


def test_a_failing_self_check_leaves_nothing(tmp_path, network, monkeypatch):
    """With an interpreter that only fails, in place of a file that does."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\ncase "$2" in -c) echo "[]";; *) echo "Traceback\nBoom: no" >&2; exit 1;; esac\n')
    python.chmod(0o755)
    monkeypatch.chdir(tmp_path)  # relative paths mean the user's folder, not one of the check
    with pytest.raises(DscsrError, match=r"run alone in a bare process, but got Boom: no .*Nothing was kept"):
        make(network, Path("new/kit"), python="./python")
    with pytest.raises(DscsrError, match=r"Expected a Python interpreter at .*nowhere, but got none"):
        make(network, Path("new/kit"), python="nowhere")
    with pytest.raises(DscsrError, match=r"a Python interpreter at .*/false, but got .*status 1. Name one that"):
        make(network, Path("new/kit"), python="false")  # looked up on the PATH
    assert os.listdir(tmp_path) == ["python"]


def test_wrong_and_broken_weights_are_seen(alone):
    """NaN is larger than no tolerance."""
    network = bare_check.load(alone[0], "FastSPAN", alone[1])
    other = SPAN(feature_channels=4).fuse().eval()
    found = bare_check.compare(network, self_check.examples_of(other, 0), 0)
    for inside in (found["inside"], math.nan):
        words = re.escape(f"up to 0.0001, but got images that differ by {inside:.2e}")
        with pytest.raises(DscsrError, match=words):
            self_check.judge({"hidden": list(bare_check.FORBIDDEN), **found, "inside": inside})
    x = torch.rand(1, 3, 4, 4, dtype=torch.float64)
    assert math.isnan(bare_check.compare(torch.nn.Identity(), [(x, x), (x, x * math.nan), (x, x)], 0)["inside"])


def test_a_process_that_sees_dscsr_is_no_check():
    answer = {"hidden": ["basicsr", "dscsr_autoload", "dscsr_model"], "largest": 1.0, "inside": 0.0}
    with pytest.raises(DscsrError, match=r"Expected a bare process that has no dscsr_arch, but got one that could"):
        self_check.judge(answer)


@pytest.mark.parametrize(
    "network", [SPAN(feature_channels=6).fuse(), CARN(num_feat=6), SPANF(feature_channels=4).fuse()], ids=type
)
def test_counts_as_fvcore_does_with_it_and_without(network, monkeypatch):
    expected = {**count_with_fvcore(network, 24, 40)._asdict(), "uncounted": ()}
    assert {**bare_check.count(network, (24, 40)), "uncounted": ()} == {**expected, "counted_by": "fvcore"}
    monkeypatch.setitem(sys.modules, "fvcore.nn", None)
    assert {**bare_check.count(network, (24, 40)), "uncounted": ()} == {**expected, "counted_by": ""}


def test_counts_what_is_no_convolution_if_fvcore_is_there(monkeypatch):
    """RCAN's means of the whole image, of 6 blocks of 8 channels; the convolutions behind each give 2 + 8 numbers."""
    network = RCAN(num_feat=8, num_group=3, num_block=2, squeeze_factor=4)
    found = bare_check.count(network, (24, 40))
    monkeypatch.setitem(sys.modules, "fvcore.nn", None)
    assert found["flops"] - bare_check.count(network, (24, 40))["flops"] == 6 * 8 * 24 * 40
    assert found["activations"] % (24 * 40) == 6 * 10


def test_figures_tell_a_psnr_below_the_challenges(network):
    figures = FIGURES._replace(runtime_ms=10.0, baseline_ms=20.0, runs=3, machine="a machine")
    for value, folder, verdict in (
        (26.896, "DIV2K_LSDIR_valid_HR", "; BELOW the 26.90 dB that the challenge asks for"),
        (26.90, "DIV2K_LSDIR_valid_HR", "; at least the 26.90 dB that the challenge asks for"),  # rounds to the same
        (20.0, "Set5", ""),
    ):
        kit, form = kits.Kit(7, "Fast", Path("kit"), data=(Path(folder), Path("LR"))), single_file(network)
        rows = dict(texts.table(kits.Made(kit, form, figures, Quality(value, value, 3))))
        assert rows["PSNR (RGB, 8 bits, border 4)"] == f"{value:.3f} dB, mean of 3 images in {folder}{verdict}"
    assert rows["Runtime at 256x256, here"] == "10.0 ms (median of 3; a machine)"
    # half of the baseline's time, next to no operations and parameters
    assert rows["Score of 2026 with these times"].startswith(f"{0.8 * math.e + 0.2:.2f} (SPAN-28: 7.39;")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "fold"),
    [(SPAN(feature_channels=26), "all"), (CARN(num_feat=32), None), (SPANF(), "exact"), (SPANV2(), None)],
)
def test_on_the_challenges_own_python(network, fold, tmp_path):
    """Python 3.9 with torch 1.13, if one is named."""
    python = os.environ.get("DSCSR_NTIRE_PYTHON")
    if not python:
        pytest.skip("needs an interpreter with Python 3.9 and torch 1.13: set DSCSR_NTIRE_PYTHON to it")
    figures = make(network, tmp_path / "kit", fold=fold, python=python).figures
    assert (figures.python[:4], figures.torch[:4]) == ("3.9.", "1.13")


# --- the place ------------------------------------------------------------------------------------------------------


def test_replaces_a_kit_when_asked(tmp_path, network, unchecked):
    out = tmp_path / "kit"
    out.mkdir()  # an empty folder may be there
    make(network, out, name="Old")
    with pytest.raises(DscsrError, match=r"kit, which is an older kit. Add --force to replace it"):
        make(network, out)
    (out / "models" / "__pycache__").mkdir()
    (out / "models" / "__pycache__" / "x.pyc").touch()  # as running it makes
    make(network, out, force=True)
    assert "models/team07_FastSPAN.py" in files(out)
    assert "models/team07_Old.py" not in files(out)
    assert sorted(os.listdir(tmp_path)) == ["kit"]


def test_never_touches_what_is_the_users(tmp_path, network, unchecked):
    def refuse(place, message):
        with pytest.raises(DscsrError, match=message):
            make(network, tmp_path / place, force=True)

    out = tmp_path / "kit"
    make(network, out)
    (out / "notes.txt").write_text("mine")
    refuse("kit", r"but got .*kit, which also holds notes.txt. Move that away")
    (out / "notes.txt").rename(tmp_path / "notes.txt")
    (out / "runs").symlink_to(tmp_path)
    refuse("kit", r"kit, which also holds runs. Move that away")
    for folder, file in (("thesis", "kit.json"), ("NTIRE2026_ESR", "test_demo.py")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text("[]")
    refuse("thesis", r"thesis, which is there and is no kit. Choose another -o")
    refuse("notes.txt", r"notes.txt, which is there and is no kit")
    refuse("NTIRE2026_ESR", r"looks like the challenge's repository. Make the kit elsewhere and copy")
    for place in ("nowhere", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        (tmp_path / place).with_name(f"to_{place}").symlink_to(tmp_path / place)
        refuse(f"to_{place}", r"to_\w+, which is a link. Name a folder that is neither")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert files(tmp_path / "thesis") + files(tmp_path / "NTIRE2026_ESR") == ["kit.json", "test_demo.py"]

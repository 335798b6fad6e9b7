"""A kit: its content, the check that it must pass, and what it refuses."""

import math
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from dscsr_arch import CARN, SPAN, DSCLoRA
from dscsr_arch.errors import DscsrError
from dscsr_model.export.ntire import kit as kits
from dscsr_model.export.ntire import self_check, standalone, texts
from dscsr_model.export.ntire.bare_check import compare, count, load, max_or_nan
from dscsr_model.profiling.complexity import count as count_with_fvcore


def make(network, out, name="FastSPAN", **settings):
    return kits.make(kits.plan(network, kits.Kit(7, name, out, seconds=0, **settings)), lambda items, *_: items)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def never_checked(monkeypatch):
    """For what has to be told before the self-check starts."""

    def fail(*_args, **_settings):
        raise AssertionError("the self-check started")

    monkeypatch.setattr(kits, "self_check", fail)


@pytest.fixture
def unchecked(monkeypatch):
    """For what comes after the self-check: the folder, the texts."""
    figures = self_check.Figures(1, 2, 3, 4, 0.0, 0.0, [[5, 6]], "3.9", "1.13")
    monkeypatch.setattr(kits, "self_check", lambda *_args, **_settings: figures)
    monkeypatch.setattr(kits, "_compare_counts", lambda *_: None)


def test_kit_does_in_the_challenge_what_the_network_does(tmp_path, unchecked, monkeypatch):
    """As test_demo.py does it: the lines of the branch, run in its place, on the files of the kit."""
    network = DSCLoRA(feature_channels=8)
    torch.nn.init.normal_(network.block_1.c1_r.eval_conv.lora_B)
    make(network.eval(), tmp_path / "kit")
    assert files(tmp_path / "kit") == [
        "README.md", "kit.json", "model_zoo/team07_FastSPAN.pth", "models/team07_FastSPAN.py", "test_demo_branch.txt"
    ]  # fmt: skip
    assert sorted(os.listdir(tmp_path)) == ["kit"]
    branch = (tmp_path / "kit" / "test_demo_branch.txt").read_text()
    script = "def select_model(args, device):\n    model_id = args.model_id\n    if model_id == 0:\n        pass\n"
    script += (
        branch + "    else:\n        raise NotImplementedError\n    return model.eval().to(device), name, data_range\n"
    )
    namespace = {"os": os, "torch": torch}
    exec(script, namespace)
    monkeypatch.chdir(tmp_path / "kit")
    monkeypatch.syspath_prepend(str(tmp_path / "kit"))
    for name in ("models", "models.team07_FastSPAN"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    model, name, data_range = namespace["select_model"](types.SimpleNamespace(model_id=7), "cpu")
    assert (name, data_range, type(model).__name__) == ("07_FastSPAN", 1.0, "FastSPAN")
    x = torch.rand(1, 3, 11, 17)
    with torch.no_grad():
        torch.testing.assert_close(model(x), network(x), atol=1e-5, rtol=1e-5)
    state = torch.load("model_zoo/team07_FastSPAN.pth", weights_only=True)
    assert type(state) is dict
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert branch.rstrip() in (tmp_path / "kit" / "README.md").read_text()


def test_the_file_warms_up_where_there_is_a_gpu(tmp_path, unchecked, monkeypatch):
    make(SPAN(feature_channels=4), tmp_path / "kit")
    files = [
        str(tmp_path / "kit" / folder) for folder in ("models/team07_FastSPAN.py", "model_zoo/team07_FastSPAN.pth")
    ]
    x = torch.rand(1, 3, 8, 9)
    with torch.no_grad():
        expected = load(files[0], "FastSPAN", files[1])(x)
    moved, seen = [], []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda self: moved.append("cuda") or self)
    monkeypatch.setattr(torch.nn.Module, "cpu", lambda self: moved.append("cpu") or self)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: seen.append(tuple(self.shape)) or self)
    network = load(files[0], "FastSPAN", files[1])
    assert (moved, seen) == (["cuda", "cpu"], [(1, 3, 256, 256)])
    with torch.no_grad():
        assert torch.equal(network(x), expected)


def test_a_failing_self_check_leaves_nothing(tmp_path, monkeypatch):
    """With an interpreter that only fails, in place of a file that does."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\ncase "$2" in -c) echo "[]";; *) echo "Traceback\nBoom: no" >&2; exit 1;; esac\n')
    python.chmod(0o755)
    monkeypatch.chdir(tmp_path)  # relative paths mean the user's folder, not one of the check
    with pytest.raises(DscsrError, match=r"run alone in a bare process, but got: Boom: no .*Nothing was kept"):
        make(SPAN(feature_channels=4), Path("new/kit"), python="./python")
    assert os.listdir(tmp_path) == ["python"]


@pytest.mark.slow
def test_a_file_that_needs_more_than_torch_fails(tmp_path, monkeypatch):
    rewrite = kits.rewrite
    monkeypatch.setattr(kits, "rewrite", lambda *args: rewrite(*args) + "import dscsr_arch\n")
    with pytest.raises(DscsrError, match=r"bare process, but got: ImportError: dscsr_arch is not there"):
        make(SPAN(feature_channels=4), tmp_path / "kit")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_wrong_weights_fail(tmp_path, monkeypatch):
    def spoil(network, fold=None):
        form = standalone.standalone(network, fold)
        form.state["conv_2.bias"][0] += 0.1
        return form

    monkeypatch.setattr(kits, "standalone", spoil)
    with pytest.raises(DscsrError, match=r"the trained network's images up to 0.0001, but they differ by \d"):
        make(SPAN(feature_channels=4), tmp_path / "new" / "kit")
    assert not list(tmp_path.iterdir())


def test_wrong_weights_are_seen():
    network, other = SPAN(feature_channels=4).fuse().eval(), standalone.standalone(SPAN(feature_channels=4)).build()
    found = compare(other, self_check._examples(network, 0), 0)
    with pytest.raises(DscsrError, match=r"Expected the file to give the trained network's images up to 0.0001"):
        self_check._judge({"hidden": list(self_check.bare_check.FORBIDDEN), **found})


def test_broken_weights_do_not_pass():
    """NaN is larger than no tolerance."""
    answer = {"hidden": list(self_check.bare_check.FORBIDDEN), "largest": float("nan"), "inside": float("nan")}
    with pytest.raises(DscsrError, match=r"differ by nan.*Weights that are broken"):
        self_check._judge(answer)
    assert str(max_or_nan([1.0, float("nan"), 2.0])) == "nan"
    assert max_or_nan([1.0, 3.0, 2.0]) == 3.0


def test_a_process_that_sees_dscsr_is_no_check():
    answer = {"hidden": ["basicsr", "dscsr_autoload", "dscsr_model"], "largest": 1.0, "inside": 0.0}
    with pytest.raises(DscsrError, match=r"Expected a bare process that has no dscsr_arch, but it could import them"):
        self_check._judge(answer)


@pytest.mark.parametrize(
    ("network", "fold"), [(SPAN(feature_channels=6), None), (SPAN(feature_channels=6), "all"), (CARN(num_feat=6), None)]
)
def test_counts_as_fvcore_does(network, fold):
    alone = standalone.standalone(network, fold).build()
    counted = count_with_fvcore(alone, 24, 40)
    assert count(alone, (24, 40)) == counted._asdict()


def test_fvcore_has_to_agree(tmp_path, monkeypatch):
    figures = self_check.Figures(1, 2, 3, 4, 0.0, 0.0, [[5, 6]], "3.9", "1.13")
    monkeypatch.setattr(kits, "self_check", lambda *_args, **_settings: figures)
    with pytest.raises(DscsrError, match=r"Expected fvcore to count \(1, 0, 0, 4\).*Please report this"):
        make(SPAN(feature_channels=4), tmp_path / "kit")
    assert not list(tmp_path.iterdir())


def test_figures_tell_a_psnr_below_the_challenges():
    figures = self_check.Figures(1, 2, 3, 4, 0.0, 0.0, [[5, 6]], "3.9", "1.13", 10.0, 20.0, 3, "a machine")
    form = standalone.standalone(SPAN(feature_channels=4))
    for value, folder, verdict in (
        (26.896, "DIV2K_LSDIR_valid_HR", "; BELOW the 26.90 dB that the challenge asks for"),
        (26.90, "DIV2K_LSDIR_valid_HR", "; at least the 26.90 dB that the challenge asks for"),  # rounds to the same
        (20.0, "Set5", ""),
    ):
        rows = dict(texts.table(form, figures, texts.Quality(value, 3, folder)))
        assert rows["PSNR (RGB, 8 bits, border 4)"] == f"{value:.3f} dB, mean of 3 images in {folder}{verdict}"
    assert rows["Runtime at 256x256, here"] == "10.0 ms (median of 3; a machine)"
    # half of the baseline's time, next to no operations and parameters
    assert rows["Score of 2026 with these times"].startswith(f"{0.8 * math.e + 0.2:.2f} (SPAN-28: 7.39;")


def test_interpreters_that_are_none(tmp_path):
    with pytest.raises(DscsrError, match=r"Expected a Python interpreter at .*nowhere, but there is none"):
        make(SPAN(feature_channels=4), tmp_path / "kit", python=str(tmp_path / "nowhere"))
    with pytest.raises(
        DscsrError, match=r"Expected a Python interpreter at .*/false, but got: .*status 1. Name one that"
    ):
        make(SPAN(feature_channels=4), tmp_path / "kit", python="false")  # looked up on the PATH
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["7", "07", "team07", "Team7", " 07 "])
def test_reads_teams(text):
    assert kits.read_team(text) == 7


@pytest.mark.parametrize("text", ["0", "00", "100", "-1", "7.5", "", "seven", "07/../../x", "٧", "7\n8"])
def test_refuses_teams(text):
    with pytest.raises(DscsrError, match=r"Expected the number of a team, 01 to 99.*such as --team 07"):
        kits.read_team(text)


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "a b", 'a"', "a'''", "a\nb", "a\n", "", "9a", "_a", "é", "a.py", "a" * 61, "{x}", "%s"]
)
def test_refuses_names(name, tmp_path, never_checked):
    with pytest.raises(DscsrError, match=r"Expected a name of letters, digits and _ that begins with a letter"):
        make(SPAN(feature_channels=4), tmp_path / "kit", name=name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["SPAB", "torch", "class", "tuple", "silu"])
def test_refuses_names_that_the_file_needs(name, tmp_path, never_checked):
    with pytest.raises(DscsrError, match=rf"Expected the name of a Python class, but got '{name}'"):
        make(SPAN(feature_channels=4), tmp_path / "kit", name=name)


@pytest.mark.parametrize(
    ("network", "given"),
    [
        (SPAN(feature_channels=4, upscale=2), "scale 2 with 3 channels in and 3 out"),
        (SPAN(1, 1, feature_channels=4, rgb_mean=(0.5,)), "scale 4 with 1 channels in and 1 out"),
    ],
)
def test_refuses_networks_of_other_challenges(network, given, tmp_path, never_checked):
    with pytest.raises(DscsrError, match=rf"Expected a network of scale 4 for RGB images.*but got {given}"):
        make(network, tmp_path / "kit")
    assert not list(tmp_path.iterdir())


def test_replaces_a_kit_when_asked(tmp_path, unchecked):
    out = tmp_path / "kit"
    out.mkdir()  # an empty folder may be there
    make(SPAN(feature_channels=4), out, name="Old")
    with pytest.raises(DscsrError, match=r"kit is an older kit. Add --force to replace it"):
        make(SPAN(feature_channels=4), out)
    (out / "models" / "__pycache__").mkdir()
    (out / "models" / "__pycache__" / "x.pyc").touch()  # as running it makes
    make(SPAN(feature_channels=4), out, force=True)
    assert "models/team07_FastSPAN.py" in files(out)
    assert "models/team07_Old.py" not in files(out)
    assert sorted(os.listdir(tmp_path)) == ["kit"]


def test_never_touches_what_is_the_users(tmp_path, unchecked):
    out = tmp_path / "kit"
    make(SPAN(feature_channels=4), out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(DscsrError, match=r"but .*kit also holds notes.txt. Move that away"):
        make(SPAN(feature_channels=4), out, force=True)
    (out / "notes.txt").rename(out.parent / "notes.txt")
    (out / "runs").symlink_to(out.parent)
    with pytest.raises(DscsrError, match=r"but .*kit also holds runs. Move that away"):
        make(SPAN(feature_channels=4), out, force=True)
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "kit.json").write_text("[]")
    with pytest.raises(DscsrError, match=r"thesis is there and is no kit. Choose another -o"):
        make(SPAN(feature_channels=4), other, force=True)
    with pytest.raises(DscsrError, match=r"notes.txt is there and is no kit"):
        make(SPAN(feature_channels=4), tmp_path / "notes.txt", force=True)
    clone = tmp_path / "NTIRE2026_ESR"
    (clone / "models").mkdir(parents=True)
    (clone / "test_demo.py").touch()
    with pytest.raises(DscsrError, match=r"looks like the challenge's repository. Make the kit elsewhere and copy"):
        make(SPAN(feature_channels=4), clone, force=True)
    link = tmp_path / "link"
    for place in ("nowhere", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / place)
        with pytest.raises(DscsrError, match=r"but .*link is a link. Name a folder that is neither"):
            make(SPAN(feature_channels=4), link, force=True)
    assert files(other) + files(clone) == ["kit.json", "test_demo.py"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_where_nobody_may_look(tmp_path, never_checked, monkeypatch):
    def deny(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", deny)
    (tmp_path / "closed").mkdir()
    with pytest.raises(DscsrError, match=r"Expected to write .*closed, but got .*Permission denied"):
        make(SPAN(feature_channels=4), tmp_path / "closed")


def test_an_older_kit_stays_when_the_last_step_fails(tmp_path, unchecked, monkeypatch):
    out = tmp_path / "kit"
    make(SPAN(feature_channels=4), out, name="Old")

    def full(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(KeyboardInterrupt):
        make(SPAN(feature_channels=4), out, force=True)
    assert "models/team07_Old.py" in files(out)
    assert sorted(os.listdir(tmp_path)) == ["kit"]


@pytest.mark.slow
def test_a_kill_leaves_nothing_that_looks_like_a_kit(tmp_path, unchecked):
    """Killed while the self-check runs; the next run cleans up."""
    code = """
import sys, time, torch
from pathlib import Path
from dscsr_arch import SPAN
from dscsr_model.export.ntire import kit as kits
def wait(*_args, **_settings):
    print("checking", flush=True)
    time.sleep(60)
kits.self_check = wait
kits.make(kits.plan(SPAN(feature_channels=4), kits.Kit(7, "Late", Path("kit"), seconds=0)), lambda items, *_: items)
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE,
                               env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert process.stdout.readline() == b"checking\n"
    with pytest.raises(DscsrError, match=r"Expected to be alone in"):  # while it runs, nobody else builds here
        make(SPAN(feature_channels=4), tmp_path / "kit")
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert os.listdir(tmp_path) == [".kit.tmp"]
    make(SPAN(feature_channels=4), tmp_path / "kit")
    assert os.listdir(tmp_path) == ["kit"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "fold"),
    [(SPAN(feature_channels=28), None), (SPAN(feature_channels=26), "all"), (CARN(num_feat=32), None)],
)
def test_on_the_challenges_own_python(network, fold, tmp_path):
    """Python 3.9 with torch 1.13, if one is named."""
    python = os.environ.get("DSCSR_NTIRE_PYTHON")
    if not python:
        pytest.skip("needs an interpreter with Python 3.9 and torch 1.13: set DSCSR_NTIRE_PYTHON to it")
    figures = make(network, tmp_path / "kit", fold=fold, python=python).figures
    assert (figures.python[:4], figures.torch[:4]) == ("3.9.", "1.13")

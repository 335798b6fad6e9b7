import os
import subprocess
import sys

import pytest

from dscsr_arch.errors import BusyError, DiskError
from dscsr_model.data import aside
from dscsr_model.data.aside import built_together

NAMES = ["GT.lmdb", "LQ.lmdb"]


def fill(folder, content):
    for name in NAMES:
        (folder / name).mkdir(parents=True)
        (folder / name / "data").write_text(content)


def contents(out):
    return {name: (out / name / "data").read_text() for name in sorted(os.listdir(out))}


def build(out, content, replace=False):
    with built_together(out, NAMES, replace) as folder:
        fill(folder, content)


def test_appear_together(tmp_path):
    with built_together(tmp_path / "new" / "out", NAMES, False) as folder:
        fill(folder, "one")
        assert not any((tmp_path / "new" / "out" / name).exists() for name in NAMES)
    assert contents(tmp_path / "new" / "out") == dict.fromkeys(NAMES, "one")


def test_failure_leaves_nothing(tmp_path):
    def fail(out):
        with built_together(out, NAMES, False) as folder:
            fill(folder, "one")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail(tmp_path / "out")
    assert os.listdir(tmp_path) == []
    (tmp_path / "mine").mkdir()
    with pytest.raises(KeyboardInterrupt):
        fail(tmp_path / "mine")
    assert os.listdir(tmp_path) == ["mine"]  # a folder of the user stays, empty as it was


def test_names_that_are_taken(tmp_path):
    build(tmp_path, "one")
    with pytest.raises(
        DiskError, match=r"Expected to write something new, but .*GT.lmdb and .*LQ.lmdb exist\. Pass --force"
    ):
        build(tmp_path, "two")
    assert contents(tmp_path) == dict.fromkeys(NAMES, "one")
    build(tmp_path, "two", replace=True)
    assert contents(tmp_path) == dict.fromkeys(NAMES, "two")


def test_old_ones_stay_until_the_new_ones_are_there(tmp_path):
    build(tmp_path, "one")
    with built_together(tmp_path, NAMES, True) as folder:
        fill(folder, "two")
        assert (tmp_path / "GT.lmdb" / "data").read_text() == "one"


def test_alone(tmp_path):
    with built_together(tmp_path, NAMES, False) as folder:
        with pytest.raises(BusyError, match="Expected to be alone in"):
            build(tmp_path, "two")
        fill(folder, "one")
    assert contents(tmp_path) == dict.fromkeys(NAMES, "one")


KILLED = """
import os, sys
from pathlib import Path
from dscsr_model.data import aside
sys.path.insert(0, sys.argv[1])
import test_aside
step, calls = int(sys.argv[3]), 0
rename = os.rename
def counting(source, target):
    global calls
    if calls == step:
        os.kill(os.getpid(), 9)
    calls += 1
    rename(source, target)
os.rename = counting
test_aside.build(Path(sys.argv[2]), "new", replace=True)
"""


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("step", range(6))
def test_killed_between_renames(tmp_path, step, before):
    """At whichever rename it is killed: afterwards both are old, or, once the next run has begun, both are new."""
    out = tmp_path / "out"
    if before:
        build(out, "old")
    process = subprocess.run([sys.executable, "-c", KILLED, os.path.dirname(__file__), out, str(step)], check=False)
    renames = 5 if before else 3
    assert process.returncode == (-9 if step < renames else 0)
    try:
        with built_together(out, NAMES, False):
            raise InterruptedError  # the next run, which has just begun
    except (InterruptedError, DiskError):
        pass
    assert not (out / "prepare.tmp").exists()
    expected = "new" if step else "old" if before else None
    assert contents(out) == (dict.fromkeys(NAMES, expected) if expected else {})


def test_rename_is_synced(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(aside, "sync", synced.append)
    (tmp_path / "a").mkdir()
    aside.rename(tmp_path / "a", tmp_path / "b")
    assert synced == [tmp_path]

"""Files and folders that are whole or not there, whatever ends their writer; and what a disk says."""

import errno
import os
import subprocess
import sys

import pytest

from dscsr_arch.errors import DiskError
from dscsr_model.files import atomic, atomic_folder, disk_errors, remove_unfinished, tidy

NAMES = ["GT.lmdb", "LQ.lmdb"]


def fill(folder, content):
    for name in NAMES:
        (folder / name).mkdir(parents=True)
        (folder / name / "data").write_text(content)


def contents(out):
    return {name: (out / name / "data").read_text() for name in sorted(os.listdir(out))}


def build(out, content, replace=False):
    with atomic_folder(out, NAMES, replace) as folder:
        fill(folder, content)
        (folder / "scratch").mkdir()


def write(path, content=b"new", **options):
    with atomic(path, **options) as stream:
        stream.write(content)


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a.png"
    with atomic(path) as stream:
        stream.write(b"one")
        stream.flush()
        with open(stream.name, "ab") as by_name:
            by_name.write(b" two")
        assert not path.exists()
    assert path.read_bytes() == b"one two"
    assert os.listdir(path.parent) == ["a.png"]


@pytest.mark.parametrize("content", [None, b"old"])
@pytest.mark.parametrize("fault", [KeyboardInterrupt, ValueError, OSError(errno.ENOSPC, "full")])
def test_a_file_that_fails_leaves_what_was_there(tmp_path, fault, content):
    def fail():
        with atomic(tmp_path / "a.png") as stream:
            stream.write(b"half")
            raise fault

    if content:
        (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DiskError if isinstance(fault, OSError) else fault):
        fail()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == ({"a.png": content} if content else {})


def test_a_file_that_is_there(tmp_path):
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "link").symlink_to("mine")
    with pytest.raises(DiskError, match=r"something new to write, but got .*link, which exists\. Pass --force"):
        write(tmp_path / "link", replace=False)
    write(tmp_path / "link")  # replaced, not followed
    assert (tmp_path / "mine").read_bytes() == b"mine"
    assert not (tmp_path / "link").is_symlink()


def test_everything_is_on_the_disk_before_it_has_a_name(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def spy(handle):
        synced.append((os.fstat(handle).st_ino, (tmp_path / "GT.lmdb").exists()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", spy)
    build(tmp_path, "one")
    data = [(tmp_path / name / "data").stat().st_ino for name in NAMES]
    assert {(each, False) for each in data} <= set(synced)
    assert synced[-1] == (tmp_path.stat().st_ino, True)


def test_folders_that_fail_leave_nothing(tmp_path):
    def fail(out):
        with atomic_folder(out, NAMES, False) as folder:
            fill(folder, "one")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail(tmp_path / "new" / "out")
    assert os.listdir(tmp_path) == []
    (tmp_path / "mine").mkdir()
    with pytest.raises(KeyboardInterrupt):
        fail(tmp_path / "mine")
    assert os.listdir(tmp_path) == ["mine"]  # a folder of the user stays, empty as it was


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("filelock.lock_descriptor", refuse)
    build(tmp_path, "one")
    assert contents(tmp_path) == dict.fromkeys(NAMES, "one")


KILLED = """
import os, sys
from pathlib import Path
from dscsr_model.files import atomic_folder
out, step, names, calls = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:], 0
def counting(function):
    def call(source, target):
        global calls
        if calls == step:
            os.kill(os.getpid(), 9)
        calls += 1
        function(source, target)
    return call
os.rename, os.replace = counting(os.rename), counting(os.replace)
with atomic_folder(out, names, True) as folder:
    for name in names:
        (folder / name).mkdir()
        (folder / name / "data").write_text("new")
"""


@pytest.mark.parametrize(("before", "step"), [(True, 0), (True, 1), (True, 2), (True, 4), (True, 5), (False, 2)])
def test_killed_between_renames(tmp_path, step, before):
    """At whichever rename it is killed: afterwards both are old, or, once the next run has begun, both are new."""
    out = tmp_path / "out"
    if before:
        build(out, "old")
    process = subprocess.run([sys.executable, "-c", KILLED, out, str(step), *NAMES], check=False)
    assert process.returncode == (-9 if step < (5 if before else 3) else 0)
    try:
        with atomic_folder(out, NAMES, False):
            raise InterruptedError  # the next run, which has just begun
    except (InterruptedError, DiskError):
        pass
    assert contents(out) == dict.fromkeys(NAMES, "new" if step else "old")


def test_what_killed_processes_left(tmp_path):
    (tmp_path / ".a.png.tmp" / "building").mkdir(parents=True)
    (tmp_path / ".a.png.tmp" / "building" / "a.png").write_bytes(b"half")
    (tmp_path / ".net_g_2.pth.99.tmp").write_bytes(b"half")  # as versions before 0.12 wrote
    write(tmp_path / "a.png")
    remove_unfinished(tmp_path)
    assert os.listdir(tmp_path) == ["a.png"]


def test_what_a_kill_after_the_last_step_left(tmp_path):
    path, left = tmp_path / "a.png", tmp_path / ".a.png.tmp"
    path.write_bytes(b"whole")
    with atomic(path) as stream:  # by a process that is still at work
        tidy(path)
        assert left.exists()
        stream.write(b"new")
    (left / "whole").mkdir(parents=True)
    tidy(path)
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.png"]


def test_what_a_disk_says(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match=r"Expected to write .*file.a, but got .*Not a dir.* Choose another folder"):
        write(tmp_path / "file" / "a")
    with pytest.raises(DiskError) as caught, disk_errors(tmp_path / "outer"), disk_errors(tmp_path / "inner"):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")
    said = str(caught.value)
    assert said.startswith(f"Expected room on the disk for {tmp_path / 'outer'}, but got [Errno ")
    assert said.endswith(" free). Nothing of it is kept. Free some space, or choose a folder on another disk.")

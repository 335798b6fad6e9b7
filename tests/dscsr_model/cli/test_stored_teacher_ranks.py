"""`dscsr prepare --teacher` by several ranks: what one process stores, and each image once, also after a kill."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import forks
import numpy as np
import pytest
import torch
from PIL import Image

from dscsr_arch import SPAN
from dscsr_arch.checkpoint import save_state_dict
from dscsr_model import shared_work
from dscsr_model.cli import main
from dscsr_model.data.teacher_store import TeacherReader
from dscsr_model.inference.tiles import Upscaler

IMAGES = 10
TEACHER = ("--teacher", "one.pth", "--device", "cpu")
PHOTOGRAPHS = (
    *("--gt", "hr", "--scale", "2", "--crop-size", "32", "--step", "16"),
    *("--degrade", "noise=5", "--hold-out", "1"),
)


@pytest.fixture
def folder(tmp_path, monkeypatch, without_workers):
    """A teacher and photographs in the working directory, and a file of one byte for each call of the teacher."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    network = SPAN(feature_channels=4, upscale=2)
    network.upsampler[0].weight.data *= 0.05
    save_state_dict({"params": network.state_dict()}, tmp_path / "one.pth")
    Path("hr").mkdir()
    for index in range(IMAGES + 1):
        pixels = np.random.default_rng(index).integers(0, 256, (40 + 2 * index, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"hr/{index:02d}.png")
    enlarge = Upscaler.__call__

    def counted(*args):
        with open("calls", "ab") as calls:
            calls.write(b".")
        time.sleep(float(os.environ.get("SLOW", 0)))
        return enlarge(*args)

    monkeypatch.setattr(Upscaler, "__call__", counted)
    return tmp_path


def prepare(*arguments):
    return main(["prepare", *arguments])


def calls():
    """How often the teacher ran since this was asked before."""
    count = Path("calls").stat().st_size
    Path("calls").unlink()
    return count


def stored(out):
    reader = TeacherReader(Path(out, "TEACHER_X2.lmdb"))
    values = {}
    for index, key in enumerate(reader.keys):
        with reader.value(index) as value:
            values[key] = bytes(value)
    return reader.record, reader.shapes().tolist(), values


def test_pairs_and_outputs(folder):
    """The first rank makes the pairs, both run the teacher on whole photographs."""
    assert prepare(*PHOTOGRAPHS, "--out", "alone", *TEACHER) == 0
    assert calls() == IMAGES
    first, second = forks.ranks(partial(prepare, *PHOTOGRAPHS, "--out", "data", *TEACHER), folder)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert calls() == IMAGES
    assert stored("data") == stored("alone")
    assert sorted(os.listdir("data")) == sorted(os.listdir("alone"))
    assert first.stdout.count("Next: `dataroot_teacher: data/TEACHER_X2.lmdb`") == 1
    assert second.stdout == ""
    assert "teacher: 100%" in first.stderr
    assert "%" not in second.stderr
    assert prepare("--verify", "data") == 0


def test_a_kill_between(folder, monkeypatch):
    """What is whole stays, and the next run, by any number of ranks, makes the rest alone."""
    assert prepare("--gt", "hr", "--scale", "2", "--crop-size", "0", "--out", "data") == 0
    command = ("--out", "data", *TEACHER)
    assert prepare(*command, "--self-ensemble") == 0
    other = stored("data")
    monkeypatch.setattr(shared_work, "SILENT", 4.0)
    run = partial(prepare, *command, "--force")
    with open("said", "w+") as said:
        environments = [{**env, "SLOW": slow} for env, slow in zip(forks.group(2), ("0.05", "20"), strict=True)]
        team = [forks.Fork(run, folder, env, said.fileno(), said.fileno()) for env in environments]
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and len(list(Path("data").glob(".TEACHER_X2.*.parts/.*.tmp"))) < 2:
            time.sleep(0.01)
        team[1].kill()
        codes = [each.wait() for each in team]
        said.seek(0)
        words = said.read()
    assert codes == [1, -signal.SIGKILL], words
    assert "Expected all ranks to go on, but got no sign of life of rank 1. Start the same" in words
    assert stored("data") == other  # what --force replaces stays until the new one is whole
    assert len(list(Path("data").glob(".TEACHER_X2.*.parts/[!.]*"))) == IMAGES
    calls()
    assert run() == 0
    assert calls() == 1
    assert sorted(os.listdir("data")) == ["GT.lmdb", "LQ_X2.lmdb", "TEACHER_X2.lmdb"]
    resumed = stored("data")
    assert run() == 0
    assert calls() == IMAGES + 1  # by one process, as ever
    assert stored("data") == resumed != other

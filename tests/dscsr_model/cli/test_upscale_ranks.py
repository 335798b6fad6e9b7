"""`dscsr upscale` in several processes: each image once, the bits of one process, and what happens when one ends."""

import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import forks
import numpy as np
import pytest
import torch
from PIL import Image
from torch.distributed import PrefixStore, TCPStore

from dscsr_arch import SPAN
from dscsr_model import shared_work
from dscsr_model.cli import backend, main, upscale
from dscsr_model.inference import pipeline

ARGUMENTS = ("upscale", "-i", "in", "-o", "out", "-w", "span.pth", "--device", "cpu")
IMAGES = 12


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Weights, and images of several sizes, in the working directory."""
    monkeypatch.chdir(tmp_path)
    torch.save({"params": SPAN(feature_channels=4, upscale=2).state_dict()}, "span.pth")
    Path("in/inner").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for index in range(IMAGES):
        pixels = generator.integers(0, 256, (20 + 3 * index, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"in/{'inner/' * (index % 2)}{index:02d}.png")
    return tmp_path


def results(out="out"):
    """Without what is hidden, that killed processes have left."""
    paths = (path.relative_to(out) for path in Path(out).rglob("*.png"))
    return [out / path for path in paths if not any(part.startswith(".") for part in path.parts)]


def contents(out="out"):
    return {path.relative_to(out): path.read_bytes() for path in results(out)}


def times():
    return {path: path.stat().st_mtime_ns for path in results()}


def in_ranks(folder, *arguments, world=2):
    def run():
        try:
            return main(arguments or ARGUMENTS)
        finally:
            print(f"ended {time.monotonic()}", file=sys.stderr)

    return forks.ranks(run, folder, world)


def test_ranks_run_the_same_backend(folder, monkeypatch):
    """Which the first one has found the fastest, and told."""
    pytest.importorskip("onnxruntime", reason="extra: onnx")

    def told(name, *rest):
        print(f"built {name}", file=sys.stderr)
        return build(name, *rest)

    build = backend._build
    monkeypatch.setattr(backend, "_build", told)
    monkeypatch.setattr(backend, "_installed", lambda _: ["torch", "onnx"])
    first, second = in_ranks(folder, *ARGUMENTS, "--backend", "auto")
    assert (first.returncode, second.returncode, len(results())) == (0, 0, IMAGES), (first, second)
    chosen = re.search(r"--backend (\w+): the fastest here", first.stderr)[1]
    assert re.findall(r"built (\w+)", second.stderr) == [chosen]
    assert "fastest" not in second.stderr


def ended(run):
    """When. torchrun kills all ranks when one has ended with an error: before, the first must have told it."""
    return float(run.stderr.rsplit("ended ", 1)[1])


def test_ranks_share_a_folder(folder, monkeypatch):
    """A broken image is told once and makes the exit code of all; results are those of a process alone."""
    Path("in/broken.png").write_bytes(Path("in/00.png").read_bytes()[:60])
    assert main([*ARGUMENTS[:4], "alone", *ARGUMENTS[5:]]) == 1

    def describe_late(*args):
        time.sleep(1)
        return f"{describe(*args)} {time.monotonic()}"

    describe = upscale.describe
    monkeypatch.setattr(upscale, "describe", describe_late)
    first, second = in_ranks(folder)
    monkeypatch.undo()
    os.chdir(folder)
    assert ended(second) > float(first.stdout.split("\n")[0].split()[-1])
    assert contents() == (alone := contents("alone"))
    assert [first.returncode, second.returncode] == [1, 1]
    assert (first.stderr + second.stderr).count("failed: in/broken.png") == 1
    assert first.stdout.startswith(f"{IMAGES} images x2 -> out, 1 failed (named above); ")
    made = [int(count) for count in re.search(r"  by 2 ranks: (\d+), (\d+)\n", first.stdout).groups()]
    assert sum(made) == IMAGES  # none twice: a result that is there would be an error
    assert second.stdout == ""
    assert "upscaling" not in second.stderr
    Path("in/broken.png").unlink()
    before = times()
    for path in list(before)[:5]:
        path.unlink()
        del before[path]
    runs = in_ranks(folder, world=3)
    assert [run.returncode for run in runs] == [0, 0, 0], runs
    assert runs[0].stdout.startswith("5 images x2 -> out; ")
    assert f"{IMAGES - 5} results there already" in runs[0].stdout
    assert before.items() <= times().items()
    assert contents() == alone


def wait_for(condition):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not condition():
        time.sleep(0.01)


def test_a_rank_that_is_killed(folder, monkeypatch):
    """The others make all that it had not begun, tell, and end with 1; the same command makes the rest, also alone."""
    monkeypatch.setattr(shared_work, "SILENT", 4.0)
    enlarge = pipeline.Upscaler.__call__

    def slow(*args):
        Path(f"rank{os.environ['RANK']}").touch()
        time.sleep(20 if os.environ["RANK"] == "1" else 0.05)
        return enlarge(*args)

    monkeypatch.setattr(pipeline.Upscaler, "__call__", slow)
    with open("said", "w+") as said:
        run = partial(main, ARGUMENTS)
        team = [forks.Fork(run, folder, env, said.fileno(), said.fileno()) for env in forks.group(3)]
        wait_for(lambda: Path("rank1").exists())
        team[1].kill()
        codes = [each.wait() for each in team]
        said.seek(0)
        words = said.read()
    assert codes == [1, -signal.SIGKILL, 1], words
    lost = re.search(r"by 3 ranks: \d+, \?, \d+\n  rank 1 ended without a word, and (\d+) images? with it", words)
    assert lost, words
    before = times()
    assert len(before) == IMAGES - int(lost[1])
    assert int(lost[1]) in (1, 2)  # what it read ahead
    monkeypatch.undo()
    os.chdir(folder)
    assert main(ARGUMENTS) == 0
    assert before.items() <= times().items()
    assert len(contents()) == IMAGES


def test_a_fault_of_rank_0_ends_all(folder):
    """The others wait for it, and not for ever."""
    first, second = in_ranks(folder, *ARGUMENTS, "--scale", "3")
    assert (first.returncode, second.returncode) == (1, 1)
    assert "Expected weights of --scale 3" in first.stderr
    Path("out").mkdir()
    Path("out/00_x2.png").touch()
    first, second = in_ranks(folder, "upscale", "-i", "in/00.png", *ARGUMENTS[3:])
    assert (first.returncode, second.returncode, second.stderr.count("error")) == (1, 1, 0)
    assert "which exists. Add --force" in first.stderr
    assert ended(first) < ended(second)


def test_when_rank_0_has_gone_a_line_is_told_and_no_page_of_cpp(folder):
    """In a process that has not imported torch yet, as the command's."""
    world = forks.group()
    port = int(world[1]["MASTER_PORT"])
    store = [TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)]
    command = [sys.executable, "-m", "dscsr_model.cli", *ARGUMENTS]
    rank = subprocess.Popen(command, env={**os.environ, **world[1]}, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: PrefixStore("dscsr 0", store[0]).add("beat 1", 0) > 1)
    store.clear()  # which ends it
    told = rank.communicate()[1]
    assert rank.returncode == 1
    assert re.fullmatch(r"dscsr: error: Expected rank 0, .* to go on, but got that it has ended .*\n", told), told


def torchrun(node, port, *arguments):
    """The group of one of two machines."""
    command = (
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(node), "--nproc-per-node"),
        *("2", "--master-addr", "127.0.0.1", "--master-port", port, "-m", "dscsr_model.cli", *arguments),
    )
    said = open(f"said{node}", "w")  # noqa: SIM115 - as long as the process
    return subprocess.Popen(command, stdout=said, stderr=said)


def kill_with_ranks(group):
    """They are in sessions of their own, and outlive torchrun."""
    ranks = Path(f"/proc/{group.pid}/task/{group.pid}/children").read_text().split()
    assert len(ranks) == 2
    for process in (group.pid, *map(int, ranks)):
        os.kill(process, signal.SIGKILL)


@pytest.mark.slow
def test_two_machines(folder):
    """Two groups of torchrun, of two ranks each: one is killed, all of it; what is begun anew makes the rest."""
    for index in range(40):
        pixels = np.random.default_rng(index).integers(0, 256, (300 + index, 310, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"in/large{index:02d}.png")
    port = forks.group()[0]["MASTER_PORT"]
    groups = [torchrun(node, port, *ARGUMENTS) for node in (0, 1)]
    wait_for(lambda: len(results()) > 4)
    kill_with_ranks(groups[1])
    assert (groups[0].wait(), groups[1].wait()) == (1, -signal.SIGKILL)
    words = Path("said0").read_text()
    assert re.search(r"by 4 ranks: \d+, \d+, \?, \?\n  rank 2, 3 ended without a word, and \d+ images with it", words)
    before = times()
    assert IMAGES + 40 - 12 < len(before) < IMAGES + 40
    groups = [torchrun(node, port, *ARGUMENTS) for node in (0, 1)]
    assert [each.wait() for each in groups] == [0, 0]
    assert "there already" in Path("said0").read_text()
    assert "there already" not in Path("said1").read_text()
    assert before.items() <= times().items()
    assert main([*ARGUMENTS[:4], "alone", *ARGUMENTS[5:]]) == 0
    assert contents() == contents("alone")

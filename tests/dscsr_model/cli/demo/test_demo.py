"""The demo: what it promises of its length, and all of it with trainings of a second."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dscsr_arch.errors import DscsrError
from dscsr_model.cli.demo import __main__ as demo
from dscsr_model.cli.demo import commands

ROOT = Path(__file__).resolve().parents[4]


def test_five_minutes_leave_two_for_all_but_training(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert sum(commands.seconds_of(network.options) for network in demo.NETWORKS) <= 180


def test_a_command_that_fails_ends_it(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DscsrError, match="`dscsr report none` failed; its message stands above"):
        commands.run("report", "none")
    said = capfd.readouterr()
    assert said.out == "$ dscsr report none\n"
    assert "Expected a folder" in said.err


@pytest.mark.slow
def test_from_photographs_to_a_table(tmp_path):
    (tmp_path / "options").mkdir()
    for file in (ROOT / "options").glob("demo_*.yml"):
        text, count = re.subn(r"max_seconds: \d+", "max_seconds: 1", file.read_text())
        assert count == 1
        (tmp_path / "options" / file.name).write_text(text)
    done = subprocess.run([sys.executable, "-m", "dscsr_model.cli.demo"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for unwanted in ("Traceback", "Warning", "WARNING"):
        assert unwanted not in done.stdout + done.stderr
    rows = {row["label"]: row for row in json.loads((tmp_path / "results/demo/demo.json").read_text())}
    assert list(rows) == ["bicubic", demo.SHIPPED, *(network.label for network in demo.NETWORKS)]
    assert rows[demo.SHIPPED]["psnr_y"] > rows["bicubic"]["psnr_y"] + 0.5
    assert rows["SPAN-26"]["training"] == pytest.approx(1, abs=5)
    assert rows["DSCLoRA-26"]["psnr_y"] > rows[demo.SHIPPED]["psnr_y"] - 0.001
    for image in ("first.png", "demo.png", "coffee_x4.png", "whole/coffee_x4.png"):
        assert (tmp_path / "results/demo" / image).is_file()

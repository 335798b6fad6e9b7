"""What a person sees of a run of one of our models, word for word: piped, on a terminal, by a script of others."""

import fcntl
import os
import pty
import re
import runpy
import shlex
import shutil
import struct
import sys
import termios
from functools import partial
from pathlib import Path
from typing import Any

import forks
import option_files
import pytest
from training_runs import dscsr, log_of_its_own, train, write_options

import dscsr_model
from dscsr_model.host import console


def masked(said: str) -> list[str]:
    """Lines without the numbers that differ from run to run."""
    numbers = r"\d{8}_\d{6}|[\d.e+]+ (it/s|s/it)|\d+\.\d+|\d+ s(?= left)|(?<= in )\d+ s"
    return re.sub(numbers, "#", said).splitlines()


RUN = """\
Training tiny
  network     EDSR, 1,851 parameters, ×4
  weights     random
  data        tiny: 3 pairs, patches of 32 pixels (LQ 8), batch 2
  length      12 iterations, 1 epoch
  validation  Set (3 images) every 8 iterations: psnr
  computes    CPU, 1 thread, fp32
  writes      experiments/tiny, a checkpoint every 4 iterations
  to resume   {again} --auto_resume
iteration 1 of 12: loss #
validation 8: Set psnr # (best so far), psnr_ema # (best so far)
iteration 10 of 12: #, # left, loss #
iteration 12 of 12: #, loss #
validation 12: Set psnr # (best so far), psnr_ema # (best so far)

Trained tiny: 12 iterations in #.
  latest  experiments/tiny/models/net_g_latest.pth
  best    experiments/tiny/models/net_g_best.pth: psnr # on Set, iteration 12
  log     experiments/tiny/train_tiny_#.log
Next:
  dscsr upscale -i data/lq -o enlarged -w experiments/tiny/models/net_g_best.pth
  dscsr export experiments/tiny/models/net_g_best.pth -o tiny.safetensors
  dscsr test -opt my_test.yml --skip-missing --force_yml path:pretrain_network_g=experiments/tiny/models/net_g_best.pth
  dscsr report tiny
"""
SHORT = {"train:total_iter": 12, "val:val_freq": 8, "train:optim_g:lr": 1e-3}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Where a short training is started, with an option file that tests its network."""
    dscsr_model.register()
    monkeypatch.chdir(tmp_path)
    write_options(tmp_path, **SHORT)
    option_files.write_options(
        tmp_path / "my_test.yml",
        option_files.testing_options(Path("data")) | {"network_g": option_files.edsr() | {"num_feat": 4}},
    )
    return tmp_path


def test_a_training_tells_what_it_does_and_commands_that_run(folder, capfd):
    done = train(folder)
    assert masked(done.stderr) == ["Checking opt.yml …", *RUN.format(again="dscsr train -opt opt.yml").splitlines()]
    assert done.stdout == ""
    commands = done.stderr.partition("Next:\n")[2].splitlines()
    for command in commands:
        program, *arguments = shlex.split(command)
        assert (program, dscsr(*arguments)) == ("dscsr", 0), capfd.readouterr().err


def script_of_others() -> int:
    import basicsr

    shutil.copy(Path(basicsr.__file__).with_name("train.py"), "basicsr")
    sys.argv = ["basicsr/train.py", "-opt", "opt.yml"]
    with log_of_its_own():
        runpy.run_path(sys.argv[0], run_name="__main__")
    return 0


def test_a_script_of_others_tells_the_same(folder):
    (folder / "basicsr").mkdir()
    run = forks.finished(script_of_others, folder)
    assert masked(run.stderr) == RUN.format(again="python basicsr/train.py -opt opt.yml").splitlines()
    assert run.stdout == ""


def test_a_terminal_has_a_bar(folder):
    reading, writing = pty.openpty()
    fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 110, 0, 0))
    child = forks.Fork(partial(dscsr, "train", "-opt", "opt.yml"), folder, {}, writing, writing)
    os.close(writing)
    said = b""
    with os.fdopen(reading, "rb", buffering=0) as screen:
        while chunk := read(screen):
            said += chunk
    assert child.wait() == 0
    lines = masked(said.decode().replace("\r", "\n"))
    assert [line for line in lines if "INFO" in line or line.startswith("iteration ")] == []
    for line in RUN.format(again="dscsr train -opt opt.yml").splitlines():
        assert line.startswith("iteration ") or line in lines
    assert any(re.fullmatch(r"100% .* 12/12, #, loss #", line) for line in lines)


def read(screen: Any) -> bytes:
    try:
        return screen.read(4096)
    except OSError:  # all that had it open have ended
        return b""


def test_a_resumed_training_says_from_where_and_a_long_one_what_is_shorter(folder, monkeypatch):
    """Both beside a warning, which is no line of a log."""
    assert train(folder).returncode == 0
    monkeypatch.setattr(console, "ABSURD", 0)
    write_options(folder, **{**SHORT, "train:total_iter": 24})
    said = masked(train(folder, "--auto_resume").stderr)
    assert "  weights     of iteration 12, experiments/tiny/training_states/12.state" in said
    assert "  length      24 iterations, 2 epochs; 12 iterations left" in said
    (advice,) = (line for line in said if line.startswith("This run would take "))
    assert "options/train_span_x4_photos.yml" in advice
    assert "train: max_seconds" in advice

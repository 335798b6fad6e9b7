"""The frame of the command line: help, exit codes, who prints what."""

import importlib
import os
import sys

import pytest

from dscsr_arch.errors import DscsrError
from dscsr_model import cli


@pytest.fixture
def failing(monkeypatch):
    """Make ``dscsr doctor`` raise what is given."""

    def fail_with(error: BaseException) -> None:
        def run(args: object) -> int:
            raise error

        monkeypatch.setattr("dscsr_model.cli.doctor.run", run)

    return fail_with


def test_help_lists_every_command_with_a_line(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    out = capsys.readouterr().out
    for name in cli.COMMANDS:
        assert importlib.import_module(f"dscsr_model.cli.{name}").__doc__.startswith(f"``dscsr {name}``")
        assert f"\n    {name} " in out
        with pytest.raises(SystemExit, match="0"):
            cli.main([name, "--help"])
        assert f"usage: dscsr {name}" in capsys.readouterr().out


def test_no_command_is_an_error(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main([])
    assert "the following arguments are required: COMMAND" in capsys.readouterr().err


def test_a_users_fault_is_one_message(failing, capsys):
    failing(DscsrError("Expected a, but got b. Write a."))
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr() == ("", "dscsr: error: Expected a, but got b. Write a.\n")


@pytest.mark.parametrize("error", [ZeroDivisionError("ours"), BrokenPipeError("a worker's, not our output's")])
def test_a_fault_of_ours_keeps_its_traceback(failing, error):
    failing(error)
    with pytest.raises(type(error), match=r"our"):
        cli.main(["doctor"])


def test_interrupted(failing, capsys):
    failing(KeyboardInterrupt())
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr().err == "dscsr: interrupted\n"


@pytest.mark.parametrize("torchrun", [True, False])
def test_other_ranks_of_torchrun_let_rank_0_tell_and_finish(failing, capsys, monkeypatch, torchrun):
    """Who is not stopped meanwhile has a fault of its own."""
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    monkeypatch.setenv("RANK", "3")  # in the environment of a process alone it silences nothing
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    if torchrun:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    failing(DscsrError("a fault of the user's"))
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr() == ("", f"dscsr: error: {'rank 3: ' * torchrun}a fault of the user's\n")
    assert bool(waited) == torchrun


@pytest.mark.parametrize(
    ("rank", "called", "said"), [("0", [1], "dscsr: doctor is work for one process"), ("1", [], "")]
)
def test_what_is_work_for_one_process_is_rank_0s(capsys, monkeypatch, rank, called, said):
    """N processes would write one file at once."""
    calls: list[int] = []
    monkeypatch.setattr("dscsr_model.cli.doctor.run", lambda args: calls.append(1) or 0)
    for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["doctor"]) == 0
    assert calls == called
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_that_nobody_reads_ends_it_quietly(monkeypatch, stream):
    monkeypatch.setattr("dscsr_model.cli.doctor.run", lambda args: print("well", file=getattr(sys, stream)) or 0)
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w", buffering=1 if stream == "stderr" else -1) as closed:
        monkeypatch.setattr(sys, stream, closed)
        assert cli.main(["doctor"]) == 141
        assert cli.main(["doctor"]) == 0  # what was left has been dropped, so that Python ends without a word

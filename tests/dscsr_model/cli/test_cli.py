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
        command = importlib.import_module(f"dscsr_model.cli.{name}")
        assert command.__doc__.startswith(f"``dscsr {name}``")
        assert f"\n    {name} " in out


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name, capsys):
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


def test_a_fault_of_ours_keeps_its_traceback(failing):
    failing(ZeroDivisionError("ours"))
    with pytest.raises(ZeroDivisionError, match="ours"):
        cli.main(["doctor"])


def test_interrupted(failing, capsys):
    failing(KeyboardInterrupt())
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr().err == "dscsr: interrupted\n"


def test_other_ranks_are_silent_and_let_rank_0_finish(failing, capsys, monkeypatch):
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    failing(DscsrError("said by rank 0"))
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr() == ("", "")
    assert waited


def test_a_rank_in_the_environment_of_a_process_alone_silences_nothing(failing, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    failing(DscsrError("must be seen"))
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr().err == "dscsr: error: must be seen\n"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_that_nobody_reads_ends_it_quietly(monkeypatch, stream):
    monkeypatch.setattr("dscsr_model.cli.doctor.run", lambda args: print("well", file=getattr(sys, stream)) or 0)
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w", buffering=1 if stream == "stderr" else -1) as closed:
        monkeypatch.setattr(sys, stream, closed)
        assert cli.main(["doctor"]) == 141
        assert cli.main(["doctor"]) == 0  # what was left has been dropped, so that Python ends without a word


def test_another_pipe_that_breaks_keeps_its_traceback(failing):
    failing(BrokenPipeError("a worker's"))
    with pytest.raises(BrokenPipeError, match="a worker's"):
        cli.main(["doctor"])


def test_module_form_is_the_same_program(run_python):
    done = run_python("-m", "dscsr_model.cli", "--help", check=True)
    assert done.stdout.startswith("usage: dscsr ")
    assert sys.executable not in done.stdout

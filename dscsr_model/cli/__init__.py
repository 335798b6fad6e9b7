"""The command line ``dscsr``. Heavy imports stand inside the commands, so that ``--help`` comes at once."""

import argparse
import importlib
import os
import select
import signal
import sys
import time
from collections.abc import Sequence

from dscsr_arch.errors import DscsrError
from dscsr_model.cli import doctor
from dscsr_model.files import for_the_user
from dscsr_model.shared_work import rank_of_many, started_together

# One module per command in this folder: `add_parser(subparsers)` and `run(args) -> exit code`.
COMMANDS = (
    *("train", "test", "prepare", "export", "upscale", "submit"),
    *("prune", "average", "profile", "report", "weights", "schema", "doctor"),
)

SHARED = ("train", "test", "prepare", "upscale")
"""Those that know what to do as one of several ranks."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. A `DscsrError` is printed as one message, without a traceback.

    Output that nobody reads any more (``dscsr doctor | head``) ends it quietly, with the code of SIGPIPE.
    """
    try:
        try:
            return _run(argv)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here: at the end of the process a closed pipe is a traceback
    except BrokenPipeError:
        if not _nobody_reads():
            raise  # another pipe broke: a fault to be seen
        return 128 + signal.SIGPIPE


def _run(argv: Sequence[str] | None) -> int:
    args = _parser().parse_args(argv)
    if started_together() and args.command not in SHARED:
        if rank_of_many() > 0:
            return 0
        print(f"dscsr: {args.command} is work for one process: rank 0 does it.", file=sys.stderr)
    try:
        code: int = args.run(args)
    except (DscsrError, OSError) as error:
        if (told := for_the_user(error)) is None:
            raise
        _report(told, getattr(args, "launcher", "none"))
        return 1
    except KeyboardInterrupt:
        if rank_of_many() == 0:
            print("dscsr: interrupted", file=sys.stderr)
        return 130
    return code


def _nobody_reads() -> bool:
    """Whether stdout or stderr is a pipe without a reader; whatever is still written there is then dropped."""
    streams = [stream.fileno() for stream in (sys.stdout, sys.stderr) if stream is not None]
    poll = select.poll()
    for stream in streams:
        poll.register(stream, 0)
    closed = [stream for stream, event in poll.poll(0) if event & select.POLLERR]
    for stream in closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    return bool(closed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dscsr",
        description="Train, test and ship efficient super-resolution networks with BasicSR.",
        epilog="`dscsr COMMAND --help` explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"dscsr {doctor.installed_version()}")
    subparsers = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        command = importlib.import_module(f"{__name__}.{name}")
        command.add_parser(subparsers)
    return parser


def _report(error: DscsrError, launcher: str) -> None:
    started_together = launcher != "none" or "TORCHELASTIC_RUN_ID" in os.environ
    if not started_together or os.environ.get("RANK", "0") == "0":
        print(f"dscsr: error: {error}", file=sys.stderr, flush=True)
    elif "TORCHELASTIC_RUN_ID" in os.environ:
        # Every rank meets the same fault and rank 0 tells it, unless torchrun, seeing us end, stops it before. It is
        # rank 0's end that stops us; if nothing does, the fault is of this rank alone.
        time.sleep(5)
        print(f"dscsr: error: rank {os.environ['RANK']}: {error}", file=sys.stderr, flush=True)

"""Processes that are forked from this one, which has imported everything: real ones, without seconds of imports."""

import atexit
import multiprocessing.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import dscsr_model


class Fork:
    """A running child.

    Args:
        run: What it does; gives its exit code, as `sys.exit` takes it.
        folder: Its working directory.
        env: Changes of its environment; None takes a variable out.
        stdout, stderr: Descriptors.
    """

    def __init__(
        self, run: Callable[[], Any], folder: Path, env: dict[str, str | None], stdout: int, stderr: int
    ) -> None:
        dscsr_model.register()
        self.pid = os.fork()
        if self.pid == 0:
            _become(run, folder, env, stdout, stderr)

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Its exit code; the negative signal that ended it."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _become(run: Callable[[], Any], folder: Path, env: dict[str, str | None], stdout: int, stderr: int) -> None:
    code: Any = 1
    try:
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        os.chdir(folder)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the background of a shell ignores it
        for name, value in env.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        atexit._clear()  # what the tests before have left there
        atexit.register(multiprocessing.util._exit_function)
        warnings.resetwarnings()  # pytest collects them
        for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)
        warnings.showwarning = lambda message, kind, *_: print(f"{kind.__name__}: {message}", file=sys.stderr)
        try:
            code = run()
        except SystemExit as error:
            code = error.code
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # nobody may be reading
                stream.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


def finished(run: Callable[[], Any], folder: Path, **env: str | None) -> subprocess.CompletedProcess[str]:
    """What a child has done and said."""
    (done,) = together([run], folder, [env])
    return done


def together(
    runs: list[Callable[[], Any]], folder: Path, envs: list[dict[str, str | None]]
) -> list[subprocess.CompletedProcess[str]]:
    """What children that ran beside each other have done and said."""
    with ExitStack() as stack:
        files = [[stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(2)] for _ in runs]
        children = [
            Fork(run, folder, env, *(file.fileno() for file in said))
            for run, env, said in zip(runs, envs, files, strict=True)
        ]
        codes = [child.wait() for child in children]
        for file in (each for said in files for each in said):
            file.seek(0)
        return [
            subprocess.CompletedProcess([], code, *(file.read() for file in said))
            for code, said in zip(codes, files, strict=True)
        ]


def group(world: int = 2) -> list[dict[str, str | None]]:
    """The environment of each rank of a group, as torchrun makes it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world)}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]


def ranks(run: Callable[[], Any], folder: Path, world: int = 2) -> list[subprocess.CompletedProcess[str]]:
    """What the ranks of a group have done and said."""
    return together([run] * world, folder, group(world))

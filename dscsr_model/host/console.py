"""What a person sees of a run of one of our models: a screen before it, its progress, what it leaves and what is next.

BasicSR's banner, options, networks and lines of the log are in its log file, whole, for who wants them. On the console
only warnings are left of them.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from dscsr_model.host import registration, screen
from dscsr_model.host.patches import Patches, replaced
from dscsr_model.training.progress import Progress, ShownProgress, duration

MOVED = "Path already exists. Rename it to "
"""How BasicSR says that it has put the folder of an earlier run aside."""

ABSURD = 3 * 86400.0
"""So many seconds on a CPU are a recipe for GPUs; ten times as many, on whatever it is."""


class Console:
    """Stands between a run and the person who started it; says nothing in ranks but the first.

    Args:
        opt: Options of the run.
        command: That starts it again.
    """

    def __init__(self, opt: dict[str, Any], command: screen.Command) -> None:
        self.opt, self.command = opt, command
        self.talks = opt["rank"] == 0
        self._progress: ShownProgress | None = None
        self._model: Any = None
        self._began = 0.0
        self._log: str | None = None
        self._held: list[str] = []

    def hold(self, *words: object, **_: Any) -> None:
        """``print`` as BasicSR calls it before there is a log: the line waits for it."""
        self._held.append(" ".join(map(str, words)))

    def quiet(self, logger: logging.Logger, patches: Patches) -> None:
        """Leave to the log's file what is no warning."""
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler):
                self._log = handler.baseFilename
            elif type(handler) is logging.StreamHandler:
                patches.set(handler, "level", logging.WARNING)
                patches.set(handler, "emit", self._warn)
        while self._held and self._log:
            line = self._held.pop(0)
            logger.info(line)
            if line.startswith(MOVED) and "tb_logger" not in line:
                self.say(f"The folder of an earlier run of this name is now {screen.shown(line.removeprefix(MOVED))}.")

    def _warn(self, record: logging.LogRecord) -> None:
        self._print(f"{record.levelname.lower()}: {record.getMessage().strip()}")

    def say(self, line: str) -> None:
        """A line, or several, above a bar if there is one; from the first rank alone."""
        if self.talks:
            self._print(line)

    def _print(self, line: str) -> None:
        if self._progress is not None:
            self._progress.say(line)
        else:
            with suppress(OSError):  # nobody may be reading
                print(line, file=sys.stderr, flush=True)

    def begin(self, model: Any, train_loader: Any, other_loaders: Sequence[Any], start: int = 0) -> None:
        """Show what will happen; from here on the model says how far it is."""
        self._model, self._began = model, time.monotonic()
        if not self.talks:
            return
        rows = screen.rows(self.opt, model, train_loader, other_loaders, start, self.command)
        self.say(screen.table(f"{'Training' if self.opt['is_train'] else 'Testing'} {self.opt['name']}", rows))
        if self.opt["is_train"]:
            expected, left = model.expected_iterations, model.iterations_left
            self._progress = ShownProgress(start, expected, sys.stderr, self._advice, left)
        model.progress = self._progress or _Results()

    def _advice(self, left: float) -> str | None:
        on_cpu = self._model.device.type == "cpu"
        if left < ABSURD * (1 if on_cpu else 10):
            return None
        why = "these options are made for a GPU, and this is a CPU" if on_cpu else "that may be more than you want"
        return (
            f"This run would take {duration(left)}: {why}. Ctrl-C ends it. Smaller: options/train_span_x4_photos.yml, "
            "which starts from trained weights; or `train: max_seconds: 3600`, one hour with the whole schedule in it."
        )

    def end(self, finished: bool) -> None:
        """Say what a run has left, and what can be done next."""
        if self._progress is not None:
            self._progress.close()
            self._progress = None
        if not self.talks or self._model is None:
            return
        took = duration(time.monotonic() - self._began)
        if not self.opt["is_train"]:
            lines = screen.tested(self.opt, self._log) if finished else []
        elif finished and not self._model.stopped_by:
            lines = screen.trained(self.opt, self._model, self._log, self.command, took)
        else:
            lines = screen.interrupted(self._model, self.command)
        if lines:
            self.say("\n".join(lines))


class _Results(Progress):
    """Of a test: its results are its output."""

    def say(self, line: str) -> None:
        print(line, flush=True)


def read_options(parse_options: Any, *args: Any, **kwargs: Any) -> Any:
    """``parse_options``. What BasicSR prints in it ("Disable distributed.") is left out if a model of ours is named."""
    said: list[Callable[[], None]] = []
    ours = False
    try:
        keep = lambda *words, **how: said.append(partial(print, *words, **how))  # noqa: E731
        with replaced(parse_options.__globals__, print=keep):
            result = parse_options(*args, **kwargs)
        ours = isinstance(result, tuple) and registration.is_our_model(result[0].get("model_type"))
    finally:
        for line in said if not ours else ():
            line()
    return result

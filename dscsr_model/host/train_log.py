"""What the log and TensorBoard show of a run, beyond what BasicSR's train loop writes."""

from __future__ import annotations

import functools
import logging
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tqdm import tqdm

from dscsr_arch.errors import DscsrWarning
from dscsr_model.host.patches import Patches


def logging_ours(show: Callable[..., None]) -> Callable[..., None]:
    """``warnings.showwarning``, but a warning of ours is a line of the log, without the place in torch that met it."""

    @functools.wraps(show)
    def wrapper(message: Warning | str, category: type[Warning], *where: Any, **line: Any) -> None:
        if issubclass(category, DscsrWarning):
            logging.getLogger("basicsr").warning(str(message))
        else:
            with tqdm.external_write_mode(sys.stderr):  # not behind a bar
                show(message, category, *where, **line)

    return wrapper


def correct(logger: logging.Logger, patches: Patches) -> None:
    """Take from BasicSR's log a warning that is untrue of our models: they do validate several sets.

    And let a disk that takes no more stop the run with one message, where logging prints a traceback for every line.
    """

    def fail(record: logging.LogRecord) -> None:
        raise  # logging calls this while it handles what has happened

    def is_true(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("Multiple validation datasets are")

    patches.set(logger, "filters", [*logger.filters, is_true])
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            patches.set(handler, "handleError", fail)


def with_learning_rates(kind: type[Any], model: Any) -> type[Any]:
    """BasicSR's MessageLogger, which prints the rates but does not plot them, and knows no training that time ends."""

    class MessageLogger(kind):
        """What a training shows of each step."""

        start_iter: int
        start_time: float

        def __call__(self, log_vars: dict[str, Any]) -> None:
            begun, made = model.stage.first - 1, log_vars["iter"]
            if begun > self.start_iter:  # the pace of the stages before says little about this one
                self.start_iter, self.start_time = begun, time.time() - (made - begun) * log_vars["time"]
            # One more than BasicSR counts: else the last iteration's estimate is negative, -1 day.
            self.max_iters = made + model.iterations_left(made, self.start_iter) + 1
            if self.tb_logger is not None:
                for number, rate in enumerate(log_vars["lrs"]):
                    self.tb_logger.add_scalar(f"lr_{number}" if number else "lr", rate, log_vars["iter"])
            super().__call__(log_vars)

    return MessageLogger


def close(tb_logger: Any) -> None:
    """Write what TensorBoard has not: BasicSR's loop closes it only when it ends by itself."""
    with suppress(OSError):
        tb_logger.close()


def undo_after(iteration: int, tb_logger: Any) -> None:
    """Let TensorBoard drop what the run that is resumed showed of later iterations: they come again."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    start = SessionLog(status=SessionLog.START)
    tb_logger.file_writer.add_event(Event(session_log=start), step=iteration + 1)

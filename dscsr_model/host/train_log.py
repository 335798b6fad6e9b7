"""What the log and TensorBoard show of a run, beyond what BasicSR's train loop writes."""

from __future__ import annotations

import atexit
import functools
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from dscsr_arch.errors import DscsrWarning
from dscsr_model.host.patches import Patches
from dscsr_model.host.stopping import end_well


def install(loop: Patches, namespace: dict[str, Any]) -> None:
    """Let the train loop in this module's ``namespace`` show it, until ``loop`` is undone."""
    build, load, logger = map(namespace.get, ("build_model", "create_train_val_dataloader", "MessageLogger"))
    if build is None or load is None or logger is None:
        return
    run: dict[str, Any] = {}

    class MessageLogger(logger):  # type: ignore[misc, valid-type]
        """BasicSR's, which prints the learning rates but does not plot them, and estimates one iteration too few.

        The loop makes it when all is ready for the first step.
        """

        def __init__(self, opt: dict[str, Any], start_iter: int = 1, tb_logger: Any = None) -> None:
            end_well(run["model"], run["loaders"][1])
            if tb_logger is not None:
                atexit.register(_close, tb_logger)
            if tb_logger is not None and start_iter:
                _undo_after(start_iter, tb_logger)
            run["model"].validate_start(run["loaders"][2], start_iter, tb_logger)
            super().__init__(opt, start_iter, tb_logger)
            self.max_iters += 1  # else the last iteration's estimate is negative: -1 day

        def __call__(self, log_vars: dict[str, Any]) -> None:
            if self.tb_logger is not None:
                for number, rate in enumerate(log_vars["lrs"]):
                    self.tb_logger.add_scalar(f"lr_{number}" if number else "lr", rate, log_vars["iter"])
            super().__call__(log_vars)

    loop.set(namespace, "MessageLogger", MessageLogger)
    if "get_root_logger" in namespace:
        loop.set(namespace, "get_root_logger", _logging_as_told(loop, namespace["get_root_logger"]))
    loop.set(namespace, "build_model", _kept(build, run, "model"))
    loop.set(namespace, "create_train_val_dataloader", _kept(load, run, "loaders"))


def logging_ours(show: Callable[..., None]) -> Callable[..., None]:
    """``warnings.showwarning``, but a warning of ours is a line of the log, without the place in torch that met it."""

    @functools.wraps(show)
    def wrapper(message: Warning | str, category: type[Warning], *where: Any, **line: Any) -> None:
        if issubclass(category, DscsrWarning):
            logging.getLogger("basicsr").warning(str(message))
        else:
            show(message, category, *where, **line)

    return wrapper


def _kept(function: Callable[..., Any], results: dict[str, Any], name: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        results[name] = function(*args, **kwargs)
        return results[name]

    return wrapper


def _logging_as_told(loop: Patches, get_root_logger: Callable[..., logging.Logger]) -> Callable[..., logging.Logger]:
    """The loop's logger without a warning that is untrue of our models: they do validate several sets.

    And a disk that takes no more stops the run with one message; logging would print a traceback for every line.
    """

    def fail(record: logging.LogRecord) -> None:
        raise  # logging calls this while it handles what has happened

    @functools.wraps(get_root_logger)
    def wrapper(*args: Any, **kwargs: Any) -> logging.Logger:
        logger = get_root_logger(*args, **kwargs)
        warn = logger.warning

        def warning(message: object, *args: Any, **kwargs: Any) -> None:
            if not str(message).startswith("Multiple validation datasets are"):
                warn(message, *args, **kwargs)

        loop.set(logger, "warning", warning)
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handleError = fail  # type: ignore[method-assign]
        return logger

    return wrapper


def _close(tb_logger: Any) -> None:
    """Write what TensorBoard has not: BasicSR's loop closes it only when it ends by itself."""
    with suppress(OSError):
        tb_logger.close()


def _undo_after(iteration: int, tb_logger: Any) -> None:
    """Let TensorBoard drop what the run that is resumed showed of later iterations: they come again."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    start = SessionLog(status=SessionLog.START)
    tb_logger.file_writer.add_event(Event(session_log=start), step=iteration + 1)

"""All cores at work on a list, results in its order, a bounded amount of memory under way.

``concurrent.futures`` does the work. torch's DataLoader would as well, but takes 1.4 s and 130 MB more in each process,
and knows no bound on the memory of what it has read ahead: photographs differ in size a hundredfold.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from dscsr_arch.errors import DscsrError
from dscsr_arch.words import many

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """Processes that apply a function to items; made by `worker_pool`."""

    def __init__(self, executor: ProcessPoolExecutor, count: int) -> None:
        self._executor = executor
        self._count = count

    def in_order(
        self,
        function: Callable[[Any], Any],
        items: Iterable[Any],
        weight: Callable[[Any], int] = lambda item: 0,
        most: int = 0,
    ) -> Iterator[Any]:
        """Yield ``function(item)`` for every item, in order, computed at most a few items ahead.

        An item weighs something from here until its result is taken, and all under way together no more than ``most``;
        one that weighs more is alone.
        """
        ahead: deque[tuple[Future[Any], int]] = deque()
        try:
            for item in items:
                own = weight(item)
                while ahead and (len(ahead) > 2 * self._count or own + sum(each for _, each in ahead) > most):
                    yield ahead.popleft()[0].result()
                ahead.append((self._executor.submit(function, item), own))
            while ahead:
                yield ahead.popleft()[0].result()
        except BrokenProcessPool as error:
            got = "one that was killed, probably for lack of memory"
            raise DscsrError(f"{many(self._count, 'worker process')} to live", got, "Use fewer (--workers).") from error


@contextmanager
def worker_pool(count: int) -> Iterator[Workers]:
    """Start ``count`` processes of one thread each. They end with the block, and when this process dies."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))  # read when numpy is loaded, in the workers
    # Spawned, not forked: a fork of a process that has threads (numpy's, torch's) can hang.
    executor = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _start_worker)
    try:
        yield Workers(executor, count)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _start_worker() -> None:
    import cv2
    import OpenImageIO
    from PIL import Image

    cv2.setNumThreads(1)
    OpenImageIO.attribute("threads", 1)
    Image.MAX_IMAGE_PIXELS = None  # the user's own photographs may be as large as they are
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

"""Items that are read while their predecessors are in use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(load: Callable[[Item], Result], items: Iterable[Item], ahead: int = 1) -> Iterator[Result]:
    """``load(item)`` for each of ``items``, in order; a thread loads so many beyond the one that was asked for.

    What ``load`` raises is raised where its result would come. However the iteration ends, what is not begun by then is
    never loaded, and what is begun is not waited for.
    """
    thread = ThreadPoolExecutor(1)
    loading: deque[Future[Result]] = deque()
    try:
        for item in items:
            loading.append(thread.submit(load, item))
            if len(loading) > ahead:
                yield loading.popleft().result()
        while loading:
            yield loading.popleft().result()
    finally:
        thread.shutdown(wait=False, cancel_futures=True)

"""Items that are worked on in threads while their predecessors are in use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(
    load: Callable[[Item], Result], items: Iterable[Item], ahead: int = 1, threads: int = 1
) -> Generator[Result, None, None]:
    """``load(item)`` for each of ``items``, in order; threads load so many beyond the one that was asked for.

    What ``load`` raises is raised where its result would come. However the iteration ends, what is not begun by then is
    never loaded, and what is begun is not waited for.
    """
    pool = ThreadPoolExecutor(threads)
    loading: deque[Future[Result]] = deque()
    try:
        for item in items:
            loading.append(pool.submit(load, item))
            del item  # kept nowhere: it may be an image of gigabytes
            if len(loading) > ahead:
                yield loading.popleft().result()
        while loading:
            yield loading.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)

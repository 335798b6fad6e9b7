"""The time that a training takes: it runs from the first step on, and stands while the training saves or validates."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any


class TrainingClock:
    """Counts seconds while it runs.

    Attributes:
        limit: Seconds after which the training ends; None: it has no end by time.
    """

    def __init__(self) -> None:
        self.limit: float | None = None
        self._counted = 0.0
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        """Counted so far."""
        return self._counted if self._since is None else self._counted + time.perf_counter() - self._since

    @property
    def share(self) -> float:
        """Of the time that there is, which is used; 0 where there is no end."""
        return self.seconds / self.limit if self.limit else 0.0

    def set(self, seconds: float) -> None:
        """Stand at so many seconds."""
        self._counted, self._since = seconds, None

    def start(self) -> None:
        """Run, if it does not yet."""
        if self._since is None:
            self._since = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, the clock stands."""
        running = self._since is not None
        self.set(self.seconds)
        try:
            yield
        finally:
            if running:
                self.start()


class EndingLoader:
    """A data loader that has no batch more once ``over`` says so: a loop then ends as if it had made all its epochs."""

    def __init__(self, loader: Iterable[Any], over: Callable[[], bool]) -> None:
        self._loader = loader
        self._over = over

    def __iter__(self) -> Iterator[Any]:
        if self._over():  # without workers, which an epoch starts
            return
        for batch in self._loader:
            yield batch
            if self._over():
                return

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

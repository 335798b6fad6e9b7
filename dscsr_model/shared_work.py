"""Work that processes share which torchrun has started together, on one machine or on several.

Each takes the next item when it is free for it, by one atomic counter in the store through which torchrun's processes
find each other: no item twice, none waits for a slow rank, and nothing is asked of a file system's locks, which many
network file systems do not have, or have for one machine alone. A rank that has ended is known by its silence: the
others go on, and what it had begun is left to the next run.

The environment is that of ``env://``: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT.
"""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

from dscsr_arch.errors import DscsrError

T = TypeVar("T")

BEAT = 1.0
"""Seconds between two signs of life."""
SILENT = 30.0
"""Seconds without one after which a rank has ended."""
FIRST_TELLS = 5.0
"""Seconds that rank 0 may take to say why it ends."""
LATE = 600.0
"""Seconds that a rank may take to join: imports from a cold network file system take minutes."""

_AGAIN = "Start the same command again: what is made stays."


def started_together() -> bool:
    """Whether torchrun, or whoever sets its variables, has started this process beside others."""
    known = all(os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    return known and os.environ["WORLD_SIZE"] != "1"


def rank_of_many() -> int:
    """This process's rank; 0 of one that is alone."""
    return int(os.environ["RANK"]) if started_together() else 0


def ranks_here() -> int:
    """How many ranks share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or 1) if started_together() else 1


class Alone:
    """One process, which does all the work."""

    rank: int = 0
    size: int = 1

    def decide(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, on every rank."""
        return make()

    def learn(self) -> Any:
        """What rank 0 decides, for another rank that takes other ways to there."""
        return self.decide(lambda: None)

    def claim(self, items: Sequence[T]) -> Iterator[T]:
        """The items that are this rank's; of equal ``items`` on all ranks, each goes to one."""
        yield from items

    def gather(self, mine: T) -> list[T | None]:
        """What every rank has, on every rank; None of those that have ended without a word."""
        return [mine]

    def bar(self, bar: Any) -> Any:
        """What to call as a bar of tqdm's; ``bar`` itself, on rank 0, then shows what all have done."""
        return bar


class Sharing(NamedTuple):
    """Among whom work is shared, and a bar of tqdm's for a label and a number of items."""

    team: Alone
    bar: Callable[[str, int], Any]


def no_bar(label: str, total: int) -> Any:
    """Show nothing."""
    from tqdm import tqdm

    return tqdm(disable=True)


BY_ITSELF = Sharing(Alone(), no_bar)


class Together(Alone):
    """One of several, made by `ranks`.

    Args:
        store: A store of ``torch.distributed`` that all of them see.
        rank, size: Of this process; of all.
    """

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._store = store
        self._steps = 0
        self._seen: dict[int, tuple[int, float]] = {}
        self._done, self._bar = 0, None
        self._changing = threading.Lock()
        self._left, self._stopped = threading.Event(), threading.Event()
        self._beats = threading.Thread(target=self._beat, daemon=True)
        self._beats.start()

    def decide(self, make: Callable[[], T]) -> T:  # noqa: D102 - as above
        key = self._step()
        if self.rank == 0:
            made = make()
            with self._told():
                self._store.set(key, pickle.dumps(made))
            return made
        if (said := self._said(key, 0)) is None:
            raise DscsrError("rank 0 to go on", f"no sign of life for {SILENT:.0f} s", _AGAIN)
        decided: T = pickle.loads(said)  # of a rank of ours, as torch.distributed sends objects
        return decided

    def claim(self, items: Sequence[T]) -> Iterator[T]:  # noqa: D102
        key = self._step()
        while not self._stopped.is_set():
            try:
                index = self._store.add(key, 1) - 1
            except RuntimeError:  # who holds the store has ended; what is begun here can be finished
                return
            if index >= len(items):
                return
            yield items[index]

    def gather(self, mine: T) -> list[T | None]:  # noqa: D102
        key = self._step()
        with self._told():
            self._show()
            self._store.set(f"{key}/{self.rank}", pickle.dumps(mine))
        everyones = self.decide(lambda: [mine, *(self._report(f"{key}/{rank}", rank) for rank in range(1, self.size))])
        self._show()
        self._bar = None
        return everyones

    def bar(self, bar: Any) -> Any:  # noqa: D102
        self._bar = bar
        return _SharedBar(self, bar)

    def advance(self, count: int) -> None:
        """Tell that so much has been done."""
        with self._changing:
            self._done += count

    def leave(self, stopped: bool) -> None:
        """End. torchrun kills all ranks when one ends with an error: the first one, which tells it, must be the first.

        Its process may hold the store: it stays until the others know.
        """
        with suppress(RuntimeError):  # the store has ended before us
            if self.rank == 0:
                self._store.set("stopped" if stopped else "ended", "")
            left = self._store.add("left", 1)
            if self.rank == 0:
                self._until(lambda: self._store.add("left", 0) == self.size, 2 * BEAT)
            elif self._stopped.is_set():
                time.sleep(FIRST_TELLS)
            elif not stopped and left < self.size:
                self._until(lambda: self._store.check(["ended"]), FIRST_TELLS)
        self._left.set()
        self._beats.join()

    def _until(self, condition: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            time.sleep(BEAT / 20)

    def _step(self) -> str:
        self._steps += 1
        return f"step {self._steps}"

    def _report(self, key: str, rank: int) -> Any:
        said = self._said(key, rank)
        return None if said is None else pickle.loads(said)

    def _said(self, key: str, rank: int) -> bytes | None:
        """What this rank tells under ``key``, awaited; None if it has ended."""
        with self._told():
            while not self._store.check([key]):
                if self._stopped.is_set() and self.rank != 0:
                    raise SystemExit(1)  # rank 0 has said why
                if self._is_silent(rank):
                    return None
                time.sleep(BEAT / 20)  # and not in the store, which would wait for one thread alone
            said: bytes = self._store.get(key)
            return said

    def _is_silent(self, rank: int) -> bool:
        count, now = self._store.add(f"beat {rank}", 0), time.monotonic()
        before, since = self._seen.get(rank, (-1, now))
        if count != before:
            self._seen[rank] = count, now
            return False
        return now - since > (SILENT if count else LATE)

    def _beat(self) -> None:
        while True:
            try:
                self._store.add(f"beat {self.rank}", 1)
                self._show()
                if self._store.check(["stopped"]):
                    self._stopped.set()
            except RuntimeError:
                return
            if self._left.wait(BEAT):
                return

    def _show(self) -> None:
        with self._changing:
            total, self._done = self._store.add("done", self._done), 0
            if self._bar is not None and self.rank == 0:
                self._bar.update(total - self._bar.n)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            got = f"that it has ended ({str(error).splitlines()[0]})"
            raise DscsrError("rank 0, or the torchrun beside it, to go on", got, _AGAIN) from error


class _SharedBar:
    def __init__(self, ranks: Together, bar: Any) -> None:
        self.update, self.write = ranks.advance, bar.write


@contextmanager
def ranks() -> Iterator[Alone]:
    """This process among those that were started with it, from here to the end of the block.

    Raises:
        DscsrError: The others cannot be found.
    """
    if not started_together():
        yield Alone()
        return
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    together = Together(_store(rank, size), rank, size)
    stopped = True
    try:
        yield together
        stopped = False
    finally:
        together.leave(stopped)


def _store(rank: int, size: int) -> Any:
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # or it prints pages when the store ends; read by its import
    from torch.distributed import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    # One machine's torchrun keeps its store when it starts ranks that died again (--max-restarts).
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if os.environ.get("GROUP_WORLD_SIZE") == "1" else "0"
    try:
        found, _, _ = next(iter(rendezvous("env://", timeout=timedelta(seconds=LATE))))
    except (RuntimeError, ValueError) as error:
        where = ":".join(os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
        raise DscsrError(
            f"{size} ranks to find each other at MASTER_ADDR:MASTER_PORT, {where}",
            str(error).splitlines()[0],
            "Start them by torchrun; docs/cluster.md tells more. Or unset WORLD_SIZE, to work alone.",
        ) from error
    return PrefixStore(f"dscsr {attempt}", found)

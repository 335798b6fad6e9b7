"""What a person sees of a training while it runs: a bar on a terminal; elsewhere lines, fewer and fewer of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TextIO

from torch import Tensor
from tqdm import tqdm

FIRST_LINES = (1, 10, 50, 100)
"""Steps of a process after which it says a line, however fast they are."""
RARELY, OFTEN = 300.0, 10.0
"""Seconds between later lines: a tenth of the time so far, within these bounds."""
ON_A_BAR = 1.0
"""Seconds between losses on a bar: each is waited for, on a GPU."""

_UNITS = (("year", 365 * 86400), ("day", 86400), ("h", 3600), ("min", 60), ("s", 1))


class Progress:
    """Says nothing: one rank is enough to hear, and a model in a script of one's own has nobody to tell."""

    def step(self, iteration: int, losses: Mapping[str, Tensor], skipped: Callable[[], int] = lambda: 0) -> None:
        """A step was made; so many were skipped up to now. Both are read from the device only if they are shown."""

    def begin_stage(self, made: int, line: str) -> None:
        """After so many iterations a stage begins, whose steps may take another time; a line says how it differs."""
        self.say(line)

    def say(self, line: str) -> None:
        """Something else is to be told."""

    def close(self) -> None:
        """No step follows."""


class ShownProgress(Progress):
    """How far a training has come, how fast it is, when it ends, and what it loses.

    The first step also starts processes, compiles and tries out algorithms: times are counted from its end.

    Args:
        start: Iterations that were made before.
        expected: After an iteration, which one will be the last.
        left: After an iteration, how many are to come of the length that those after a second one had.
        stream: Where to show it.
        on_estimate: Is given the first estimate of the seconds that are left; a line that it returns is shown.
    """

    def __init__(
        self,
        start: int,
        expected: Callable[[int], int],
        stream: TextIO,
        on_estimate: Callable[[float], str | None] = lambda seconds: None,
        left: Callable[[int, int], float] | None = None,
    ) -> None:
        self._left = left or (lambda iteration, since: expected(iteration) - iteration)
        self._start, self._expected, self._stream, self._on_estimate = start, expected, stream, on_estimate
        self._total = expected(start)
        self._opened = self._shown = time.monotonic()
        self._first_step = 0.0  # when it had ended
        self._estimated = False
        self._bar = tqdm(
            total=self._total,
            initial=start,
            file=stream,
            disable=not stream.isatty(),
            dynamic_ncols=True,
            bar_format="{percentage:3.0f}% {bar} {n_fmt}/{total_fmt}{postfix}",
        )

    def step(self, iteration: int, losses: Mapping[str, Tensor], skipped: Callable[[], int] = lambda: 0) -> None:
        """Move on; at some steps with the figures of this one."""
        made = iteration - self._start
        if made == 1:
            self._first_step = time.monotonic()
        total = self._expected(iteration)
        if iteration == total or self._due(made):
            left_out = f", skipped steps: {number:,}" if (number := skipped()) else ""
            self._show(made, iteration, total, _shown_losses(losses) + left_out)
        self._bar.update(iteration - self._bar.n)

    def begin_stage(self, made: int, line: str) -> None:
        """Also measure anew: the first step of a stage starts processes, as that of a run does."""
        self.say(line)
        self._start = made

    def say(self, line: str) -> None:
        """Show a line, above the bar if there is one."""
        with suppress(OSError), tqdm.external_write_mode(self._stream):  # nobody may be reading: no reason to end
            print(line, file=self._stream, flush=True)

    def close(self) -> None:
        """Leave the bar, if there is one, as it is."""
        self._bar.close()

    def _due(self, made: int) -> bool:
        now = time.monotonic()
        if not self._bar.disable:
            return made <= 2 or now - self._shown >= ON_A_BAR
        return made in FIRST_LINES or now - self._shown >= min(max((now - self._opened) / 10, OFTEN), RARELY)

    def _show(self, made: int, iteration: int, total: int, losses: str) -> None:
        self._shown = now = time.monotonic()  # once the losses have come, and with them the end of this step
        parts = [losses]
        if made > 1:
            pace = max((now - self._first_step) / (made - 1), 1e-9)
            left = self._left(iteration, self._start) * pace
            parts.insert(0, f"{1 / pace:.3g} it/s" if pace < 1 else f"{pace:.3g} s/it")
            if iteration < total:
                parts.insert(1, f"{duration(left)} left")
            if not self._estimated:
                self._estimated = True
                if advice := self._on_estimate(left):
                    self.say(advice)
        if self._bar.disable:
            about = "about " * (total not in (iteration, self._total))
            self.say(f"iteration {iteration:,} of {about}{total:,}: {', '.join(parts)}")
        else:
            self._bar.total = total
            self._bar.set_postfix_str(", ".join(parts), refresh=False)


def _shown_losses(losses: Mapping[str, Tensor]) -> str:
    """``loss 0.0213``; of several the sum, and what it is made of."""
    values = {name.removeprefix("l_"): float(loss.detach().float().mean()) for name, loss in losses.items()}
    terms = f" ({', '.join(f'{name} {value:.4g}' for name, value in values.items())})" if len(values) > 1 else ""
    return f"loss {sum(values.values()):.4g}{terms}"


def duration(seconds: float) -> str:
    """``45 s``, ``3 min 20 s``, ``1 day 4 h``, ``2 years 30 days``: the two largest units, in whole numbers."""
    rest = max(round(seconds), 0)
    parts: list[str] = []
    for unit, size in _UNITS:
        count, rest = divmod(rest, size)
        if count or parts or size == 1:
            parts.append(f"{count} {unit}{'s' * (count > 1 and size >= 86400)}" if count or not parts else "")
        if len(parts) == 2:
            break
    return " ".join(part for part in parts if part)

"""What a training wrote about itself, read back: BasicSR's log files, or TensorBoard's event files."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dscsr_arch.errors import DscsrError

Curve = dict[int, float]
"""Iteration to value, in the order of the iterations."""

# BasicSR's names of `pixel_opt` and `perceptual_opt`; our models once logged `l_pixel` and `l_perceptual`.
_SAME_LOSS = {"pix": "pixel", "percep": "perceptual"}

_ITERATION = re.compile(
    r" INFO: \[.*\]\[epoch:\s*\d+, iter:\s*(?P<iteration>[\d,]+), lr:\([^)]*\)\] "
    r"(?:\[eta: .*?, time \(data\): (?P<seconds>[\d.]+) \([\d.]+\)\] )?(?P<items>.*)"
)
_ITEM = re.compile(r"(\S+): (\S+)")
_STARTS_AT = re.compile(r" INFO: Validating iteration (\d+), which training starts from")
_RESUMED = re.compile(r" INFO: Resuming training from epoch: \d+, iter: (\d+)")
_VALIDATION = re.compile(r" INFO: Validation (.+)")
_METRIC = re.compile(r"\t # (.+?): (\S+)")
# Lines of the options and of the statistics that BasicSR prints above the first iteration.
_SETTING = re.compile(
    r"\s+(?P<name>val_freq|total_iter|Batch size per gpu|World size \(gpu number\)): (?P<value>\d[\d.e+]*)"
)


@dataclass
class History:
    """The curves of one training.

    Attributes:
        losses: By the loss's name without ``l_``: ``pixel``, ``perceptual``, …
        metrics: By validation set and metric, as in the option file.
        rates: Training images per second.
        start: The iteration after which these curves begin; 0 unless resumed.
    """

    losses: dict[str, Curve] = field(default_factory=dict)
    metrics: dict[tuple[str, str], Curve] = field(default_factory=dict)
    rates: Curve = field(default_factory=dict)
    start: int = 0

    @property
    def last_iteration(self) -> int:
        """The last iteration that anything is known of; 0 if none."""
        return max((max(curve) for curve in self._curves() if curve), default=0)

    @property
    def psnr(self) -> dict[tuple[str, str], Curve]:
        """The metrics that are called PSNR in some way."""
        return {key: curve for key, curve in self.metrics.items() if curve and "psnr" in key[1].lower()}

    def _curves(self) -> Iterator[Curve]:
        yield from (*self.losses.values(), *self.metrics.values(), self.rates)


def best_of(curve: Curve) -> tuple[int, float]:
    """Iteration and value of the largest value; the first of equals. NaN is the least."""
    return max(curve.items(), key=lambda point: (-math.inf if math.isnan(point[1]) else point[1], -point[0]))


def read_logs(files: Iterable[Path]) -> History:
    """One history from the log files of a training and its resumes.

    What an earlier file says of iterations after the resume is dropped: those steps were undone and taken again.

    Args:
        files: ``train_*.log`` as BasicSR writes them, in any order.

    Raises:
        DscsrError: There is no iteration in any of them.
    """
    files = sorted(files, key=_when)
    parts = []
    for file in files:
        with open(file, encoding="utf-8", errors="replace") as lines:
            parts.append(_LogReader().read(lines))
    merged = History()
    for part in parts:
        merged = _continued(merged, part)
    if not merged.last_iteration:
        raise DscsrError(
            f"Expected iterations in {files[-1]}, but got none: the training ended before its first log line. "
            "Train on, or lower `logger: print_freq`."
        )
    return merged


def _when(file: Path) -> tuple[str, str]:
    """BasicSR ends the names of its logs with date and time."""
    found = re.search(r"_(\d{8}_\d{6})$", file.stem)
    return (found[1] if found else "", file.name)


def _continued(earlier: History, later: History) -> History:
    if not later.last_iteration:  # stopped before its first log line: nothing was undone
        return earlier

    def joined(old: Curve | None, new: Curve | None) -> Curve:
        kept = {at: value for at, value in (old or {}).items() if at <= later.start}
        return kept | (new or {})

    return History(
        losses={
            name: joined(earlier.losses.get(name), later.losses.get(name)) for name in earlier.losses | later.losses
        },
        metrics={
            key: joined(earlier.metrics.get(key), later.metrics.get(key)) for key in earlier.metrics | later.metrics
        },
        rates=joined(earlier.rates, later.rates),
    )


class _LogReader:
    """Reads one log file line by line.

    Validations don't say their iteration: it is that which training starts from, where a line says so, then the next
    multiple of ``val_freq``, or the end of the training.
    """

    def __init__(self) -> None:
        self.history = History(start=-1)
        self.settings: dict[str, float] = {}
        self.last_iteration = 0
        self.ended = False
        self.starts_at: int | None = None
        self.dataset: str | None = None
        self.validated: dict[str, int] = {}

    def read(self, lines: Iterable[str]) -> History:
        for line in lines:
            if not line.endswith("\n"):
                break  # cut short by a kill: its last figure would be another
            if found := _ITERATION.search(line):
                self._iteration(found)
            elif found := _VALIDATION.search(line):
                self.dataset = found[1].strip()
                self.validated[self.dataset] = self._validated_at(self.dataset)
            elif (found := _METRIC.match(line)) and self.dataset is not None:
                key = self.dataset, found[1]
                _add(self.history.metrics.setdefault(key, {}), self.validated[self.dataset], found[2])
            elif found := _STARTS_AT.search(line):
                self.starts_at = int(found[1])
            elif found := _RESUMED.search(line):
                self.history.start = self.last_iteration = int(found[1])
            elif found := _SETTING.match(line):
                self.settings.setdefault(found["name"], float(found["value"]))
            elif " INFO: End of training." in line:
                self.ended = True
        return self.history

    def _iteration(self, found: re.Match[str]) -> None:
        iteration = self.last_iteration = int(found["iteration"].replace(",", ""))
        self.starts_at = None
        if self.history.start < 0:
            self.history.start = iteration - 1
        items = dict(_ITEM.findall(found["items"]))
        for name, value in items.items():
            if name.startswith("l_"):
                _add(self.history.losses.setdefault(_loss_name(name), {}), iteration, value)
        rate = items.get("images_per_s") or self._rate(found["seconds"])
        if rate is not None:
            _add(self.history.rates, iteration, rate)

    def _rate(self, seconds: str | None) -> str | None:
        """SRModel logs seconds per iteration only."""
        images = self.settings.get("Batch size per gpu", 0) * self.settings.get("World size (gpu number)", 1)
        return str(images / float(seconds)) if seconds and images and float(seconds) else None

    def _validated_at(self, dataset: str) -> int:
        if self.starts_at is not None:
            return self.starts_at
        if self.ended:
            return int(self.settings.get("total_iter", self.last_iteration))
        every = int(self.settings.get("val_freq", 0))
        if not every:
            return self.last_iteration
        # The first multiple that is not before the last line, and after the last validation or the resume.
        least = max(self.last_iteration, self.validated.get(dataset, max(self.history.start, 0)) + 1)
        return -(-least // every) * every


def _add(curve: Curve, iteration: int, text: str) -> None:
    try:
        curve[iteration] = float(text)
    except ValueError:
        return  # not a figure: another tool's line


def _loss_name(name: str) -> str:
    name = name.removeprefix("l_")
    return _SAME_LOSS.get(name, name)


def read_events(folder: Path) -> History:
    """The history that TensorBoard's event files in a folder hold.

    Raises:
        DscsrError: TensorBoard is not installed, or no loss or metric is in the files.
    """
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError as error:
        raise DscsrError(
            f"Expected tensorboard to read the event files in {folder}, but it is not installed. "
            "Run `pip install tensorboard`."
        ) from error
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    history = History()
    for tag in accumulator.Tags()["scalars"]:
        curve = _without_undone((event.step, event.value) for event in accumulator.Scalars(tag))
        group, _, rest = tag.partition("/")
        if group == "losses":
            history.losses[_loss_name(rest)] = curve
        elif group == "metrics":
            dataset, _, metric = rest.rpartition("/")
            history.metrics[dataset, metric] = curve
        elif tag == "images_per_s":
            history.rates = curve
    if not history.losses and not history.metrics:
        raise DscsrError(f"Expected losses or metrics in the event files of {folder}, but got none. Train on.")
    return history


def _without_undone(points: Iterable[tuple[int, float]]) -> Curve:
    """A step back in the order of writing is a resume: what was after it is dropped."""
    curve: list[tuple[int, float]] = []
    for step, value in points:
        while curve and curve[-1][0] >= step:
            curve.pop()
        curve.append((step, value))
    return dict(curve)

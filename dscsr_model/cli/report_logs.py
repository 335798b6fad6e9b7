"""What a training wrote about itself, read back: BasicSR's log files, or TensorBoard's event files."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from dscsr_arch.errors import DscsrError

Curve = dict[int, float]
"""Iteration to value, in the order of the iterations."""

_RATE = ("rate",)
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
        curves: By ``("loss", name)`` with the loss's name without ``l_``, by ``("metric", set, name)`` with the names
            of the option file, and by ``("rate",)`` in training images per second.
    """

    curves: dict[tuple[str, ...], Curve] = field(default_factory=dict)

    @property
    def losses(self) -> dict[str, Curve]:
        """By name, such as ``pixel``."""
        return {key[1]: curve for key, curve in self.curves.items() if key[0] == "loss"}

    @property
    def metrics(self) -> dict[tuple[str, str], Curve]:
        """By validation set and metric."""
        return {(key[1], key[2]): curve for key, curve in self.curves.items() if key[0] == "metric"}

    @property
    def psnr(self) -> dict[tuple[str, str], Curve]:
        """The metrics that are called PSNR in some way."""
        return {key: curve for key, curve in self.metrics.items() if curve and "psnr" in key[1].lower()}

    @property
    def rates(self) -> Curve:
        """Training images per second."""
        return self.curves.get(_RATE, {})

    @property
    def last_iteration(self) -> int:
        """The last iteration that anything is known of; 0 if none."""
        return max((max(curve) for curve in self.curves.values() if curve), default=0)

    def add(self, key: tuple[str, ...], iteration: int, text: str) -> None:
        """Add a point to a curve; nothing if the text is no number, but another tool's line."""
        try:
            value = float(text)
        except ValueError:
            return
        self.curves.setdefault(key, {})[iteration] = value

    def undo(self, after: int) -> None:
        """Drop what is known of iterations after one: their steps are taken again."""
        for key, curve in self.curves.items():
            self.curves[key] = {at: value for at, value in curve.items() if at <= after}


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
    history = History()
    for file in (files := sorted(files, key=_when)):
        with open(file, encoding="utf-8", errors="replace") as lines:
            _LogReader(history).read(lines)
    if not history.last_iteration:
        raise DscsrError(
            f"iterations in {files[-1]}",
            "none: the training ended before its first log line",
            "Train on, or lower `logger: print_freq`.",
        )
    return history


def _when(file: Path) -> tuple[str, str]:
    """BasicSR ends the names of its logs with date and time."""
    found = re.search(r"_(\d{8}_\d{6})$", file.stem)
    return (found[1] if found else "", file.name)


class _LogReader:
    """Reads one log file line by line.

    Validations don't say their iteration: it is that which training starts from, where a line says so, then the next
    multiple of ``val_freq``, or the end of the training.
    """

    def __init__(self, history: History) -> None:
        self.history = history
        self.settings: dict[str, float] = {}
        self.resumed = self.last_iteration = 0
        self.began = False
        self.ended = False
        self.starts_at: int | None = None
        self.dataset: str | None = None
        self.validated: dict[str, int] = {}

    def read(self, lines: Iterable[str]) -> None:
        for line in lines:
            if not line.endswith("\n"):
                break  # cut short by a kill: its last figure would be another
            if found := _ITERATION.search(line):
                self._iteration(found)
            elif found := _VALIDATION.search(line):
                self.dataset = found[1].strip()
                self.validated[self.dataset] = self._validated_at(self.dataset)
            elif (found := _METRIC.match(line)) and self.dataset is not None:
                self._add(("metric", self.dataset, found[1]), self.validated[self.dataset], found[2])
            elif found := _STARTS_AT.search(line):
                self.starts_at = int(found[1])
            elif found := _RESUMED.search(line):
                self.resumed = self.last_iteration = int(found[1])
            elif found := _SETTING.match(line):
                self.settings.setdefault(found["name"], float(found["value"]))
            elif " INFO: End of training." in line:
                self.ended = True

    def _iteration(self, found: re.Match[str]) -> None:
        iteration = self.last_iteration = int(found["iteration"].replace(",", ""))
        self.starts_at = None
        items = dict(_ITEM.findall(found["items"]))
        for name, value in items.items():
            if name.startswith("l_"):
                self._add(_loss_key(name), iteration, value)
        rate = items.get("images_per_s") or self._rate(found["seconds"])
        if rate is not None:
            self._add(_RATE, iteration, rate)

    def _add(self, key: tuple[str, ...], iteration: int, text: str) -> None:
        if not self.began:  # a training that is stopped before its first figure has undone nothing
            self.began = True
            self.history.undo(after=self.resumed or iteration - 1)
        self.history.add(key, iteration, text)

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
        least = max(self.last_iteration, self.validated.get(dataset, self.resumed) + 1)
        return -(-least // every) * every


def _loss_key(name: str) -> tuple[str, ...]:
    name = name.removeprefix("l_")
    return "loss", _SAME_LOSS.get(name, name)


def read_events(folder: Path) -> History:
    """The history that TensorBoard's event files in a folder hold.

    Raises:
        DscsrError: TensorBoard is not installed, or no loss or metric is in the files.
    """
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError as error:
        what = f"tensorboard to read the event files in {folder}"
        raise DscsrError(what, "none that is installed", "Run `pip install tensorboard`.") from error
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    history = History()
    for tag in accumulator.Tags()["scalars"]:
        group, _, rest = tag.partition("/")
        dataset, _, metric = rest.rpartition("/")
        keys = {"losses": _loss_key(rest), "metrics": ("metric", dataset, metric), "images_per_s": _RATE}
        curve = history.curves.setdefault(keys[group], {}) if group in keys else {}
        for event in accumulator.Scalars(tag):
            while curve and next(reversed(curve)) >= event.step:  # a resume: what was after it is undone
                curve.popitem()
            curve[event.step] = event.value
    if not history.losses and not history.metrics:
        raise DscsrError(f"losses or metrics in the event files of {folder}", "none", "Train on.")
    return history

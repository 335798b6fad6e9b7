"""Whole iterations: SRModel with the official SPAN and BasicSR's loader against EfficientSRModel; and steps of CSD."""

from __future__ import annotations

import logging
import os
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import csd_cost
import train_loop

from gpu_steps.photographs import photographs
from gpu_steps.plan import Figure, Plan, float32_is_float32

FURTHER: dict[str, dict[str, Any]] = {
    "bf16, channels_last": {"precision": "bf16", "channels_last": True},
    "bf16, channels_last, compile: reduce-overhead": {
        "precision": "bf16",
        "channels_last": True,
        "compile": "reduce-overhead",
    },
}
"""Of our model: sections of ``train:`` beside what both ways have."""
TURN = 20
"""Iterations of a turn, at whose end the losses are read, as a log line does it."""


def figures(plan: Plan) -> Iterator[Figure]:
    """Iterations with reading the data, each way with the number of workers that suits it."""
    float32_is_float32()
    logging.disable(logging.INFO)
    train_loop.register_plain_span()
    ways = train_loop.WAYS
    if not plan.smoke:
        ways |= {f"dscsr, {name}": {**ways["dscsr"], "train": train} for name, train in FURTHER.items()}
    sizes = {"channels": 4, "batch": 2, "patch": 8} if plan.smoke else {"channels": 26, "batch": 16, "patch": 64}
    setting = train_loop.Setting(plan.device.type, **sizes)
    workers = [0] if plan.smoke else [4, min(12, os.cpu_count() or 1)]
    what = "loop: SPAN-{channels} x4, batch {batch}, {patch}x{patch} LR, EMA, data included".format(**sizes)
    with tempfile.TemporaryDirectory() as folder:
        small = {"crop_size": 0, "workers": 1} if plan.smoke else {}
        train_loop.prepare_both(photographs(plan, Path(folder, "photographs")), Path(folder), **small)
        yield from _in_turns(plan, what, _chosen(plan, Path(folder), workers, setting))


def _chosen(plan: Plan, folder: Path, workers: list[int], setting: train_loop.Setting) -> dict[str, Any]:
    """A training of each way, warmed up, of the number of workers that it was fastest with."""
    chosen = {}
    for way in train_loop.WAYS:
        trials = {n: train_loop.Training(train_loop.options(way, folder, n, setting)) for n in workers}
        turns = 1 if plan.smoke else TURN
        for training in trials.values():
            training.turn(turns)
        best = min(trials, key=lambda n: trials[n].turn(turns)) if len(trials) > 1 else workers[0]
        chosen[f"{way}, {best} workers"] = trials.pop(best)
        for training in trials.values():
            training.end()
    return chosen


def _in_turns(plan: Plan, what: str, trainings: dict[str, Any]) -> Iterator[Figure]:
    times: dict[str, list[float]] = {way: [] for way in trainings}
    while len(times[first := next(iter(times))]) < 2 or (not plan.smoke and len(times[first]) < 7 and plan.left > 8):
        for way, training in trainings.items():
            times[way].append(1000 * training.turn(1 if plan.smoke else TURN))
    for training in trainings.values():
        training.end()
    for way, own in times.items():
        ratio = None if way == first else median(times[first]) / median(own)
        low, _, high = quantiles(own, n=4, method="inclusive")
        against = "" if way == first else first
        yield Figure(what, way, median(own), against=against, ratio=ratio, quartiles=(low, high), runs=len(own))


def csd(plan: Plan) -> Iterator[Figure]:
    """A step of CSD and of simpler trainings, as `csd_cost.py`."""
    float32_is_float32()
    for size in ["2x8"] if plan.smoke else ["16x64", "32x256"]:
        batch, side, steps = (2, 32, 1) if plan.smoke else (16, 192, 5)
        args = Namespace(device=str(plan.device), batch=batch, size=side, steps=steps)
        first = None
        for way in csd_cost.WAYS:
            seconds, peak = csd_cost.measured(args, way, size)
            ratio, first = first and first / seconds, first or seconds
            yield Figure(
                f"EDSR {size} x4, student 0.25, batch {batch}, HR {side}x{side}",
                way,
                1000 * seconds,
                against="teacher alone" if ratio else "",
                ratio=ratio,
                peak_mib=peak / 2**20 if plan.device.type == "cuda" else None,
                note="VGG-19 with random weights" if way == "CSD" else "",
                runs=steps,
            )

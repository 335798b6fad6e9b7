"""The score of NTIRE's efficient super-resolution track: the lower, the better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from dscsr_model.profiling.profile import Profile, Run


class Baseline(NamedTuple):
    """The network that a year's score is relative to, with the published figures (FLOPs and runtime at ×4)."""

    name: str
    runtime_ms: float
    """Mean over the challenge's test images on its GPU (an A6000 in 2026): not to be had on another machine."""
    flops: int
    parameters: int
    weights: tuple[float, float, float]
    """Of time, FLOPs and parameters in the score."""


BASELINES: Mapping[int, Baseline] = {
    2025: Baseline("EFDN", 16.69, 16_700_000_000, 276_000, (0.7, 0.15, 0.15)),
    2026: Baseline("SPAN-28", 7.74, 9_830_000_000, 151_000, (0.8, 0.1, 0.1)),
}


class Given(NamedTuple):
    """Times in milliseconds that were measured elsewhere."""

    runtimes: Mapping[str, float] = {}
    """Of networks, by name, on the challenge's machine."""
    baselines: Mapping[int, float] = {}
    """Of the years' baselines, on this machine."""


class Scored(NamedTuple):
    """A score, and of which times it is made."""

    score: float
    low: float
    high: float
    """What the score would be with the times at their quartiles: the network's and the baseline's at opposite ones."""
    runtime_ms: float
    runtime_source: str
    """``measured`` here, or ``given``."""
    baseline_ms: float
    baseline_source: str
    """``measured`` here in the same run, ``given``, or ``published``: a time on the challenge's machine."""

    @property
    def comparable(self) -> bool:
        """Whether both times can be of one machine."""
        return (self.baseline_source == "published") == (self.runtime_source == "given")


def score(
    runtime_ms: float, flops: float, parameters: float, year: int = 2026, *, baseline_ms: float | None = None
) -> float:
    r"""Score a network as the challenge of ``year`` does.

    Formula: ``a·exp(2·t/t₀) + b·exp(2·F/F₀) + c·exp(2·P/P₀)`` with time t, FLOPs F, parameters P, those of the year's
    baseline, and the year's weights (a, b, c). The baseline itself has e² ≈ 7.39; what exceeds float64 is inf.

    Args:
        runtime_ms: Milliseconds an image.
        flops: As `complexity.count` gives them, at 256×256.
        parameters: How many numbers were learned.
        year: One of `BASELINES`.
        baseline_ms: Milliseconds that the baseline takes where ``runtime_ms`` was measured. None takes the published
            time, which a time measured on another machine or on other images cannot be compared with.
    """
    base = BASELINES[year]
    ratios = (runtime_ms / (baseline_ms or base.runtime_ms), flops / base.flops, parameters / base.parameters)
    return sum(weight * _exp(2 * ratio) for weight, ratio in zip(base.weights, ratios, strict=True))


def scores(profile: Profile, name: str, given: Given | None = None) -> dict[int, Scored]:
    """The scores of a network, by year; empty where FLOPs or the time are missing."""
    given = given or Given()
    measured = profile.networks[name]
    run = measured.runs.get(profile.settings.variants[0], Run())
    source = "given" if name in given.runtimes else "measured"
    runtime = given.runtimes.get(name) or run.ms
    if not (runtime and measured.flops_256):
        return {}
    result = {}
    for year, base in BASELINES.items():
        here = profile.baseline if year == 2026 and source == "measured" and profile.baseline else Run()
        if year in given.baselines:
            baseline, baseline_source = given.baselines[year], "given"
        else:
            baseline, baseline_source = (here.ms, "measured") if here.ms else (base.runtime_ms, "published")
        fast, slow = _spread(run) if source == "measured" else (1.0, 1.0)
        least, most = _spread(here) if baseline_source == "measured" else (1.0, 1.0)
        value, low, high = (
            score(time, measured.flops_256, measured.complexity.parameters, year, baseline_ms=other)
            for time, other in (
                (runtime, baseline),
                (runtime * fast, baseline * most),
                (runtime * slow, baseline * least),
            )
        )
        result[year] = Scored(value, low, high, runtime, source, baseline, baseline_source)
    return result


def _spread(run: Run) -> tuple[float, float]:
    """The quartiles of a run's times as parts of its median; of a mean over images there are none."""
    taken = run.latency if run.images_ms is None else None
    return (taken.low_ms / taken.median_ms, taken.high_ms / taken.median_ms) if taken else (1.0, 1.0)


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf

"""The score of NTIRE's efficient super-resolution track: the lower, the better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from dscsr_arch.errors import DscsrError


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

    Raises:
        DscsrError: There is no baseline of that year, or a figure is no positive number.
    """
    if year not in BASELINES:
        raise DscsrError(f"Expected a year of {', '.join(map(str, BASELINES))}, but got {year}. Choose one of these.")
    base = BASELINES[year]
    given = {"runtime_ms": runtime_ms, "flops": flops, "parameters": parameters}
    if baseline_ms is not None:
        given["baseline_ms"] = baseline_ms
    for name, value in given.items():
        if not (math.isfinite(value) and value > 0):
            raise DscsrError(f"Expected `{name}` to be a positive number, but got {value!r}. Measure it first.")
    ratios = (runtime_ms / (baseline_ms or base.runtime_ms), flops / base.flops, parameters / base.parameters)
    return sum(weight * _exp(2 * ratio) for weight, ratio in zip(base.weights, ratios, strict=True))


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf

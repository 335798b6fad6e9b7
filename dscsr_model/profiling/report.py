"""A profile as figures that explain themselves: scores, and everything as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from dscsr_model.profiling.profile import Measured, Profile, Run
from dscsr_model.profiling.score import BASELINES, score


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


def scores(profile: Profile, name: str, given: Given | None = None) -> dict[int, Scored]:
    """The NTIRE scores of a network, by year; empty where FLOPs or the time are missing."""
    given = given or Given()
    measured = profile.networks[name]
    run = measured.runs.get(profile.plan.variants[0])
    runtime = given.runtimes.get(name) or _ms(run)
    if not (runtime and measured.flops_256):
        return {}
    source = "given" if name in given.runtimes else "measured"
    result = {}
    for year in BASELINES:
        baseline, baseline_source = _baseline(profile, year, given, source)
        fast, slow = _spread(run) if source == "measured" else (1.0, 1.0)
        least, most = _spread(profile.baseline) if baseline_source == "measured" else (1.0, 1.0)
        value, low, high = (
            score(time, measured.flops_256, measured.complexity.parameters, year, baseline_ms=base)
            for time, base in (
                (runtime, baseline),
                (runtime * fast, baseline * most),
                (runtime * slow, baseline * least),
            )
        )
        result[year] = Scored(value, low, high, runtime, source, baseline, baseline_source)
    return result


def as_dict(profile: Profile, psnr: Mapping[str, float] | None = None, given: Given | None = None) -> dict[str, Any]:
    """Everything, ready for JSON: numbers in the units that their names say, None for what there is not."""
    plan, baseline = profile.plan, profile.baseline
    return {
        "machine": profile.machine,
        "size": [plan.height, plan.width],
        "score_variant": plan.variants[0],
        "baseline_2026": None if baseline is None else {"network": "SPAN-28", **_run(baseline)},
        "networks": [_network(profile, name, psnr or {}, given) for name in profile.networks],
    }


def psnr_of(profile: Profile, name: str, psnr: Mapping[str, float]) -> float | None:
    """As given, or else as measured on RGB."""
    quality = profile.networks[name].quality
    return psnr.get(name, quality and quality.psnr)


def _network(profile: Profile, name: str, psnr: Mapping[str, float], given: Given | None) -> dict[str, Any]:
    measured: Measured = profile.networks[name]
    counted = profile.plan.flops
    cost = {key: value for key, value in measured.complexity._asdict().items() if counted or key == "parameters"}
    quality = measured.quality
    return {
        "name": name,
        **{key: cost.get(key) for key in ("parameters", "flops", "activations", "convolutions")},
        "psnr": _finite(psnr_of(profile, name, psnr)),
        "psnr_source": "given" if name in psnr else "measured" if quality else None,
        "psnr_y": _finite(quality and quality.psnr_y),
        "variants": {variant: _run(run) for variant, run in measured.runs.items()},
        "scores": {
            str(year): {
                **scored._asdict(),
                **{name: _finite(getattr(scored, name)) for name in ("score", "low", "high")},
                "comparable": scored.comparable,
            }
            for year, scored in scores(profile, name, given).items()
        },
        "notes": measured.notes,
    }


def _run(run: Run) -> dict[str, Any]:
    times = run.latency._asdict() if run.latency else dict.fromkeys(("median_ms", "low_ms", "high_ms", "mean_ms"))
    return {**times, "images_mean_ms": run.images_ms, "peak_memory_bytes": run.memory, "fault": run.fault}


def _baseline(profile: Profile, year: int, given: Given, source: str) -> tuple[float, str]:
    if year in given.baselines:
        return given.baselines[year], "given"
    measured = _ms(profile.baseline) if year == 2026 and source == "measured" else None
    return (measured, "measured") if measured else (BASELINES[year].runtime_ms, "published")


def _spread(run: Run | None) -> tuple[float, float]:
    """The quartiles of a run's times as parts of its median; of a mean over images there are none."""
    taken = run.latency if run and run.images_ms is None else None
    return (taken.low_ms / taken.median_ms, taken.high_ms / taken.median_ms) if taken else (1.0, 1.0)


def _ms(run: Run | None) -> float | None:
    return run.ms if run else None


def _finite(value: float | None) -> float | None:
    """JSON has no infinity."""
    return value if value is not None and math.isfinite(value) else None

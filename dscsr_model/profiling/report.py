"""A profile for people, as tables no wider than a terminal, and for programs, as JSON."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from dscsr_arch.words import many
from dscsr_model.profiling.machine import in_words
from dscsr_model.profiling.profile import BASELINE, Profile, Run
from dscsr_model.profiling.score import BASELINES, Given, Scored, scores

WIDTH = 110
NAME_WIDTH = 25
"""Of a line of a name: longer ones take several."""
_NAME = textwrap.TextWrapper(NAME_WIDTH)
_NAME.wordsep_re = re.compile(r"(?<=[_/-])|( +)")
_SOURCES = {
    "measured": "measured here in the same run",
    "given": "as given",
    "published": "as published, on the challenge's machine",
}


def as_dict(profile: Profile, psnr: Mapping[str, float] | None = None, given: Given | None = None) -> dict[str, Any]:
    """Everything, ready for JSON: numbers in the units that their names say, None for what there is not."""
    settings, baseline = profile.settings, profile.baseline
    return {
        "machine": profile.machine,
        "size": [settings.height, settings.width],
        "score_variant": settings.variants[0],
        "baseline_2026": None if baseline is None else {"network": "SPAN-28", **_run_as_dict(baseline)},
        "networks": [_network_as_dict(profile, name, psnr or {}, given) for name in profile.networks],
    }


def table(profile: Profile, psnr: Mapping[str, float] | None = None, given: Given | None = None) -> str:
    """What the networks are, then what they take, then what the figures mean; with PSNR and times that are known."""
    settings = profile.settings
    scored = {name: scores(profile, name, given) for name in profile.networks}
    parts = [
        wrapped(f"One image of {settings.height}×{settings.width}. {in_words(profile.machine)}", "  "),
        _networks(profile, psnr or {}, scored),
        _latencies(profile),
        "\n".join(wrapped(note, "  ") for note in _notes(profile, scored)),
    ]
    return "\n\n".join(part for part in parts if part)


def psnr_of(profile: Profile, name: str, psnr: Mapping[str, float]) -> float | None:
    """As given, or else as measured on RGB."""
    quality = profile.networks[name].quality
    return psnr.get(name, quality and quality.psnr)


def name_lines(name: str) -> str:
    """A name in lines of at most `NAME_WIDTH`, which end at a space, an underscore, a slash or a hyphen if they can."""
    return _NAME.fill(name)


def milliseconds(value: float) -> str:
    """Three or more significant digits."""
    return f"{value:.3f}" if value < 10 else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def _networks(profile: Profile, psnr: Mapping[str, float], scored: Mapping[str, Mapping[int, Scored]]) -> str:
    years = [f"score {year}" for year in BASELINES]
    rows = [["network", "params", "FLOPs", "activations", "convs", "PSNR", "PSNR-Y", *years]]
    for name, measured in profile.networks.items():
        cost, quality = measured.complexity, measured.quality
        decibel = psnr_of(profile, name, psnr)
        counted = [f"{cost.flops / 1e9:.2f} G", f"{cost.activations / 1e6:.2f} M", str(cost.convolutions)]
        rows.append(
            [
                name,
                f"{cost.parameters / 1e6:.3f} M",
                *(counted if profile.settings.flops else [""] * 3),
                "" if decibel is None else f"{decibel:.2f} dB",
                f"{quality.psnr_y:.2f} dB" if quality else "",
                *(score_in_words(scored[name][year]) if year in scored[name] else "" for year in BASELINES),
            ]
        )
    return aligned(rows, 1)


def score_in_words(scored: Scored) -> str:
    """Two decimals, as NTIRE has it, as long as that makes sense, with its spread; marked if of two machines."""
    spread = (scored.high - scored.low) / 2
    value = f"{scored.score:.2f}" + (f" ±{spread:.2f}" if spread > 0 else "") if scored.high < 1e4 else ">1e4"
    return value if scored.comparable else f"{value}*"


def _latencies(profile: Profile) -> str:
    rows = [["network", "variant", "median", "quartiles", "runs", "peak memory", "per image", "speed"]]
    faults = []
    for name, measured in profile.networks.items():
        first = next((run.latency.median_ms for run in measured.runs.values() if run.latency), None)
        for number, (variant, run) in enumerate(measured.runs.items()):
            rows.append([name if number == 0 else "", variant, *_cells(run, first)])
            faults += [f"{name}, {variant}: {run.fault}"] if run.fault else []
    if profile.baseline is not None:
        rows.append([BASELINE, profile.settings.variants[0], *_cells(profile.baseline, None)])
        faults += [f"{BASELINE}: {profile.baseline.fault}"] if profile.baseline.fault else []
    lines = ["", "Not to be had here:", *(wrapped(fault, "  ") for fault in faults)] if faults else []
    return "\n".join([aligned(rows, 2), *lines])


def _cells(run: Run, first: float | None) -> list[str]:
    if run.latency is None:
        return ["-", "", "", "", "", ""]
    taken = run.latency
    return [
        f"{milliseconds(taken.median_ms)} ms",
        f"{milliseconds(taken.low_ms)} to {milliseconds(taken.high_ms)}",
        str(taken.runs),
        f"{run.memory / 2**20:.1f} MiB" if run.memory else "-",
        f"{milliseconds(run.images_ms)} ms" if run.images_ms else "",
        f"{first / taken.median_ms:.2f}×" if first else "",
    ]


def _notes(profile: Profile, scored: Mapping[str, Mapping[int, Scored]]) -> list[str]:
    notes = [f"{name}: {note}" for name, measured in profile.networks.items() for note in measured.notes]
    settings = profile.settings
    of_years = {year: [each[year] for each in scored.values() if year in each] for year in BASELINES}
    if any(of_years.values()):
        time = f"the mean over {many(len(settings.images), 'image')}" if settings.images else "the median above"
        notes.append(
            f"Scores (lower is better; the baseline has 7.39) take {time} of {settings.variants[0]}; ± is half the "
            "range that the quartiles of the times give. They compare with:"
        )
    for year, found in of_years.items():
        kinds = dict.fromkeys((each.baseline_ms, each.baseline_source) for each in found)
        notes += [
            f"  {year}: {BASELINES[year].name}, {milliseconds(ms)} ms, {_SOURCES[source]}" for ms, source in kinds
        ]
    if not all(each.comparable for found in of_years.values() for each in found):
        notes.append(
            "* compares times of two machines and means little: name the baseline's here, --baseline-ms 2025=MS."
        )
    return notes


def aligned(rows: Sequence[Sequence[str]], left: int) -> str:
    """A header and its rows, the first ``left`` columns, of names, flush left; empty columns are left out."""
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    align = ["left"] * left + ["right"] * (len(columns) - left)
    columns[0] = tuple(map(name_lines, columns[0]))
    kept = list(zip(*columns, strict=True))
    text = tabulate(kept, tablefmt="plain", disable_numparse=True, colalign=align)
    return "\n".join(line.rstrip() for line in text.splitlines())


def wrapped(text: str, indent: str) -> str:
    """In lines of `WIDTH`; all but the first indented, and the first, too, if it was."""
    lead = indent if text.startswith(" ") else ""
    return textwrap.fill(text.strip(), WIDTH, initial_indent=lead, subsequent_indent=lead + indent)


def _network_as_dict(profile: Profile, name: str, psnr: Mapping[str, float], given: Given | None) -> dict[str, Any]:
    measured = profile.networks[name]
    counts = measured.complexity._asdict()
    del counts["uncounted"]  # stands in the notes
    if not profile.settings.flops:
        counts |= dict.fromkeys(("flops", "activations", "convolutions"))
    quality = measured.quality
    return {
        "name": name,
        **counts,
        "weight_bytes": measured.weight_bytes,
        "psnr": _finite(psnr_of(profile, name, psnr)),
        "psnr_source": "given" if name in psnr else "measured" if quality else None,
        "psnr_y": _finite(quality and quality.psnr_y),
        "variants": {variant: _run_as_dict(run) for variant, run in measured.runs.items()},
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


def _run_as_dict(run: Run) -> dict[str, Any]:
    times = run.latency._asdict() if run.latency else dict.fromkeys(("median_ms", "low_ms", "high_ms", "mean_ms"))
    return {**times, "images_mean_ms": run.images_ms, "peak_memory_bytes": run.memory, "fault": run.fault}


def _finite(value: float | None) -> float | None:
    """JSON has no infinity."""
    return value if value is not None and math.isfinite(value) else None

"""A profile as aligned text, no wider than a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile

from dscsr_model.profiling.machine import in_words
from dscsr_model.profiling.profile import BASELINE, Profile, Run
from dscsr_model.profiling.report import Given, Scored, psnr_of, scores
from dscsr_model.profiling.score import BASELINES

WIDTH = 110
_LONGEST_NAME = 25


def table(profile: Profile, psnr: Mapping[str, float] | None = None, given: Given | None = None) -> str:
    """What the networks are, then what they take, then what the figures mean."""
    psnr = psnr or {}
    parts = [
        _wrapped(f"One image of {profile.plan.height}×{profile.plan.width}. {in_words(profile.machine)}", "  "),
        _networks(profile, psnr, given),
        _latencies(profile),
        _notes(profile, given),
    ]
    return "\n\n".join(part for part in parts if part)


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Columns under one another, the first ``left`` flush left, the others right; empty columns are left out."""
    kept = [column for column in range(len(rows[0])) if any(row[column] for row in rows[1:])]
    widths = {column: max(len(row[column]) for row in rows) for column in kept}
    lines = [
        "  ".join(row[c].ljust(widths[c]) if c < left else row[c].rjust(widths[c]) for c in kept).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def labels(names: Iterable[str], longest: int = _LONGEST_NAME) -> dict[str, str]:
    """What stands for each name in ``longest`` characters, no two alike: the middle is left out, or what all share."""
    half = (longest - 1) // 2
    cut = {name: name if len(name) <= longest else f"{name[:half]}…{name[half + 1 - longest :]}" for name in names}
    for _ in range(len(cut)):
        alike = next((same for label in cut.values() if len(same := _named(cut, label)) > 1), [])
        start = shared(alike)
        for name in alike:  # longer than the label, else they would differ
            end = name[start:]
            cut[name] = f"…{end}" if len(end) < longest else f"…{end[: longest - 2]}…"
    return cut


def shared(sequences: Iterable[Sequence[object]]) -> int:
    """How many elements all begin with."""
    return sum(1 for _ in takewhile(lambda elements: len(set(elements)) == 1, zip(*sequences, strict=False)))


def _named(cut: Mapping[str, str], label: str) -> list[str]:
    return [name for name, other in cut.items() if other == label]


def si(number: float, unit: str) -> str:
    """In millions or billions, as papers and NTIRE write it."""
    return (
        f"{number / 1e9:.2f} G" if unit == "G" else f"{number / 1e6:.3f} M" if unit == "k" else f"{number / 1e6:.2f} M"
    )


def _networks(profile: Profile, psnr: Mapping[str, float], given: Given | None) -> str:
    years = [f"score {year}" for year in BASELINES]
    rows = [["network", "params", "FLOPs", "activations", "convs", "PSNR", "PSNR-Y", *years]]
    label = labels(profile.networks)
    for name, measured in profile.networks.items():
        cost, quality = measured.complexity, measured.quality
        decibel = psnr_of(profile, name, psnr)
        counted = [si(cost.flops, "G"), si(cost.activations, "M"), str(cost.convolutions)]
        scored = scores(profile, name, given)
        rows.append(
            [
                label[name],
                si(cost.parameters, "k"),
                *(counted if profile.plan.flops else [""] * 3),
                "" if decibel is None else f"{decibel:.2f} dB",
                f"{quality.psnr_y:.2f} dB" if quality else "",
                *(_score(scored[year]) if year in scored else "" for year in BASELINES),
            ]
        )
    return aligned(rows)


def _score(scored: Scored) -> str:
    """Two decimals, as NTIRE has it, as long as that makes sense, with its spread; marked if of two machines."""
    spread = (scored.high - scored.low) / 2
    value = f"{scored.score:.2f}" + (f" ±{spread:.2f}" if spread > 0 else "") if scored.high < 1e4 else ">1e4"
    return value if scored.comparable else f"{value}*"


def _latencies(profile: Profile) -> str:
    rows = [["network", "variant", "median", "quartiles", "runs", "peak memory", "per image", "speed"]]
    faults, label = [], labels(profile.networks)
    for name, measured in profile.networks.items():
        first = next((run.latency.median_ms for run in measured.runs.values() if run.latency), None)
        for number, (variant, run) in enumerate(measured.runs.items()):
            rows.append([label[name] if number == 0 else "", variant, *_cells(run, first)])
            faults += [f"{label[name]}, {variant}: {run.fault}"] if run.fault else []
    if profile.baseline is not None:
        rows.append([BASELINE, profile.plan.variants[0], *_cells(profile.baseline, None)])
        faults += [f"{BASELINE}: {profile.baseline.fault}"] if profile.baseline.fault else []
    lines = [_wrapped(fault, "  ") for fault in faults]
    return "\n".join([aligned(rows, left=2), *(["", "Not to be had here:", *lines] if lines else [])])


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


def milliseconds(value: float) -> str:
    """Three or more significant digits."""
    return f"{value:.3f}" if value < 10 else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def _notes(profile: Profile, given: Given | None) -> str:
    label = labels(profile.networks)
    notes = [f"{label[name]}: {note}" for name, measured in profile.networks.items() for note in measured.notes]
    plan = profile.plan
    all_scores = [scored for name in profile.networks for scored in scores(profile, name, given).items()]
    if all_scores:
        time = f"the mean over {len(plan.images)} images" if plan.images else "the median above"
        notes.append(
            f"Scores (lower is better; the baseline has 7.39) take {time} of {plan.variants[0]}; ± is half the range "
            "that the quartiles of the times give. They compare with:"
        )
        for year, base in BASELINES.items():
            kinds = {(scored.baseline_ms, scored.baseline_source) for at, scored in all_scores if at == year}
            notes += [f"  {year}: {base.name}, {milliseconds(ms)} ms, {_SOURCES[source]}" for ms, source in kinds]
    if any(not scored.comparable for _, scored in all_scores):
        notes.append(
            "* compares times of two machines and means little: name the baseline's here, --baseline-ms 2025=MS."
        )
    return "\n".join(_wrapped(note, "  ") for note in notes)


_SOURCES = {
    "measured": "measured here in the same run",
    "given": "as given",
    "published": "as published, on the challenge's machine",
}


def _wrapped(text: str, indent: str) -> str:
    lead = indent if text.startswith(" ") else ""
    return textwrap.fill(text.strip(), WIDTH, initial_indent=lead, subsequent_indent=lead + indent)

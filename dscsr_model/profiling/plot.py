"""An image of PSNR against latency: the better a network, the farther up and left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import Bbox

from dscsr_arch.errors import DscsrError
from dscsr_model.plots import COLOURS, STYLE, save
from dscsr_model.profiling.machine import in_words
from dscsr_model.profiling.profile import Profile, Run
from dscsr_model.profiling.report import psnr_of
from dscsr_model.profiling.table import labels

__all__ = ["draw", "save"]

MARKERS = "osD^v<>P"


def draw(profile: Profile, psnr: Mapping[str, float] | None = None) -> Figure:
    """Draw every network that has PSNR and a time, in the first variant, with its parameters.

    Args:
        profile: What was measured.
        psnr: By name, what was not measured but is known.

    Raises:
        DscsrError: No network has both.
    """
    known = {name: psnr_of(profile, name, psnr or {}) for name in profile.networks}
    runs = {name: measured.runs[profile.plan.variants[0]] for name, measured in profile.networks.items()}
    points = {
        name: (runs[name], decibel) for name, decibel in known.items() if decibel is not None and runs[name].latency
    }
    if not points:
        raise DscsrError(
            "Expected PSNR and a time of at least one network to draw, but got none. "
            "Give --psnr NAME=VALUE or --data HR LR."
        )
    with rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.0), dpi=200, layout=ConstrainedLayoutEngine(rect=(0, 0.05, 1, 0.95)))
        axes = figure.subplots()
        for index, (run, decibel) in enumerate(points.values()):
            _point(axes, run, decibel, COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)])
        _scales(axes, [run.ms or 0 for run, _ in points.values()], [decibel for _, decibel in points.values()])
        _words(figure, axes, profile)
        label = labels(points)
        texts = [f"{label[name]}, {profile.networks[name].complexity.parameters / 1e6:.3f} M" for name in points]
        _label(figure, axes, [(run.ms or 0, decibel) for run, decibel in points.values()], texts)
        return figure


def _point(axes: Axes, run: Run, decibel: float, colour: str, marker: str) -> None:
    at = run.ms or 0
    spread = None
    if run.images_ms is None and run.latency is not None:  # quartiles are of the one size
        spread = [[at - run.latency.low_ms], [run.latency.high_ms - at]]
    axes.errorbar(at, decibel, xerr=spread, fmt=marker, color=colour, markersize=6, elinewidth=1, capsize=2)


def _scales(axes: Axes, times: list[float], decibels: list[float]) -> None:
    axes.margins(x=0.2, y=0.2)
    if max(times) > 5 * min(times):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(7))
    middle, reach = (max(decibels) + min(decibels)) / 2, 0.7 * (max(decibels) - min(decibels))
    # A hundredth of a decibel means nothing: it must not fill the image.
    axes.set_ylim(middle - max(reach, 0.05), middle + max(reach, 0.05))
    axes.yaxis.set_major_formatter("{x:.2f}")


def _words(figure: Figure, axes: Axes, profile: Profile) -> None:
    plan = profile.plan
    several = f"mean over {len(plan.images)} image{'s' if len(plan.images) != 1 else ''}"
    size = several if plan.images else f"{plan.height}×{plan.width}: median, quartiles"
    axes.set_xlabel(f"Latency of one image, {plan.variants[0]} (ms; {size})")
    measured = any(each.quality for each in profile.networks.values())
    axes.set_ylabel("PSNR on RGB (dB)" if measured else "PSNR (dB)")
    figure.text(0.01, 0.015, in_words(profile.machine), fontsize=6, color="0.35")


def _label(figure: Figure, axes: Axes, points: list[tuple[float, float]], labels: list[str]) -> None:
    """Put each label beside its point, where it covers no point and no label that is there already."""
    canvas = FigureCanvasAgg(figure)  # it knows how large text is
    figure.draw_without_rendering()
    renderer = canvas.get_renderer()
    inside = axes.get_window_extent(renderer)
    taken = [_around(bar.get_window_extent(renderer), 4 * figure.dpi / 72) for bar in (*axes.lines, *axes.collections)]
    for index, (point, label) in enumerate(zip(points, labels, strict=True)):
        notes = [_note(axes, point, label, place, COLOURS[index % len(COLOURS)]) for place in _PLACES]
        boxes = [_extent(note, renderer) for note in notes]
        faults = [_faults(box, inside, taken) for box in boxes]
        best = faults.index(min(faults))
        taken.append(boxes[best])
        for note in (*notes[:best], *notes[best + 1 :]):
            note.remove()


def _note(axes: Axes, point: tuple[float, float], label: str, place: tuple[float, float], colour: str) -> Any:
    right = place[0]
    side = "left" if right > 0 else "right" if right < 0 else "center"
    text = label.replace("$", r"\$")  # which would start a formula
    return axes.annotate(
        text,
        point,
        place,
        textcoords="offset points",
        ha=side,
        va="center",
        fontsize=7,
        color=colour,
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.4, "shrinkB": 4},
    )


def _extent(note: Any, renderer: Any) -> Bbox:
    """Of the words of a label, without its line."""
    note.update_positions(renderer)
    return Text.get_window_extent(note, renderer)


def _faults(box: Bbox, inside: Bbox, taken: list[Bbox]) -> int:
    """What a label in this box would cover; leaving the axes is worse than that."""
    out = box.x0 < inside.x0 or box.x1 > inside.x1 or box.y0 < inside.y0 or box.y1 > inside.y1
    return sum(box.overlaps(other) for other in taken) + 100 * out


def _around(box: Bbox, gap: float) -> Bbox:
    return Bbox.from_extents(box.x0 - gap, box.y0 - gap, box.x1 + gap, box.y1 + gap)


_PLACES = [
    *((0, 10), (0, -10), (9, 10), (-9, 10), (9, -10), (-9, -10)),
    *((right, up) for up in (20, -20, 30, -30, 40, -40) for right in (0, 9, -9)),
]
"""Offsets of a label from its point, in points (1/72 inch), the best first."""

"""An image of PSNR against latency: the better a network, the farther up and left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from dscsr_arch.errors import DscsrError
from dscsr_arch.words import many
from dscsr_model.plots import COLOURS, STYLE, save
from dscsr_model.profiling.machine import in_words
from dscsr_model.profiling.profile import Profile, Run
from dscsr_model.profiling.report import name_lines, psnr_of

__all__ = ["draw", "save"]

MARKERS = "osD^v<>P"


def draw(profile: Profile, psnr: Mapping[str, float] | None = None) -> Figure:
    """Draw every network that has PSNR, measured or known, and a time, in the first variant, with its parameters."""
    points = {}
    for name, measured in profile.networks.items():
        run, decibel = measured.runs[profile.settings.variants[0]], psnr_of(profile, name, psnr or {})
        if decibel is not None and run.latency:
            points[name] = run, decibel
    if not points:
        raise DscsrError(
            "PSNR and a time of at least one network to draw", "none", "Give --psnr NAME=VALUE or --data HR LR."
        )
    with rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.0), dpi=200, layout=ConstrainedLayoutEngine(rect=(0, 0.05, 1, 0.95)))
        axes = figure.subplots()
        for index, (name, (run, decibel)) in enumerate(points.items()):
            million = profile.networks[name].complexity.parameters / 1e6
            text = name_lines(f"{name}, {million:.3f}\N{NO-BREAK SPACE}M").replace("$", r"\$")  # no formula
            _point(
                axes, run, decibel, fmt=MARKERS[index % len(MARKERS)], color=COLOURS[index % len(COLOURS)], label=text
            )
        _scales(axes, [run.ms or 0 for run, _ in points.values()], [decibel for _, decibel in points.values()])
        _words(figure, axes, profile)
        figure.legend(loc="outside right upper")
        return figure


def _point(axes: Axes, run: Run, decibel: float, **style: Any) -> None:
    at = run.ms or 0
    spread = None
    if run.images_ms is None and run.latency is not None:  # quartiles are of the one size
        spread = [[at - run.latency.low_ms], [run.latency.high_ms - at]]
    axes.errorbar(at, decibel, xerr=spread, markersize=6, elinewidth=1, capsize=2, **style)


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
    settings = profile.settings
    several = f"mean over {many(len(settings.images), 'image')}"
    size = several if settings.images else f"{settings.height}×{settings.width}: median, quartiles"
    axes.set_xlabel(f"Latency of one image, {settings.variants[0]} (ms; {size})")
    measured = any(each.quality for each in profile.networks.values())
    axes.set_ylabel("PSNR on RGB (dB)" if measured else "PSNR (dB)")
    figure.text(0.01, 0.015, in_words(profile.machine), fontsize=6, color="0.35")

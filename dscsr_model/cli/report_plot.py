"""The image of ``dscsr report``: training loss beside validation PSNR, a colour for each experiment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogFormatterSciNotation, LogLocator, MaxNLocator
from numpy.typing import NDArray

from dscsr_model.cli.report_logs import Curve, History, best_of
from dscsr_model.plots import COLOURS, STYLE, save

__all__ = ["DOTS_PER_INCH", "draw", "save"]

DASHES = ("-", "--", ":", "-.")
# Two columns of a paper, in inches.
WIDTH, HEIGHT = 7.2, 2.7
DOTS_PER_INCH = 250

Curves = Mapping[str, Mapping[str, Curve]]
"""By experiment, then by what the dash of its line stands for."""


def draw(histories: Mapping[str, History], window: int | None = None) -> Figure:
    """Draw the loss of every experiment and, if there was any validation with it, the PSNR.

    Args:
        histories: Label to curves.
        window: Log lines averaged for the strong curve of the loss; None for a twelfth of them.
    """
    losses: Curves = {label: history.losses for label, history in histories.items()}
    psnr = _named({label: history.psnr for label, history in histories.items()})
    panels = any(losses.values()) + any(psnr.values())
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH if panels == 2 else 0.6 * WIDTH, HEIGHT), layout="constrained")
        axes = list(np.atleast_1d(figure.subplots(1, max(panels, 1), sharex=True)))
        colours = dict(zip(histories, _experiment_colours(len(histories)), strict=True))
        if any(losses.values()):
            _draw_losses(axes[0], losses, colours, window)
        if any(psnr.values()):
            _draw_psnr(axes[-1], psnr, colours)
        for axis in axes:
            axis.set_xlabel("Iteration")
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))
            axis.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
            axis.set_xlim(left=0)
        handles = [Line2D([], [], color=colour, linewidth=2) for colour in colours.values()]
        # As many columns as fit: a character is about a sixteenth of an inch wide, a handle six characters.
        columns = max(int(16 * figure.get_figwidth() / (max(map(len, colours)) + 6)), 1)
        figure.legend(handles, _as_text(colours), loc="outside upper center", ncols=min(columns, len(colours)))
        return figure


def smooth(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Centred running mean over ``window`` values, without a bend at either end of a falling curve.

    Where it starts, and falls steeply, the mean is over fewer values, as many on either side. Where it ends, and is
    flat, over those of the window that are there, so that the last value is no single noisy one.

    Args:
        values: (n,) finite.
        window: From 1 on; an even one counts as the next odd one.
    """
    index = np.arange(len(values))
    first = index - np.minimum(window // 2, index)
    last = np.minimum(index + np.minimum(window // 2, index), len(values) - 1)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return np.asarray((sums[last + 1] - sums[first]) / (last + 1 - first))


def _experiment_colours(number: int) -> list[Any]:
    """A colour for each of so many experiments, as different as can be."""
    if number <= len(COLOURS):
        return list(COLOURS[:number])
    return list(colormaps["viridis"](np.linspace(0, 0.92, number)))


def _named(psnr: Mapping[str, Mapping[tuple[str, str], Curve]]) -> Curves:
    """Curves by the name of their validation set, and by that of their metric where there are several."""
    several = len({metric for curves in psnr.values() for _, metric in curves}) > 1
    return {
        label: {" ".join(key) if several else key[0]: curve for key, curve in curves.items()}
        for label, curves in psnr.items()
    }


def _points(curve: Curve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Iterations and values; a step that was skipped, or a hopeless one, has no finite loss and leaves a gap."""
    at, values = np.array(sorted(curve.items()), dtype=np.float64).reshape(-1, 2).T
    finite = np.isfinite(values)
    return at[finite], values[finite]


def _lines(axis: Axes, curves: Curves, colours: Mapping[str, Any], legend: str) -> Iterator[tuple[Any, ...]]:
    """Iterations and values of every curve, with its dash and colour; a legend of the dashes if there are several."""
    names = list(dict.fromkeys(name for of_one in curves.values() for name in of_one))
    dashes = dict(zip(names, cycle(DASHES)))
    for label, of_one in curves.items():
        for name, curve in of_one.items():
            yield *_points(curve), dashes[name], colours[label]
    if len(dashes) > 1:
        handles = [Line2D([], [], color="0.3", linestyle=dash, linewidth=1.3) for dash in dashes.values()]
        axis.legend(handles, _as_text(dashes), loc=legend, frameon=True, edgecolor="none", framealpha=0.8)


def _title(axis: Axes, curves: Curves, label: str, several: str, one: str) -> None:
    names = {name for of_one in curves.values() for name in of_one}
    axis.set_title(several if len(names) > 1 else one.format(*names))
    axis.set_ylabel(label)


def _draw_losses(axis: Axes, losses: Curves, colours: Mapping[str, Any], window: int | None) -> None:
    drawn = []
    for at, values, dash, colour in _lines(axis, losses, colours, "upper right"):
        lines = window or max(len(values) // 12, 1)
        if lines > 1:
            axis.plot(at, values, color=colour, alpha=0.22, linewidth=0.6, rasterized=len(at) > 10_000)
        axis.plot(at, smooth(values, lines), dash, color=colour, linewidth=1.3)
        drawn.append(values)
    _scale(axis, np.concatenate(drawn))
    _title(axis, losses, "Loss", "Training loss", "Training loss ({})")


def _scale(axis: Axes, values: NDArray[np.float64]) -> None:
    """A logarithmic scale where losses span more than it takes to see their end on a linear one."""
    if not len(values) or values.min() <= 0 or values.max() < 4 * values.min():
        return
    axis.set_yscale("log")
    if values.max() < 100 * values.min():  # few powers of ten: label what is between them, too
        axis.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("{x:g}")
    else:
        axis.yaxis.set_major_formatter(LogFormatterSciNotation())


def _draw_psnr(axis: Axes, psnr: Curves, colours: Mapping[str, Any]) -> None:
    marker = "." if max(len(curve) for curves in psnr.values() for curve in curves.values()) <= 40 else ""
    star: dict[str, Any] = {
        "markersize": 8,
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
        "clip_on": False,
        "zorder": 3,
    }
    for at, values, dash, colour in _lines(axis, psnr, colours, "lower right"):
        axis.plot(at, values, dash, color=colour, linewidth=1.3, marker=marker, markersize=4)
        if len(at):
            axis.plot(*best_of(dict(zip(at, values, strict=True))), "*", color=colour, **star)
    _title(axis, psnr, "PSNR (dB)", "Validation PSNR (star: best)", "PSNR on {} (star: best)")


def _as_text(labels: Iterable[str]) -> list[str]:
    r"""What a person wrote, safe from Matplotlib: ``$`` would start a formula, ``_`` at the start hide the entry."""
    return [f" {label}".replace("$", r"\$") for label in labels]

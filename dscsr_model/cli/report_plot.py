"""The image of ``dscsr report``: training loss beside validation PSNR, a colour for each experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogFormatterSciNotation, LogLocator, MaxNLocator
from numpy.typing import NDArray

from dscsr_model.cli.report_logs import Curve, History, best_of
from dscsr_model.files import atomic

# Okabe and Ito's colours, which people with any kind of colour vision can tell apart; without the pale yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":", "-.")
STYLE = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.88",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,  # text stays text: submission systems refuse Type 3 fonts
}
# Two columns of a paper, in inches.
WIDTH, HEIGHT = 7.2, 2.7
DOTS_PER_INCH = 250


def draw(histories: Mapping[str, History], window: int | None = None) -> Figure:
    """SampleKey the loss of every experiment and, if there was any validation with it, the PSNR.

    Args:
        histories: Label to curves.
        window: Log lines averaged for the strong curve of the loss; None for a twelfth of them.
    """
    with rc_context(STYLE):
        psnr = {label: history.psnr for label, history in histories.items()}
        with_psnr = any(psnr.values())
        with_loss = any(history.losses for history in histories.values())
        figure = Figure(figsize=(WIDTH if with_psnr and with_loss else 0.6 * WIDTH, HEIGHT), layout="constrained")
        axes = list(np.atleast_1d(figure.subplots(1, max(with_psnr + with_loss, 1), sharex=True)))
        colours = dict(zip(histories, experiment_colours(len(histories)), strict=True))
        if with_loss:
            losses = {label: history.losses for label, history in histories.items()}
            _draw_losses(axes[0], losses, colours, window)
        if with_psnr:
            _draw_psnr(axes[-1], psnr, colours)
        for axis in axes:
            axis.set_xlabel("Iteration")
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))
            axis.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
            axis.set_xlim(left=0)
        _legend_of_experiments(figure, colours)
        return figure


def save(figure: Figure, path: Path) -> None:
    """Write the image in the format of its name; an image of that name stays until the new one is whole."""
    with rc_context(STYLE), atomic(path) as file:
        figure.savefig(file, format=path.suffix[1:], dpi=DOTS_PER_INCH)


def experiment_colours(number: int) -> list[Any]:
    """A colour for each of so many experiments, as different as can be."""
    if number <= len(COLOURS):
        return list(COLOURS[:number])
    return list(colormaps["viridis"](np.linspace(0, 0.92, number)))


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


def _points(curve: Curve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Iterations and values; a step that was skipped, or a hopeless one, has no finite loss and leaves a gap."""
    at, values = np.array(sorted(curve.items()), dtype=np.float64).reshape(-1, 2).T
    finite = np.isfinite(values)
    return at[finite], values[finite]


def _draw_losses(
    axis: Axes, losses: Mapping[str, Mapping[str, Curve]], colours: Mapping[str, Any], window: int | None
) -> None:
    terms = list(dict.fromkeys(term for curves in losses.values() for term in curves))
    dashes = dict(zip(terms, cycle(DASHES)))
    drawn = []
    for label, curves in losses.items():
        for term, curve in curves.items():
            at, values = _points(curve)
            lines = window or max(len(values) // 12, 1)
            smoothed = smooth(values, lines)
            if lines > 1:
                axis.plot(at, values, color=colours[label], alpha=0.22, linewidth=0.6, rasterized=len(at) > 10_000)
            axis.plot(at, smoothed, dashes[term], color=colours[label], linewidth=1.3)
            drawn.append(values)
    _scale(axis, np.concatenate(drawn))
    axis.set_title("Training loss" if len(terms) > 1 else f"Training loss ({terms[0]})")
    axis.set_ylabel("Loss")
    _legend_of_dashes(axis, dashes, "upper right")


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


def _draw_psnr(axis: Axes, psnr: Mapping[str, Mapping[tuple[str, str], Curve]], colours: Mapping[str, Any]) -> None:
    keys = list(dict.fromkeys(key for curves in psnr.values() for key in curves))
    several_metrics = len({metric for _, metric in keys}) > 1
    names = {key: " ".join(key) if several_metrics else key[0] for key in keys}
    dashes = dict(zip(keys, cycle(DASHES)))
    marker = "." if max(len(curve) for curves in psnr.values() for curve in curves.values()) <= 40 else ""
    for label, curves in psnr.items():
        for key, curve in curves.items():
            at, values = _points(curve)
            axis.plot(at, values, dashes[key], color=colours[label], linewidth=1.3, marker=marker, markersize=4)
            if len(at):
                axis.plot(
                    *best_of(dict(zip(at, values, strict=True))),
                    "*",
                    color=colours[label],
                    markersize=8,
                    markeredgecolor="white",
                    markeredgewidth=0.6,
                    clip_on=False,
                    zorder=3,
                )
    axis.set_title("Validation PSNR (star: best)" if len(keys) > 1 else f"PSNR on {names[keys[0]]} (star: best)")
    axis.set_ylabel("PSNR (dB)")
    _legend_of_dashes(axis, {names[key]: dash for key, dash in dashes.items()}, "lower right")


def _legend_of_dashes(axis: Axes, dashes: Mapping[str, str], place: str) -> None:
    if len(dashes) > 1:
        handles = [Line2D([], [], color="0.3", linestyle=dash, linewidth=1.3) for dash in dashes.values()]
        axis.legend(handles, _as_text(dashes), loc=place, frameon=True, edgecolor="none", framealpha=0.8)


def _legend_of_experiments(figure: Figure, colours: Mapping[str, Any]) -> None:
    handles = [Line2D([], [], color=colour, linewidth=2) for colour in colours.values()]
    # As many columns as fit: a character is about a sixteenth of an inch wide, a handle six characters.
    widest = max(map(len, colours)) + 6
    columns = max(int(16 * figure.get_figwidth() / widest), 1)
    figure.legend(handles, _as_text(colours), loc="outside upper center", ncols=min(columns, len(colours)))


def _as_text(labels: Sequence[str] | Mapping[str, Any]) -> list[str]:
    r"""What a person wrote, safe from Matplotlib: ``$`` would start a formula, ``_`` at the start hide the entry."""
    return [f" {label}".replace("$", r"\$") for label in labels]

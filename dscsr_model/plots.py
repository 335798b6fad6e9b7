"""What figures have in common: their style, and the file that they become. Needs matplotlib, which is an extra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from dscsr_model.files import atomic

# Okabe and Ito's colours, which people with any kind of colour vision can tell apart; without the pale yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLE: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,  # text stays text: submission systems refuse Type 3 fonts
}


def save(figure: Figure, path: Path, dots_per_inch: int = 200) -> None:
    """Write a figure in the format of its name; an image of that name stays until the new one is whole."""
    with rc_context(STYLE), atomic(path) as file:
        figure.savefig(file, format=path.suffix[1:], dpi=dots_per_inch)

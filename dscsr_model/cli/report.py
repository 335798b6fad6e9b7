"""``dscsr report``: loss and PSNR of one or more trainings in an image, and the figures in a table."""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path
from statistics import median
from typing import Any

from dscsr_arch.errors import DscsrError, UnavailableError
from dscsr_model.cli.report_logs import History, best_of, read_events, read_logs
from dscsr_model.files import check_new

EPILOG = """\
examples:
  dscsr report train_span_x4
  dscsr report span26 span28 experiments/dsclora -o figure.pdf

Reads experiments/<name>/train_*.log, several after resumes, or else TensorBoard's files in
tb_logger/<name>. Drawn strongly is the running mean of the loss, faintly every log line.
Needs matplotlib: pip install "dscsr[report]"."""

FORMATS = (".png", ".pdf", ".svg")


def add_parser(subparsers: Any) -> None:
    """Add the command to the ``dscsr`` parser."""
    parser = subparsers.add_parser(
        "report",
        help="draw loss and PSNR of one or more trainings",
        description="Draw loss and PSNR over the iterations of one or more trainings, also while they run,\n"
        "and print last loss, best PSNR and speed.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("experiments", nargs="+", metavar="EXPERIMENT", help="a folder, or a name under experiments/")
    image = {"type": Path, "default": Path("report.png"), "metavar": "FILE"}
    add("-o", "--output", help="the image: .png, .pdf or .svg (default report.png)", **image)
    add("--force", action="store_true", help="replace FILE if it is there")
    averaged = "log lines averaged for the loss curve; 1: none (default: a twelfth of them)"
    add("--smooth", type=int, metavar="N", help=averaged)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read, draw, print; returns the exit code."""
    if args.output.suffix.lower() not in FORMATS:
        raise DscsrError(f"the name of the image to end in {', '.join(FORMATS)}", f"`{args.output}`")
    check_new(args.output, args.force)
    if args.smooth is not None and args.smooth < 1:
        raise DscsrError("--smooth to be at least 1", args.smooth)
    folders = [find_experiment(name) for name in args.experiments]
    labels = labels_of(folders)
    histories = {label: read_history(folder) for label, folder in zip(labels, folders, strict=True)}
    try:
        from dscsr_model.cli import report_plot
    except ModuleNotFoundError as error:
        remedy = 'Run `pip install "dscsr[report]"`.'
        raise UnavailableError("matplotlib to draw with", f"no {error.name}", remedy) from error
    report_plot.save(report_plot.draw(histories, args.smooth), args.output, report_plot.DOTS_PER_INCH)
    print(table(histories))
    print(f"\n{args.output}")
    return 0


def find_experiment(name: str) -> Path:
    """The folder of an experiment: ``name`` itself, or the one of this name in ``experiments`` or ``tb_logger``.

    Raises:
        DscsrError: There is none; the message offers near names.
    """
    for folder in (Path(name), Path("experiments", name), Path("tb_logger", name)):
        if folder.is_dir():
            return folder
    names = sorted({folder.name for root in ("experiments", "tb_logger") for folder in Path(root).glob("*/")})
    near = difflib.get_close_matches(Path(name).name, names, n=3, cutoff=0.5)
    if near:
        remedy = f"Did you mean {' or '.join(f'`{each}`' for each in near)}?"
    elif names:
        remedy = f"There {'is' if len(names) == 1 else 'are'}: {', '.join(names[:10])}{', …' * (len(names) > 10)}."
    else:
        remedy = "There is no experiment in experiments/ here: change to the folder that you trained in."
    raise DscsrError("a folder or a name under experiments/", f"`{name}`", remedy)


def labels_of(folders: list[Path]) -> list[str]:
    """What the legend calls them: the folder's name, or its path where two have the same name."""
    resolved = [folder.resolve() for folder in folders]
    for index, folder in enumerate(resolved):
        if folder in resolved[:index]:
            raise DscsrError("different experiments", f"`{folders[index]}` twice", "Name it once.")
    names = [folder.name for folder in resolved]
    return [name if names.count(name) == 1 else str(folder) for name, folder in zip(names, folders, strict=True)]


def read_history(folder: Path) -> History:
    """The curves of the experiment in a folder, from its logs or else from TensorBoard's files.

    Raises:
        DscsrError: There are none of either, or nothing is in them.
    """
    if logs := list(folder.glob("train_*.log")):
        return read_logs(logs)
    resolved = folder.resolve()
    tensorboard = resolved.parents[1] / "tb_logger" / resolved.name if len(resolved.parents) > 1 else resolved
    for place in (folder, tensorboard):
        if any(place.glob("events.out.tfevents.*")):
            return read_events(place)
    raise DscsrError(
        f"train_*.log in {folder} or TensorBoard's files in tb_logger/{folder.name}",
        "neither",
        "Only trainings can be reported, and only after their first lines.",
    )


def table(histories: dict[str, History]) -> str:
    """Last loss, best PSNR with its iteration, and median speed of each experiment, as text."""
    from tabulate import tabulate

    rows = [["experiment", "iterations", "last loss", "best PSNR", "images/s"]]
    for label, history in histories.items():
        speed = f"{median(history.rates.values()):.1f}" if history.rates else "-"
        rows.append([label, f"{history.last_iteration:,}", _losses(history), _scores(history), speed])
    align = ("left", "right", "left", "left", "right")
    return tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=align)


def _losses(history: History) -> str:
    several = len(history.losses) > 1
    last = {name: next(reversed(curve.values())) for name, curve in history.losses.items()}
    return "\n".join(f"{f'{name} ' * several}{value:.4g}" for name, value in last.items()) or "-"


def _scores(history: History) -> str:
    lines, names = [], [set(each) for each in zip(*history.psnr, strict=True)]
    for key, curve in history.psnr.items():
        at, value = best_of(curve)
        which = [f"{name} " for name, all_of_them in zip(key, names, strict=True) if len(all_of_them) > 1]
        lines.append(f"{''.join(which)}{value:.2f} dB at {at:,}")
    return "\n".join(lines) or "-"

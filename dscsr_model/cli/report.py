"""``dscsr report``: loss and PSNR of one or more trainings in an image, and the figures in a table."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from dscsr_arch.errors import DscsrError

if TYPE_CHECKING:
    from dscsr_model.cli.report_logs import History

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
        description="SampleKey loss and PSNR over the iterations of one or more trainings, also while they run,\n"
        "and print last loss, best PSNR and speed.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("experiments", nargs="+", metavar="EXPERIMENT", help="a folder, or a name under experiments/")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("report.png"),
        metavar="FILE",
        help="the image: .png, .pdf or .svg (default report.png)",
    )
    parser.add_argument("--force", action="store_true", help="replace FILE if it is there")
    parser.add_argument(
        "--smooth",
        type=int,
        metavar="N",
        help="log lines averaged for the loss curve; 1: none (default: a twelfth of them)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read, draw, print; returns the exit code."""
    check_output(args.output, args.force)
    if args.smooth is not None and args.smooth < 1:
        raise DscsrError(f"Expected --smooth to be at least 1, but got {args.smooth}.")
    folders = [find_experiment(name) for name in args.experiments]
    labels = labels_of(folders)
    histories = {label: read_history(folder) for label, folder in zip(labels, folders, strict=True)}
    try:
        from dscsr_model.cli import report_plot
    except ModuleNotFoundError as error:
        raise DscsrError(
            f'Expected matplotlib to draw with, but {error.name} is not installed. Run `pip install "dscsr[report]"`.'
        ) from error
    report_plot.save(report_plot.draw(histories, args.smooth), args.output)
    print(table(histories))
    print(f"\n{args.output}")
    return 0


def check_output(path: Path, force: bool) -> None:
    """Raise `DscsrError` unless an image can be written there, without harm to one that is there."""
    if path.suffix.lower() not in FORMATS:
        raise DscsrError(f"Expected the name of the image to end in {', '.join(FORMATS)}, but got `{path}`.")
    if not path.parent.is_dir():
        raise DscsrError(f"Expected a folder to write {path.name} into, but `{path.parent}` is none. Make it first.")
    if path.exists() and not force:
        raise DscsrError(f"Expected a new file, but `{path}` exists. Add --force to replace it, or choose with -o.")


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
    raise DscsrError(f"Expected a folder or a name under experiments/, but got `{name}`. {remedy}")


def labels_of(folders: list[Path]) -> list[str]:
    """What the legend calls them: the folder's name, or its path where two have the same name."""
    resolved = [folder.resolve() for folder in folders]
    for index, folder in enumerate(resolved):
        if folder in resolved[:index]:
            raise DscsrError(f"Expected different experiments, but got `{folders[index]}` twice. Name it once.")
    names = [folder.name for folder in resolved]
    return [name if names.count(name) == 1 else str(folder) for name, folder in zip(names, folders, strict=True)]


def read_history(folder: Path) -> History:
    """The curves of the experiment in a folder, from its logs or else from TensorBoard's files.

    Raises:
        DscsrError: There are none of either, or nothing is in them.
    """
    from dscsr_model.cli.report_logs import read_events, read_logs

    logs = list(folder.glob("train_*.log"))
    if logs:
        return read_logs(logs)
    resolved = folder.resolve()
    tensorboard = resolved.parents[1] / "tb_logger" / resolved.name if len(resolved.parents) > 1 else resolved
    for place in (folder, tensorboard):
        if any(place.glob("events.out.tfevents.*")):
            return read_events(place)
    raise DscsrError(
        f"Expected train_*.log in {folder} or TensorBoard's files in tb_logger/{folder.name}, but found neither. "
        "Only trainings can be reported, and only after their first lines."
    )


def table(histories: dict[str, History]) -> str:
    """Last loss, best PSNR with its iteration, and median speed of each experiment, as text."""
    rows: list[Sequence[str]] = [("experiment", "iterations", "last loss", "best PSNR", "images/s")]
    for label, history in histories.items():
        losses = [f"{_term(name, history)}{list(curve.values())[-1]:.4g}" for name, curve in history.losses.items()]
        scores = [_best(key, history) for key in history.psnr]
        speed = f"{median(history.rates.values()):.1f}" if history.rates else "-"
        columns = [label], [f"{history.last_iteration:,}"], losses or ["-"], scores or ["-"], [speed]
        rows += zip_longest(*columns, fillvalue="")
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    right = (False, True, False, False, True)
    cells = [
        [
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(row, widths, right, strict=True)
        ]
        for row in rows
    ]
    return "\n".join("  ".join(row).rstrip() for row in cells)


def _term(name: str, history: History) -> str:
    return f"{name} " if len(history.losses) > 1 else ""


def _best(key: tuple[str, str], history: History) -> str:
    from dscsr_model.cli.report_logs import best_of

    at, value = best_of(history.psnr[key])
    where = f"{key[0]} " if len({dataset for dataset, _ in history.psnr}) > 1 else ""
    what = f"{key[1]} " if len({metric for _, metric in history.psnr}) > 1 else ""
    return f"{where}{what}{value:.2f} dB at {at:,}"

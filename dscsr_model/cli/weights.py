"""``dscsr weights``: the weights that have a name, where they are, and where downloaded ones belong."""

from __future__ import annotations

import argparse
import shlex
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from dscsr_arch.errors import DscsrError
from dscsr_model import weights
from dscsr_model.weights import Card

_EPILOG = """\
A name stands for a file wherever weights are named: dscsr upscale -w NAME, export NAME, profile, submit, --base, and in
option files `path: pretrain_network_g`, `teacher: weights`. A file that is called so wins. Nothing is downloaded."""


def add_parser(subparsers: Any) -> None:
    """Declare the command and its arguments."""
    parser = subparsers.add_parser(
        "weights",
        help="list weights that have a name: those that come with dscsr, and public ones",
        description="List the weights that come with dscsr, and public ones: where they are, where to put downloads.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="of which all is to be told")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print tables, or all that is known of some; returns the exit code."""
    if args.names:
        print("\n\n".join(_all_of(weights.card(name)) for name in args.names))
        return 0
    print("These come with dscsr:\n")
    print(*_table(weights.shipped().values()), sep="\n")
    print(f"\nThese are public. Nothing is downloaded unasked: put a file of them into {weights.folder()}")
    print("and its name works; `dscsr weights NAME` says how.\n")
    title, line, *rows = _table(weights.public().values())
    print(
        title,
        line,
        *(f"{row}\n{_details(one)}" for row, one in zip(rows, weights.public().values(), strict=True)),
        sep="\n",
    )
    print("\nSet5: PSNR / SSIM on Y, on RGB where it says so; - where no figure is known.")
    return 0


def _table(cards: Iterable[Card]) -> list[str]:
    """Lines: titles, a rule, and one for each."""
    from tabulate import tabulate

    rows = [[one.name, one.title, f"{one.facts['parameters']:,}", _set5(one), one.facts["licence"], _here(one)]
            for one in cards]  # fmt: skip
    headers = ("name", "network", "parameters", "Set5", "licence", "")
    align = ("left", "left", "right", "left", "left", "left")
    return tabulate(rows, headers, disable_numparse=True, colalign=align if rows else None).splitlines()


def _details(one: Card) -> str:
    size = f" ({one.facts['bytes']:,} bytes)" if "bytes" in one.facts else ""
    sum_line = [f"SHA-256 {one.facts['sha256']}"] if "sha256" in one.facts else []
    return textwrap.indent("\n".join([one.facts["what"], f"{one.facts['source']}{size}", *sum_line]), " " * 4)


def _set5(one: Card) -> str:
    if (figures := one.facts.get("set5")) is None:
        return "-"
    return f"{figures['psnr']:.2f} / {figures['ssim']:.4f}" + (" RGB" if figures.get("channels") == "RGB" else "")


def _here(one: Card) -> str:
    try:
        return "here" if one.file() is not None else ""
    except DscsrError:
        return "not the released file"


def _all_of(one: Card) -> str:
    """The card, or the row and how to get the file."""
    if one.shipped:
        return f"{one.place}\n\n{one.text.strip()}"
    return "\n".join([one.name, "", *_row(one), "", *_how(one)])


def _row(one: Card) -> Iterator[str]:
    """The facts, a line each; long ones go on below."""
    values = {**one.facts, "parameters": f"{one.facts['parameters']:,}", "set5": _set5(one)}
    for key, value in values.items():
        shown = f"{value:,} " if key == "bytes" else str(value)
        lines = textwrap.wrap(shown, 100, break_long_words=False, break_on_hyphens=False)
        yield textwrap.indent("\n".join(lines), " " * 12).replace(" " * 12, f"{key:12}", 1)


def _how(one: Card) -> Iterator[str]:
    """Where the file is, or how to get it."""
    if (found := one.file()) is not None:
        yield f"It is here: {found}"
        return
    yield f"It is not here. Download {one.facts['file']} and save it as\n  {one.place}"
    if one.facts["source"].endswith(one.facts["file"]):
        yield f"for example by\n  curl -L --create-dirs -o {shlex.quote(str(one.place))} {one.facts['source']}"

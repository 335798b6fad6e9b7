"""``dscsr submit``: a weight file becomes a submission to the NTIRE efficient super-resolution challenge."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

_EXAMPLES = """examples:
  dscsr submit net_g_latest.pth --team 07 --name FastSPAN -o kit
  the same with the challenge's PSNR on its validation images:
    dscsr submit net_g_latest.pth --team 07 --name FastSPAN -o kit \\
      --data DIV2K_LSDIR_valid_HR DIV2K_LSDIR_valid_LR
  checked in the challenge's own environment (Python 3.9, torch 1.13):
    dscsr submit net_g_latest.pth --team 07 --name FastSPAN -o kit --python ntire/bin/python
"""


def add_parser(subparsers: Any) -> None:
    """Declare the command and its arguments."""
    from dscsr_model.cli import networks

    parser = subparsers.add_parser(
        "submit",
        help="make a submission to NTIRE's efficient super-resolution challenge",
        description="Make a folder with what the challenge asks for: the network as one file that needs torch alone,\n"
        "its weights, the lines for test_demo.py, and a README with the figures. It gets its name only after\n"
        "the file did what the trained network does, in a process that has neither dscsr nor BasicSR.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("weights", type=Path, metavar="WEIGHTS", help="of SPAN, DSCLoRA, CARN or EDSR: any file, or a name")
    add("--team", required=True, metavar="NN", help="your team's number, such as 07")
    add("--name", required=True, metavar="NAME", help="of the network: letters, digits and _")
    add("-o", "--out", type=Path, required=True, metavar="DIR", help="the folder to make")
    add("--data", nargs=2, type=Path, metavar=("HR", "LR"), help="folders of images for the challenge's PSNR")
    add(
        "--fold",
        nargs="?",
        const="all",
        choices=("exact", "all"),
        help="of SPAN: make one convolution of two that follow each other. exact: conv_2 and conv_cat, which changes "
        "nothing; all (the default of --fold): conv_1 and block_1 too, which changes the border of the image",
    )
    add("--python", metavar="FILE", help="interpreter of the check (default: this one)")
    add("--force", action="store_true", help="replace a kit that is there")
    networks.add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make the kit and print its figures; returns the exit code."""
    from tabulate import tabulate

    from dscsr_model.cli import networks
    from dscsr_model.cli.prepare import show_progress
    from dscsr_model.export.ntire import kit as kits
    from dscsr_model.export.ntire import texts

    data = None if args.data is None else tuple(args.data)
    kit = kits.Kit(kits.read_team(args.team), args.name, args.out, args.fold, data, args.force, args.python)
    kit.check()
    networks.find_weights(args)
    says = "Writing the file and checking it alone, which takes some seconds …"
    begins = partial(print, says, file=sys.stderr, flush=True)
    made = kits.make(networks.load_network(args), kit, show_progress, begins)
    rows = [*texts.table(made), ("Checked alone", texts.checked(made))]
    print(tabulate(rows, tablefmt="plain", disable_numparse=True))
    print(f"\n{kit.out}: models/{kit.stem}.py, model_zoo/{kit.stem}.pth, test_demo_branch.txt; README.md says the rest")
    return 0

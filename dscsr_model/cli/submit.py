"""``dscsr submit``: a weight file becomes a submission to the NTIRE efficient super-resolution challenge."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from dscsr_model.export.ntire.own_file import OwnFile

_EXAMPLES = """examples:
  dscsr submit net_g_latest.pth --team 07 --name FastSPAN -o kit
  the same with the challenge's PSNR on its validation images:
    dscsr submit net_g_latest.pth --team 07 --name FastSPAN -o kit \\
      --data DIV2K_LSDIR_valid_HR DIV2K_LSDIR_valid_LR
  checked in the challenge's own environment (Python 3.9, torch 1.13):
    dscsr submit net_g_latest.pth --team 07 --name FastSPAN -o kit --python ntire/bin/python
  a network of your own, in a file that imports torch alone:
    dscsr submit net.pth --source my_net.py --class MyNet --set dim=32 --team 07 --name FastNet -o kit
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
    add("weights", type=Path, metavar="WEIGHTS", help="of a network of dscsr: any file, or a name; or with --source")
    add("--team", required=True, metavar="NN", help="your team's number, such as 07")
    add("--name", required=True, metavar="NAME", help="of the network: letters, digits and _")
    add("-o", "--out", type=Path, required=True, metavar="DIR", help="the folder to make")
    add("--data", nargs=2, type=Path, metavar=("HR", "LR"), help="folders of images for the challenge's PSNR")
    add(
        "--fold",
        nargs="?",
        const="all",
        choices=("exact", "all"),
        help="make one convolution of two that follow each other. exact: what changes nothing (of SPAN conv_2 and "
        "conv_cat, of SPANF conv_near and conv_cat); all (the default of --fold): of SPAN also conv_1 and block_1, "
        "which changes the border of the image",
    )
    add("--python", metavar="FILE", help="interpreter of the check (default: this one)")
    add("--force", action="store_true", help="replace a kit that is there")
    own = parser.add_argument_group("a network of your own")
    own.add_argument("--source", type=Path, metavar="FILE.py", help="its file, which imports torch alone")
    own.add_argument("--class", metavar="NAME", dest="class_name", help="its class; --set gives its arguments")
    own.add_argument(
        "--data-range",
        choices=("1", "255"),
        help="what it takes and gives: RGB in [0, 1], which is the default, or in [0, 255]",
    )
    networks.add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make the kit and print its figures; returns the exit code."""
    from tabulate import tabulate

    from dscsr_model.cli.prepare import show_progress
    from dscsr_model.export.ntire import kit as kits
    from dscsr_model.export.ntire import texts

    data = None if args.data is None else tuple(args.data)
    kit = kits.Kit(kits.read_team(args.team), args.name, args.out, args.fold, data, args.force, args.python)
    kit.check()
    network = _network(args)
    says = "Writing the file and checking it alone, which takes some seconds …"
    begins = partial(print, says, file=sys.stderr, flush=True)
    made = kits.make(network, kit, show_progress, begins)
    rows = [*texts.table(made), ("Checked alone", texts.checked(made))]
    print(tabulate(rows, tablefmt="plain", disable_numparse=True))
    print(f"\n{kit.out}: models/{kit.stem}.py, model_zoo/{kit.stem}.pth, test_demo_branch.txt; README.md says the rest")
    return 0


def _network(args: argparse.Namespace) -> nn.Module | OwnFile:
    """The network of dscsr in the weights, or the user's own.

    Raises:
        DscsrError: It cannot be had, or arguments do not go together.
    """
    from dscsr_arch.errors import DscsrError
    from dscsr_model.cli import networks
    from dscsr_model.export.ntire import own_file

    own = {"--class": args.class_name, "--data-range": args.data_range}
    ours = {"--fold": args.fold, "--base": args.base, "--width": args.width, "-opt": args.opt}
    given = [name for name, value in (own if args.source is None else ours).items() if value is not None]
    if args.source is None:
        if given:
            raise DscsrError(f"--source FILE.py, which {given[0]} is about", "none", "Name the file of your network.")
        networks.find_weights(args)
        return networks.load_network(args)
    if given:
        remedy = f"Leave {given[0]} out: --set and --param-key go with it."
        raise DscsrError("a network of your own with --source", f"{given[0]} too, which is for ours", remedy)
    arguments = networks.read_overrides(args.overrides)
    data_range = float(args.data_range or 1)
    return own_file.read(args.source, args.class_name, args.weights, arguments, args.param_key, data_range)

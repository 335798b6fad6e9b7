"""``dscsr train``: BasicSR's train loop, in the working directory."""

import argparse
from functools import partial
from typing import Any

EPILOG = """\
examples:
  dscsr train -opt options/train_span_x4.yml
  dscsr train -opt options/train_span_x4.yml --auto_resume
  torchrun --nproc-per-node 4 -m dscsr_model.cli train -opt options/train_span_x4.yml --launcher pytorch

Checkpoints and logs go to experiments/<name> under the working directory."""


def add_parser(subparsers: Any) -> None:
    """Add the command to the ``dscsr`` parser."""
    add_loop(subparsers, "train", "train a network as an option file says", EPILOG)


def add_loop(subparsers: Any, phase: str, line: str, epilog: str) -> argparse.ArgumentParser:
    """A command that runs one of BasicSR's loops: with exactly the arguments of its scripts, and ``--import``."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        phase,
        help=line,
        description=f"Check an option file, then {phase} with BasicSR's own loop.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-opt", required=True, metavar="FILE", help="option file (YAML)")
    parser.add_argument(
        "--launcher", choices=["none", "pytorch", "slurm"], default="none", help="who started several processes, if any"
    )
    parser.add_argument(
        "--auto_resume", action="store_true", help="continue from the newest checkpoint, if there is one"
    )
    parser.add_argument("--debug", action="store_true", help="log every iteration, validate and save every 8th")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument(
        "--force_yml", nargs="+", metavar="KEY=VALUE", help="replace option values, for example train:ema_decay=0.999"
    )
    parser.add_argument(
        "--import", nargs="+", dest="imports", metavar="CODE", help="files or modules with your own networks, losses, …"
    )
    parser.set_defaults(run=partial(_run, phase))
    return parser


def _run(phase: str, args: argparse.Namespace) -> int:
    from dscsr_model.host import launch

    launch.run(phase, args)
    return 0

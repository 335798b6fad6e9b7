"""``dscsr train``: BasicSR's train loop, in the working directory."""

import argparse
from typing import Any

EPILOG = """\
examples:
  dscsr train -opt options/train_span_x4.yml
  dscsr train -opt options/train_span_x4.yml --auto_resume
  torchrun --nproc-per-node 4 -m dscsr_model.cli train -opt options/train_span_x4.yml --launcher pytorch

Checkpoints and logs go to experiments/<name> under the working directory."""


def add_parser(subparsers: Any) -> None:
    """Add the command to the ``dscsr`` parser."""
    parser = subparsers.add_parser(
        "train",
        help="train a network as an option file says",
        description="Check an option file, then train with BasicSR's own loop.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_basicsr_arguments(parser)
    parser.set_defaults(run=run)


def add_basicsr_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of BasicSR's ``train.py`` and ``test.py``, exactly; and ``--import``."""
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


def run(args: argparse.Namespace) -> int:
    """Check the options and train."""
    from dscsr_model.host import launch

    launch.train(args)
    return 0

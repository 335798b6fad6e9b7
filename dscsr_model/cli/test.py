"""``dscsr test``: BasicSR's test loop, in the working directory."""

import argparse
from typing import Any

from dscsr_model.cli.train import add_basicsr_arguments

EPILOG = """\
example:
  dscsr test -opt options/test_span_x4.yml
with only those of its sets whose folders are there:
  dscsr test -opt options/test_span_x4.yml --skip-missing

Log and images go to results/<name> under the working directory."""


def add_parser(subparsers: Any) -> None:
    """Add the command to the ``dscsr`` parser."""
    parser = subparsers.add_parser(
        "test",
        help="measure a network on test sets as an option file says",
        description="Check an option file, then test with BasicSR's own loop.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_basicsr_arguments(parser)
    parser.add_argument("--skip-missing", action="store_true", help="leave out sets whose folders are missing")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check the options and test."""
    from dscsr_model.host import launch

    launch.test(args)
    return 0

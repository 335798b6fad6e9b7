"""``dscsr test``: BasicSR's test loop, in the working directory."""

from typing import Any

from dscsr_model.cli.train import add_loop

EPILOG = """\
example:
  dscsr test -opt options/test_span_x4.yml
with only those of its sets whose folders are there:
  dscsr test -opt options/test_span_x4.yml --skip-missing

Log and images go to results/<name> under the working directory."""


def add_parser(subparsers: Any) -> None:
    """Add the command to the ``dscsr`` parser."""
    parser = add_loop(subparsers, "test", "measure a network on test sets as an option file says", EPILOG)
    parser.add_argument("--skip-missing", action="store_true", help="leave out sets whose folders are missing")

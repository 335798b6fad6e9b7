"""The arguments that name a network by its weight file, the same for every command that takes one."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dscsr_arch.errors import DscsrError, DscsrWarning

if TYPE_CHECKING:
    from torch import nn


_OWN = {
    "path": "Leave it out",
    "base": "Write --base FILE",
    "network": "Write -opt FILE",
    "width": "Write --width W",
    "param_key": "Write --param-key KEY",
}
"""What `load_model` takes beside arguments of networks."""


def add_arguments(parser: argparse.ArgumentParser, *, option_file: bool = True) -> None:
    """Declare what beside the weight file itself decides which network it gives.

    Args:
        parser: Of the command.
        option_file: Whether ``-opt`` is to be declared, too; `profile` has one of its own.
    """
    group = parser.add_argument_group("the network in the file")
    group.add_argument("--base", type=Path, metavar="FILE", help="if WEIGHTS are LoRA adapters: what they belong to")
    group.add_argument("--width", type=float, metavar="W", help="the student of this width of a CSSR-Net, e.g. 0.25")
    group.add_argument("--param-key", metavar="KEY", help="where the file has its weights (default: params_ema first)")
    group.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        dest="overrides",
        help="arguments of the network that shapes cannot tell, e.g. img_range=1 norm=false",
    )
    if option_file:
        group.add_argument(
            *("-opt", "--opt"), type=Path, metavar="FILE", help="the option file of its training, which has all of them"
        )


def load_network(args: argparse.Namespace) -> nn.Module:
    """The network that the arguments name, in eval mode, on the CPU, in float32, as `load_model` gives it.

    Raises:
        DscsrError: The file or an argument is wrong.
    """
    from dscsr_arch import load_model

    given = read_overrides(args.overrides)
    if file := getattr(args, "opt", None):
        from dscsr_model.cli.option_networks import read_network_section

        given["network"] = read_network_section(file)
    with _one_line_each("--set NAME=VALUE" + (", or -opt FILE of its training" if "opt" in args else "")):
        return load_model(args.weights, param_key=args.param_key, base=args.base, width=args.width, **given)


@contextmanager
def _one_line_each(remedy: str) -> Iterator[None]:
    """Print what `load_model` warns of as lines of ours, with what to do about what it had to assume."""
    from dscsr_arch.arguments import AssumedWarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **line: Any) -> None:
        if issubclass(category, DscsrWarning):
            more = f" If that is wrong: {remedy}." if issubclass(category, AssumedWarning) else ""
            print(f"dscsr: {message}{more}", file=sys.stderr)
        else:
            others(message, category, *where, **line)

    with warnings.catch_warnings():
        others, warnings.showwarning = warnings.showwarning, show
        warnings.simplefilter("always", DscsrWarning)
        yield


def read_overrides(words: list[str]) -> dict[str, Any]:
    """``["norm=false", "img_range=1"]`` as arguments; the values are YAML, as in an option file.

    Raises:
        DscsrError: A word is not ``NAME=VALUE``.
    """
    import yaml

    overrides = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name.isidentifier() and equals):
            raise DscsrError(
                f"Expected --set NAME=VALUE, such as norm=false, but got {word!r}. Write it without spaces."
            )
        if name in _OWN:
            raise DscsrError(f"Expected an argument of the network in --set, but got {word!r}. {_OWN[name]}.")
        try:
            overrides[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())
            raise DscsrError(f"Expected a value as in an option file in --set {word!r}, but: {reason}.") from error
    return overrides

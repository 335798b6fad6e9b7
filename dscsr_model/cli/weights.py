"""The arguments that name a network by its weight file, the same for every command that takes one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dscsr_arch.errors import DscsrError

if TYPE_CHECKING:
    from torch import nn


_OWN = {
    "path": "Leave it out",
    "base": "Write --base FILE",
    "width": "Write --width W",
    "param_key": "Write --param-key KEY",
}
"""What `load_model` takes beside arguments of networks."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what beside the weight file itself decides which network it gives."""
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


def load_network(args: argparse.Namespace) -> nn.Module:
    """The network that the arguments name, in eval mode, on the CPU, in float32, as `load_model` gives it.

    Raises:
        DscsrError: The file or an argument is wrong.
    """
    from dscsr_arch import load_model

    overrides = read_overrides(args.overrides)
    if args.width is not None:
        overrides["width"] = args.width
    return load_model(args.weights, param_key=args.param_key, base=args.base, **overrides)


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

"""The arguments that name a network by its weight file, and networks that option files describe, for every command."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dscsr_arch.errors import DscsrError, DscsrWarning
from dscsr_model.shared_work import rank_of_many

if TYPE_CHECKING:
    from torch import nn

_OWN = {
    "path": "Leave it out.",
    "base": "Write --base FILE.",
    "network": "Write -opt FILE.",
    "width": "Write --width W.",
    "param_key": "Write --param-key KEY.",
}
"""What `load_model` takes beside arguments of networks."""


def add_arguments(parser: argparse.ArgumentParser, *, option_file: bool = True) -> None:
    """Declare what beside the weight file itself decides which network it gives.

    Args:
        parser: Of the command.
        option_file: Whether ``-opt`` is to be declared, too; `profile` has one of its own.
    """
    parser.set_defaults(known={})  # see `find_weights`
    group = parser.add_argument_group("the network in the file")
    group.add_argument(
        "--base", type=Path, metavar="WEIGHTS", help="if WEIGHTS are LoRA adapters: what they belong to, file or name"
    )
    group.add_argument("--width", type=float, metavar="W", help="the student of this width of a CSSR-Net, e.g. 0.25")
    group.add_argument(
        "--param-key", metavar="KEY", help="where the file has its weights (default: the better ones, else params_ema)"
    )
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


def find_weights(args: argparse.Namespace) -> None:
    """Put files in place of names in the arguments ``weights`` (one, or a list) and ``base``.

    ``args.known`` then has what is known of those that were names, by their files.

    Raises:
        DscsrError: There are no weights of this name, or not where they belong.
    """
    from dscsr_model.weights import find, named

    given = args.weights if isinstance(args.weights, list) else [args.weights]
    args.known = {find(each): card for each in given if (card := named(each)) is not None}
    args.base = args.base and find(args.base)
    args.weights = [find(each) for each in given] if isinstance(args.weights, list) else find(args.weights)


def load_network(args: argparse.Namespace) -> nn.Module:
    """The network that the arguments name, in eval mode, on the CPU, in float32, as `load_model` gives it.

    `find_weights` has made files of names.

    Raises:
        DscsrError: The file or an argument is wrong.
    """
    from dscsr_arch import load_model

    given = read_overrides(args.overrides)
    if file := getattr(args, "opt", None):
        given["network"] = _network_section(file)
    remedy = "--set NAME=VALUE" + (", or -opt FILE of its training" if "opt" in args else "")
    with _one_line_each(remedy, assumed=args.weights not in args.known):
        return load_model(args.weights, param_key=args.param_key, base=args.base, width=args.width, **given)


def networks_of_options(file: Path, overrides: list[str], width: float | None = None) -> dict[str, nn.Module]:
    """Networks with random weights, as ``network_g`` of an option file says, by what their width adds to a name.

    Args:
        file: The option file.
        overrides: Arguments in place of those in the file, as `read_overrides` takes them.
        width: One student instead of a CSSR-Net at all its widths, or in place of any other network.

    Raises:
        DscsrError: The file cannot be read, has no such section, what it says to import cannot be imported, or the
            network cannot be built.
    """
    from dscsr_arch import CSSRNet
    from dscsr_arch.foreign import find_backbone

    section = {**_network_section(file), **read_overrides(overrides)}
    section.pop("lora", None)  # adapters that training injects: what is measured is fused
    kind = section.pop("type").removesuffix("_dscsr")
    try:
        if width is not None:
            section = section if kind == "CSSRNet" else {"backbone": {"type": kind, **section}}
            return {f" at {width:g}": CSSRNet(**{**section, "widths": (width,)}).student(width).eval()}
        if kind == "CSSRNet":
            shared = CSSRNet(**section).eval()
            return {f" at {each:g}": shared.student(each).eval() for each in (1.0, *shared.widths)}
        network_class = find_backbone(kind)
        _check_memory(network_class, section)
        return {"": network_class(**section).eval()}
    except DscsrError as error:
        raise DscsrError(error.expected, error.got, error.remedy, f"network_g of {file}") from error
    except (TypeError, ValueError, ArithmeticError, AssertionError) as error:
        raise DscsrError(f"network_g of {file} to describe a network", f"this: {error}") from error
    except (MemoryError, RuntimeError) as error:  # torch's, of memory and of sizes beyond what it can count
        reason = " ".join(str(error).split())[:200]
        raise DscsrError(f"network_g of {file} to fit into memory", f"this: {reason}", "Make it smaller.") from error


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
            raise DscsrError("--set NAME=VALUE, such as norm=false", repr(word), "Write it without spaces.")
        if name in _OWN:
            raise DscsrError("an argument of the network in --set", repr(word), _OWN[name])
        try:
            overrides[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            what = f"a value as in an option file in --set {word!r}"
            raise DscsrError(what, " ".join(str(error).split())) from error
    return overrides


def _network_section(file: Path) -> dict[str, Any]:
    """``network_g`` of an option file; a network of the user's own code is registered then.

    Raises:
        DscsrError: The file cannot be read, has no such section with a type, or its code cannot be imported.
    """
    import yaml

    from dscsr_arch.architecture import architectures
    from dscsr_model.host import user_code

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DscsrError(
            f"an option file (YAML) at {file}",
            f"one that cannot be read: {' '.join(str(error).split())[:200]}",
            "Check the path; weight files are given without -opt.",
        ) from error
    section = content.get("network_g") if isinstance(content, dict) else None
    if not (isinstance(section, dict) and isinstance(section.get("type"), str)):
        raise DscsrError(
            f"a section `network_g` with a `type` in {file}",
            "one without" if isinstance(section, dict) else "none",
            "Give a training or test option file.",
        )
    if section["type"].removesuffix("_dscsr") not in architectures():
        user_code.import_user_code(user_code.names(content.get("import")), file)
    return {str(name): value for name, value in section.items()}


def _check_memory(network_class: type[nn.Module], arguments: Mapping[str, Any]) -> None:
    """Raise `MemoryError` before a mistyped width takes all there is: shapes alone cost nothing."""
    import torch

    from dscsr_model.data.memory import free_memory

    try:
        with torch.device("meta"):
            weights = [*network_class(**arguments).parameters()]
    except RuntimeError as error:
        if "meta tensors" in str(error):
            return  # a constructor that reads values, such as SwinIR's: it must be built to see
        raise
    needs, free = sum(weight.numel() * weight.element_size() for weight in weights), free_memory(torch.device("cpu"))
    if needs > free:
        raise MemoryError(f"its weights take {needs / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free")


@contextmanager
def _one_line_each(remedy: str, *, assumed: bool = True) -> Iterator[None]:
    """Print what `load_model` warns of as lines of ours, with what to do about what it had to assume, if anything.

    Of weights that have a name, what is assumed is known to be true, and nothing is said of it.
    """
    from dscsr_arch.arguments import AssumedWarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **line: Any) -> None:
        if issubclass(category, AssumedWarning) and not assumed:
            return
        if issubclass(category, DscsrWarning):
            more = f" If that is wrong: {remedy}." if issubclass(category, AssumedWarning) else ""
            if rank_of_many() == 0:
                print(f"dscsr: {message}{more}", file=sys.stderr)
        else:
            others(message, category, *where, **line)

    with warnings.catch_warnings():
        others, warnings.showwarning = warnings.showwarning, show
        warnings.simplefilter("always", DscsrWarning)
        yield

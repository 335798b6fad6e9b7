"""Architecture: all that the project knows of one network, in one place.

A file ``*_arch.py`` of this package ends in its own, ``ARCHITECTURE``. That is all it takes to have a network
registered in BasicSR, recognised in files, narrowed, exported and submitted: everybody reads `architectures`.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import dscsr_arch
from dscsr_arch.constructor import IMG_RANGE
from dscsr_arch.errors import WeightsError

StateDict = Mapping[str, Tensor]


class CSDNames(NamedTuple):
    """Weights of the same network by the official code of CSD; see `csd_names`."""

    some: frozenset[str]
    """Names by which they are recognised."""
    ends: tuple[str, str]
    """The first and the last convolution, by our names."""
    renamed: tuple[tuple[str, str], ...] = ()
    """Patterns at the start of their names, and what we have instead."""


class SpandrelForm(NamedTuple):
    """What it takes to let spandrel, which knows shapes and defaults only, do what a network does."""

    required: Mapping[str, Any]
    """Values of arguments that it cannot be told and that are not to be worked into the weights."""
    work_in: Callable[[Any], None]
    """Work the other arguments that shapes do not tell into the weights, in place: they are the defaults then."""
    known: bool = False
    """Whether it has this network by itself."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What the project knows of one network. Images of which size it takes, its class says (``size_multiple``)."""

    network: type[nn.Module]
    """Its constructor is decorated by `constructor.constructor`."""
    recognise: Callable[[StateDict], bool]
    """Whether weights are its; of no weights two networks may say so."""
    arguments: Callable[[StateDict, Mapping[str, Any]], dict[str, Any]]
    """Arguments of its constructor from (weights, arguments that are known otherwise).

    Raises ValueError or LookupError if the shapes make no sense.
    """
    not_in_shapes: tuple[str, ...] = ()
    """Arguments that decide what it computes while its weights show nothing of them."""
    ambiguous: tuple[str, ...] = ()
    """Arguments that shapes tell unless the network is an unusual one."""
    width_arguments: tuple[str, ...] = ()
    """Arguments that are its channels: CSSR-Net makes them narrower."""
    part_widths: Mapping[str, str] = field(default_factory=dict)
    """Arguments that are the channels of a part alone, which can be pruned, and whose value they have where None."""
    prepare: Callable[[Any, StateDict], nn.Module] = lambda network, _: network
    """Bring a freshly built network into the form of the weights, e.g. fused."""
    base: str | None = None
    """The network that it is but for its LoRA, and whose subclass it is: what files say of either holds for both."""
    in_basicsr: bool = False
    """Whether BasicSR has it: its registry keeps its own."""
    csd: CSDNames | None = None
    single_file: tuple[Callable[..., Any], ...] = ()
    """Functions and classes whose source makes a file that needs torch alone, the network last; none: no such file."""
    spandrel: SpandrelForm | None = None

    @property
    def name(self) -> str:
        """What option files and metadata call it."""
        return self.network.__name__

    @property
    def family(self) -> str:
        """What it is called but for its LoRA."""
        return self.base or self.name

    @property
    def known_by_file(self) -> tuple[str, ...]:
        """Arguments that the metadata of a file decide."""
        return (*self.ambiguous, *self.not_in_shapes)


@cache
def architectures() -> Mapping[str, Architecture]:
    """All of them by name."""
    files = [module.name for module in pkgutil.iter_modules(dscsr_arch.__path__) if module.name.endswith("_arch")]
    modules = [importlib.import_module(f"dscsr_arch.{name}") for name in sorted(files)]
    found = [module.ARCHITECTURE for module in modules if hasattr(module, "ARCHITECTURE")]
    return {architecture.name: architecture for architecture in found}


def recognise(state_dict: StateDict) -> Architecture | None:
    """The network that these weights are of, if it is one of ours."""
    return next((each for each in architectures().values() if each.recognise(state_dict)), None)


def by_our_names(state_dict: StateDict) -> StateDict:
    """Weights that others released under names of their own (``our_name`` of a network's class), under ours."""
    for each in architectures().values():
        names = our_names(state_dict, getattr(each.network, "our_name", str))
        renamed = {names[name]: tensor for name, tensor in state_dict.items()}
        if renamed.keys() != state_dict.keys() and each.recognise(renamed):
            return renamed
    return state_dict


def our_names(names: Iterable[str], our_name: Callable[[str], str]) -> dict[str, str]:
    """What we call each of ``names``. Two that would be one stay as they are, so that one of them fits no network."""
    ours = {name: our_name(name) for name in names}
    times = Counter(ours.values())
    return {name: new if times[new] == 1 else name for name, new in ours.items()}


def has_all(*names: str) -> Callable[[StateDict], bool]:
    """Recognise weights by names that are among theirs."""
    return lambda state_dict: state_dict.keys() >= set(names)


def count_layers(state_dict: StateDict, pattern: str) -> int:
    """How many layers there are: one more than the highest number in ``pattern``."""
    count = 1 + max((int(found[1]) for name in state_dict if (found := re.match(pattern, name))), default=-1)
    if count > len(state_dict):  # building that many could take any time
        raise WeightsError("as many layers as there are weights", f"numbers of layers up to {count}")
    return count


def image_arguments(state_dict: StateDict, first: str, last: str, upsampling: str) -> dict[str, Any]:
    """Channels, width and scale by the shapes of the first and the last layer, and of those that match a pattern."""
    features, num_in_ch = state_dict[f"{first}.weight"].shape[:2]
    return {
        "num_in_ch": num_in_ch,
        "num_out_ch": state_dict[f"{last}.weight"].shape[0],
        "num_feat": features,
        "upscale": _upscale(state_dict, upsampling),
    }


def _upscale(state_dict: StateDict, pattern: str) -> int:
    """Product of the scales of convolutions (c·r², c, 3, 3) before pixel shuffles of r."""
    scale = 1
    for name, tensor in state_dict.items():
        if re.fullmatch(pattern, name):
            ratio = tensor.shape[0] // max(1, tensor.shape[1])
            if ratio not in (4, 9) or tensor.shape[0] != ratio * tensor.shape[1]:
                raise WeightsError(f"{name} to make 4 or 9 times as many channels", f"{tuple(tensor.shape)}")
            scale *= 2 if ratio == 4 else 3
    return scale


@torch.no_grad()
def work_range_in(network: Any, first: nn.Conv2d, last: nn.Conv2d) -> None:
    """Give a network that multiplies by its range before ``first`` and divides after ``last`` the default range."""
    factor = network.img_range / IMG_RANGE
    first.weight.mul_(factor)
    for tensor in last.parameters():
        tensor.div_(factor)
    network.img_range = network.arguments["img_range"] = IMG_RANGE

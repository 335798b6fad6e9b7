"""Patches BasicSR where today's PyTorch, or a machine without a GPU, breaks it.

The only place that does. Each breakage is detected first; a patch touches BasicSR's own names only (or supplies a
module that is missing altogether), and is recorded, so that ``dscsr doctor`` can list what was mended and why. No code
of BasicSR is repeated: its functions run with a few of their global names replaced.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from dscsr_arch import torchvision_ops
from dscsr_model.host.install_help import version_of
from dscsr_model.host.patches import Overlay, gpu, installed, mentions, replaced


class Patch(NamedTuple):
    """One repair: ``apply`` is called when ``broken`` finds what ``why`` describes."""

    name: str
    why: str
    broken: Callable[[], bool]
    apply: Callable[[], None]


# --- what stops `import basicsr` ---

FUNCTIONAL_TENSOR = "torchvision.transforms.functional_tensor"


def _supply(name: str, doc: str, **names: object) -> None:
    """Let a module be there that nobody has."""
    module = ModuleType(name, doc)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(names)
    sys.modules[name] = module


def _functional_tensor_missing() -> bool:
    """Whether torchvision is there, but not the module that BasicSR's degradations import from it."""
    if importlib.util.find_spec("torchvision") is None:
        return False
    return importlib.util.find_spec(FUNCTIONAL_TENSOR) is None


def _supply_functional_tensor() -> None:
    """Supply it with the one function that BasicSR takes from it."""
    from torchvision.transforms.functional import rgb_to_grayscale

    _supply(FUNCTIONAL_TENSOR, "What BasicSR needs of it (dscsr).", rgb_to_grayscale=rgb_to_grayscale)


def _basicsr_locations() -> list[str]:
    spec = importlib.util.find_spec("basicsr")
    return list(spec.submodule_search_locations or ()) if spec is not None else []


def _version_missing() -> bool:
    """Whether the BasicSR that would be imported has no ``version`` module. Nothing of it is imported."""
    if "basicsr.version" in sys.modules:
        return False
    locations = _basicsr_locations()
    return bool(locations) and PathFinder.find_spec("basicsr.version", locations) is None


def _supply_version() -> None:
    """Supply what BasicSR's ``setup.py`` would have written, from the clone's own VERSION file."""
    version = version_of(Path(_basicsr_locations()[0]))
    info = tuple(int(part) if part.isdigit() else part for part in version.split("."))
    doc = "Stands in for the file that BasicSR's setup.py generates (dscsr)."
    _supply("basicsr.version", doc, __version__=version, __gitsha__="unknown", version_info=info)


# --- what stops its loops ---


def _replacing(
    wrap: Callable[[FunctionType], Callable[..., Any]], word: str, *targets: str
) -> tuple[Callable[[], bool], Callable[[], None]]:
    """``broken`` and ``apply`` of a patch that wraps functions, ``module:function``, whose own code uses a word."""

    def found() -> list[tuple[Any, FunctionType]]:
        owners = [_owner(target) for target in targets]
        functions = [(owner, getattr(owner, name, None)) for owner, name in owners]
        return [(owner, function) for owner, function in functions if mentions(function, word)]

    def apply() -> None:
        for owner, function in found():
            replacement = functools.update_wrapper(wrap(function), function)
            holders = [owner]
            if isinstance(owner, ModuleType):  # and those that have imported the function from it
                of_basicsr = [module for name, module in sys.modules.items() if name.partition(".")[0] == "basicsr"]
                holders = [each for each in of_basicsr if getattr(each, function.__name__, None) is function]
            for holder in holders:
                installed.set(holder, function.__name__, replacement)

    return lambda: bool(found()), apply


def _owner(target: str) -> tuple[Any, str]:
    """The module or class that holds the function, None where this BasicSR has no such; and the function's name."""
    module, _, path = target.partition(":")
    *classes, name = path.split(".")
    return functools.reduce(lambda owner, name: getattr(owner, name, None), classes, sys.modules.get(module)), name


def _entering(parse_options: FunctionType) -> Callable[..., Any]:
    from dscsr_model.host import loop  # which needs torch, as the doctor does not

    return loop.entering(parse_options)


def _init_anywhere(init: FunctionType) -> Callable[..., None]:
    """Without a GPU, gloo; with one, the device of LOCAL_RANK."""
    import torch

    def set_device(index: int) -> None:
        if gpu():  # LOCAL_RANK is right also where nodes have different numbers of GPUs
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", index)) % torch.cuda.device_count())

    def init_dist(backend: str, *args: Any, **kwargs: Any) -> None:
        cuda = Overlay(torch.cuda, device_count=lambda: max(1, torch.cuda.device_count()), set_device=set_device)
        with replaced(init.__globals__, torch=Overlay(torch, cuda=cuda)):
            init(backend if gpu() else "gloo", *args, **kwargs)

    return init_dist


def _to_any_device(original: FunctionType) -> Callable[..., Any]:
    """On the CPU, DistributedDataParallel without device ids."""
    import torch
    from torch.nn.parallel import DistributedDataParallel

    def on_cpu(net: torch.nn.Module, device_ids: object = None, **kwargs: Any) -> DistributedDataParallel:
        return DistributedDataParallel(net, **kwargs)

    def model_to_device(self: Any, net: torch.nn.Module) -> Any:
        if self.device.type != "cpu":
            return original(self, net)
        cuda = Overlay(torch.cuda, current_device=lambda: None)
        with replaced(original.__globals__, torch=Overlay(torch, cuda=cuda), DistributedDataParallel=on_cpu):
            return original(self, net)

    return model_to_device


def _waiting_for_nobody(original: FunctionType) -> Callable[..., Any]:
    """Rank 0 validates with the network itself."""

    def dist_validation(self: Any, *args: Any, **kwargs: Any) -> Any:
        wrapped = self.net_g
        self.net_g = self.get_bare_model(wrapped)
        try:
            return original(self, *args, **kwargs)
        finally:
            self.net_g = wrapped

    return dist_validation


IMPORT_PATCHES = (
    Patch(
        "torchvision",
        "its compiled operators cannot be loaded beside this build of torch, which stops its import",
        torchvision_ops.operators_missing,
        torchvision_ops.import_without_operators,
    ),
    Patch(
        "functional_tensor",
        "torchvision 0.17 and later have no transforms.functional_tensor, which BasicSR imports",
        _functional_tensor_missing,
        _supply_functional_tensor,
    ),
    Patch(
        "version",
        "this BasicSR clone has no basicsr/version.py, which only its setup.py writes",
        _version_missing,
        _supply_version,
    ),
)

RUN_PATCHES = (
    Patch(
        "parse_options",  # no release resumes or prefetches without a GPU, and it is how we meet a train loop
        "resuming and `prefetch_mode: cuda` need a GPU, and torch's `--local-rank` is refused",
        *_replacing(_entering, "parse_args", "basicsr.utils.options:parse_options"),
    ),
    Patch(
        "init_dist",
        "`--launcher` divides by the number of GPUs and takes the GPU of the global rank, not of LOCAL_RANK",
        *_replacing(
            _init_anywhere,
            "set_device",
            "basicsr.utils.dist_util:_init_dist_pytorch",
            "basicsr.utils.dist_util:_init_dist_slurm",
        ),
    ),
    Patch(
        "model_to_device",
        "several processes need a GPU: DistributedDataParallel is given the current CUDA device",
        *_replacing(_to_any_device, "current_device", "basicsr.models.base_model:BaseModel.model_to_device"),
    ),
    Patch(
        "validation",
        "rank 0 validates alone, but a DistributedDataParallel network with buffers waits for the other ranks",
        *_replacing(_waiting_for_nobody, "nondist_validation", "basicsr.models.sr_model:SRModel.dist_validation"),
    ),
)

_applied: dict[str, Patch] = {}


def applied() -> tuple[Patch, ...]:
    """The patches that this process needed, in the order in which they were applied."""
    return tuple(_applied.values())


def patch_imports() -> None:
    """Make ``import basicsr`` possible. Call it before; a repeat finds nothing broken."""
    _apply(IMPORT_PATCHES)


def patch_loops() -> None:
    """Make BasicSR's train and test loops run on this machine. Call it once ``basicsr`` is imported."""
    _apply(RUN_PATCHES)


def _apply(patches: tuple[Patch, ...]) -> None:
    for patch in patches:
        if patch.broken():
            patch.apply()
            installed.set(_applied, patch.name, patch)

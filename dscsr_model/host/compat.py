"""Mends BasicSR where today's PyTorch, or a machine without a GPU, breaks them.

The only place that does, with its two rooms `compat_imports` and `compat_running`. Each mend is detected first,
touches BasicSR's own names only (or supplies a module that is missing altogether), and is recorded, so that
``dscsr doctor`` can list what was mended and why.
"""

from collections.abc import Callable
from typing import NamedTuple

from dscsr_arch import torchvision_ops
from dscsr_model.host import compat_imports as imports
from dscsr_model.host import compat_running as running
from dscsr_model.host.patches import installed


class Mend(NamedTuple):
    """One repair: ``apply`` is called when ``broken`` finds what ``why`` describes."""

    name: str
    why: str
    broken: Callable[[], bool]
    apply: Callable[[], None]


IMPORT_MENDS = (
    Mend(
        "torchvision",
        "its compiled operators cannot be loaded beside this build of torch, which stops its import",
        torchvision_ops.operators_missing,
        torchvision_ops.import_without_operators,
    ),
    Mend(
        "functional_tensor",
        "torchvision 0.17 and later have no transforms.functional_tensor, which BasicSR imports",
        imports.functional_tensor_missing,
        imports.supply_functional_tensor,
    ),
    Mend(
        "version",
        "this BasicSR clone has no basicsr/version.py, which only its setup.py writes",
        imports.version_missing,
        imports.supply_version,
    ),
)

RUN_MENDS = (
    Mend(
        "parse_options",
        "resuming and `prefetch_mode: cuda` need a GPU, and torch's `--local-rank` is refused",
        running.parse_options_broken,
        running.mend_parse_options,
    ),
    Mend(
        "init_dist",
        "`--launcher` divides by the number of GPUs and takes the GPU of the global rank, not of LOCAL_RANK",
        running.init_dist_broken,
        running.mend_init_dist,
    ),
    Mend(
        "model_to_device",
        "several processes need a GPU: DistributedDataParallel is given the current CUDA device",
        running.model_to_device_broken,
        running.mend_model_to_device,
    ),
    Mend(
        "validation",
        "rank 0 validates alone, but a DistributedDataParallel network with buffers waits for the other ranks",
        running.validation_broken,
        running.mend_validation,
    ),
)

_applied: dict[str, Mend] = {}


def applied() -> tuple[Mend, ...]:
    """The mends this process needed, in the order in which they were applied."""
    return tuple(_applied.values())


def mend_imports() -> None:
    """Make ``import basicsr`` possible. Call it before; a repeat finds nothing broken."""
    _mend(IMPORT_MENDS)


def mend_running() -> None:
    """Make BasicSR's train and test loops run on this machine. Call it once ``basicsr`` is imported."""
    _mend(RUN_MENDS)


def _mend(mends: tuple[Mend, ...]) -> None:
    for mend in mends:
        if mend.broken():
            mend.apply()
            installed.set(_applied, mend.name, mend)

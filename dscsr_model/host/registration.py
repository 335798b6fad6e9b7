"""The explicit list of what BasicSR's option files can name, and what happens when a name is already taken.

The only file that touches BasicSR's registries. With the autoload we register as soon as ``basicsr`` is imported,
before most other plugins, so a name can also be wanted by somebody who comes later: theirs then takes it.
"""

import importlib
import multiprocessing
import os
import sys
import warnings
from typing import Any, NamedTuple

from dscsr_model.host import compat, sampling, user_code
from dscsr_model.host.install_help import require_basicsr


class Entry(NamedTuple):
    """A registry of ``basicsr.utils.registry`` and the class that goes into it, as ``module:Class``."""

    registry: str
    target: str

    @property
    def name(self) -> str:
        """What option files call it: the class's own name."""
        return self.target.partition(":")[2]


ENTRIES = (
    Entry("ARCH_REGISTRY", "dscsr_arch.span_arch:SPAN"),
    Entry("ARCH_REGISTRY", "dscsr_arch.dsclora_arch:DSCLoRA"),
    Entry("ARCH_REGISTRY", "dscsr_arch.carn_arch:CARN"),
    Entry("ARCH_REGISTRY", "dscsr_arch.cssr_arch:CSSRNet"),
    Entry("DATASET_REGISTRY", "dscsr_model.data.paired_crop_dataset:PairedCropDataset"),
    Entry("LOSS_REGISTRY", "dscsr_model.losses.contrastive_loss:ContrastiveLoss"),
    Entry("LOSS_REGISTRY", "dscsr_model.losses.spatial_affinity_loss:SpatialAffinityLoss"),
    Entry("MODEL_REGISTRY", "dscsr_model.models.efficient_sr_model:EfficientSRModel"),
    Entry("MODEL_REGISTRY", "dscsr_model.models.distillation_model:DistillationModel"),
    Entry("MODEL_REGISTRY", "dscsr_model.models.dsclora_model:DSCLoRAModel"),
    Entry("MODEL_REGISTRY", "dscsr_model.models.csd_model:CSDModel"),
)

SUFFIX = "dscsr"


def register() -> None:
    """Mend and import ``basicsr``, and register every entry that is not registered yet; see `dscsr_model.register`."""
    require_basicsr()
    compat.mend_imports()
    importlib.import_module("basicsr")
    compat.mend_running()
    sampling.hand_out_draws()
    for entry in ENTRIES:
        obj = _load(entry.target)
        if obj is not None:
            registry = getattr(importlib.import_module("basicsr.utils.registry"), entry.registry)
            _give_way_later(registry)
            _register(registry, obj)
    if os.environ.get("DSCSR_AUTOLOAD") == "0":
        # Data-loader workers that this process spawns import BasicSR anew, before they could call us.
        os.environ["DSCSR_REGISTERED_IN"] = str(os.getpid())
    user_code.import_again()


def registered_names() -> dict[str, str | None]:
    """The name under which each of our classes can be named in an option file; None where it is not registered."""
    registries = importlib.import_module("basicsr.utils.registry")
    names: dict[str, str | None] = {}
    for entry in ENTRIES:
        held = _held(getattr(registries, entry.registry))
        candidates = (entry.name, f"{entry.name}_{SUFFIX}")
        names[entry.name] = next((name for name in candidates if _is_ours(held.get(name))), None)
    return names


def is_our_model(name: Any) -> bool:
    """Whether a ``model_type`` is one of our models, or derives from one."""
    from dscsr_model.models.checkpointing_sr_model import CheckpointingSRModel

    registry = importlib.import_module("basicsr.utils.registry").MODEL_REGISTRY
    held = _held(registry)
    model = held.get(name, held.get(f"{name}_basicsr"))
    return isinstance(model, type) and issubclass(model, CheckpointingSRModel)


def _load(target: str) -> Any:
    module_name, _, class_name = target.partition(":")
    module = sys.modules.get(module_name)
    if module is not None and getattr(module.__spec__, "_initializing", False):
        return None  # it imports basicsr itself, which brought us here; the next register() completes the list
    return getattr(importlib.import_module(module_name), class_name)


def _held(registry: Any) -> dict[str, Any]:
    return dict(iter(registry))  # not dict(registry): it has keys() but cannot be indexed


def _is_ours(obj: object) -> bool:
    return getattr(obj, "__module__", "").partition(".")[0] in ("dscsr_arch", "dscsr_model")


def _register(registry: Any, obj: Any) -> None:
    held = _held(registry)
    name = obj.__name__
    if held.get(name) is obj or held.get(f"{name}_{SUFFIX}") is obj:
        return
    if name in held:
        registry.register(obj, suffix=SUFFIX)
        _warn_of_clash(name, held[name])
    else:
        registry.register(obj)


class _GivingWay:
    """Stands before a registry's ``_do_register``: a newcomer gets the name that one of ours holds."""

    def __init__(self, registry: Any) -> None:
        self._registry = registry
        self._do_register = registry._do_register

    def __call__(self, name: str, obj: Any, suffix: str | None = None) -> None:
        wanted = f"{name}_{suffix}" if isinstance(suffix, str) else name
        holder = self._registry._obj_map.get(wanted)
        if holder is None or not _is_ours(holder) or _is_ours(obj):
            self._do_register(name, obj, suffix)
            return
        del self._registry._obj_map[wanted]
        self._do_register(name, obj, suffix)
        self._do_register(wanted, holder, SUFFIX)
        _warn_of_clash(wanted, obj)


def _give_way_later(registry: Any) -> None:
    if not isinstance(registry._do_register, _GivingWay):
        registry._do_register = _GivingWay(registry)


def _warn_of_clash(name: str, theirs: Any) -> None:
    if multiprocessing.parent_process() is not None or os.environ.get("RANK", "0") != "0":
        return  # the first process has said it
    owner = f"{getattr(theirs, '__module__', '?')}.{getattr(theirs, '__qualname__', name)}"
    warnings.warn(
        f"In BasicSR's registry the name {name} belongs to {owner}, so dscsr's is registered as {name}_{SUFFIX}: "
        f"write `type: {name}_{SUFFIX}` to get it.",
        stacklevel=2,
    )

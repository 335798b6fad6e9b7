"""The explicit list of what BasicSR's option files can name, and what happens when a name is already taken.

The only file that touches BasicSR's registries. With the autoload we register as soon as ``basicsr`` is imported,
before most other plugins, so a name can also be wanted by somebody who comes later: theirs then takes it.
"""

import importlib
import multiprocessing
import operator
import os
import sys
import warnings
from typing import Any, NamedTuple

from dscsr_arch.errors import DscsrError
from dscsr_model.host import compat, saved_metadata, user_code
from dscsr_model.host.install_help import find_basicsr, require_basicsr, version_of
from dscsr_model.host.patches import installed


class Entry(NamedTuple):
    """A registry of ``basicsr.utils.registry`` and the class that goes into it, as ``module:Class``."""

    registry: str
    target: str

    @property
    def name(self) -> str:
        """What option files call it: the class's own name."""
        return self.target.partition(":")[2]


ENTRIES = (
    Entry("ARCH_REGISTRY", "dscsr_arch.cssr_arch:CSSRNet"),
    Entry("DATASET_REGISTRY", "dscsr_model.data.paired_crop_dataset:PairedCropDataset"),
    Entry("LOSS_REGISTRY", "dscsr_model.losses.attention_transfer_loss:AttentionTransferLoss"),
    Entry("LOSS_REGISTRY", "dscsr_model.losses.contrastive_loss:ContrastiveLoss"),
    Entry("LOSS_REGISTRY", "dscsr_model.losses.frequency_loss:FrequencyLoss"),
    Entry("LOSS_REGISTRY", "dscsr_model.losses.msssim_loss:MSSSIMLoss"),
    Entry("LOSS_REGISTRY", "dscsr_model.losses.spatial_affinity_loss:SpatialAffinityLoss"),
    Entry("MODEL_REGISTRY", "dscsr_model.models.efficient_sr_model:EfficientSRModel"),
    Entry("MODEL_REGISTRY", "dscsr_model.models.distillation_model:DistillationModel"),
    Entry("MODEL_REGISTRY", "dscsr_model.models.dsclora_model:DSCLoRAModel"),
    Entry("MODEL_REGISTRY", "dscsr_model.models.csd_model:CSDModel"),
)


def entries() -> tuple[Entry, ...]:
    """Our networks, but for those that BasicSR has itself, and `ENTRIES`."""
    from dscsr_arch.architecture import architectures

    networks = [each.network for each in architectures().values() if not each.in_basicsr]
    return (*(Entry("ARCH_REGISTRY", f"{each.__module__}:{each.__name__}") for each in networks), *ENTRIES)


def losses() -> dict[str, Any]:
    """Our losses, by name."""
    return {entry.name: _load(entry.target) for entry in ENTRIES if entry.registry == "LOSS_REGISTRY"}


NEEDED = (  # what BasicSR has from 1.3.4.4 on, and our models and our way into its train loop are built on
    "basicsr.utils.registry:ARCH_REGISTRY",
    "basicsr.utils.options:parse_options",
    "basicsr.models.base_model:BaseModel._initialize_best_metric_results",
)

SUFFIX = "dscsr"

_registering = False


def register() -> None:
    """Patch and import ``basicsr``, and register every entry that is not registered yet; see `dscsr_model.register`."""
    global _registering
    if _registering:  # `import basicsr` below brings the autoload here as well
        return
    require_basicsr()
    _registering = True
    try:
        compat.patch_imports()
        importlib.import_module("basicsr")
        for needed in NEEDED:
            module, _, names = needed.partition(":")
            operator.attrgetter(names)(importlib.import_module(module))
        objects = [(_registry(entry.registry), _load(entry.target)) for entry in entries()]
        compat.patch_loops()
        saved_metadata.install()
        for registry, obj in objects:
            if obj is not None:
                _register(registry, obj)
    except Exception as error:
        installed.undo()
        raise _cannot_register(error) from error
    finally:
        _registering = False
    if os.environ.get("DSCSR_AUTOLOAD") == "0":
        # Data-loader workers that this process starts import BasicSR anew, before they could call us.
        os.environ["DSCSR_REGISTERED"] = "1"
    user_code.import_again()


def _cannot_register(error: Exception) -> DscsrError:
    folder = find_basicsr()
    remedy = (
        "Nothing of dscsr is registered here. Use a BasicSR from 1.3.4.8 on: python -m "
        "dscsr_model.host.install_basicsr, in an environment or folder without this one."
    )
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] != "basicsr":
        remedy = f"`{error.name}` is missing: install what this BasicSR requires, with pip install {error.name}."
    if "cannot open shared object file" in str(error):  # by OpenCV or torch, on a machine without a desktop
        remedy = "A library of the system is missing: install it, or opencv-python-headless in place of opencv-python."
    met = f"{folder}, version {version_of(folder)}, where it ends with {type(error).__name__}: {error}"
    return DscsrError("a BasicSR that dscsr's classes fit", met, remedy)


def registered_names() -> dict[str, str | None]:
    """The name under which each of our classes can be named in an option file; None where it is not registered."""
    names: dict[str, str | None] = {}
    for entry in entries():
        held = _registry(entry.registry)._obj_map
        candidates = (entry.name, f"{entry.name}_{SUFFIX}")
        names[entry.name] = next((name for name in candidates if _is_ours(held.get(name))), None)
    return names


def is_our_model(name: Any) -> bool:
    """Whether a ``model_type`` is one of our models, or derives from one."""
    from dscsr_model.models.efficient_sr_model import EfficientSRModel

    held = _registry("MODEL_REGISTRY")._obj_map
    model = held.get(name, held.get(f"{name}_basicsr"))
    return isinstance(model, type) and issubclass(model, EfficientSRModel)


def _registry(name: str) -> Any:
    return getattr(importlib.import_module("basicsr.utils.registry"), name)


def _load(target: str) -> Any:
    module_name, _, class_name = target.partition(":")
    module = sys.modules.get(module_name)
    if module is not None and getattr(module.__spec__, "_initializing", False):
        return None  # it imports basicsr itself, which brought us here; the next register() completes the list
    return getattr(importlib.import_module(module_name), class_name)


def _is_ours(obj: object) -> bool:
    return getattr(obj, "__module__", "").partition(".")[0] in ("dscsr_arch", "dscsr_model")


def _register(registry: Any, obj: Any) -> None:
    """Put it into the registry's own table, since ``register`` knows suffixes in some releases only."""
    if not isinstance(registry._do_register, _GivingWay):
        installed.set(registry, "_do_register", _GivingWay(registry))
    held, name = registry._obj_map, obj.__name__
    if held.get(name) is obj or held.get(f"{name}_{SUFFIX}") is obj:
        return
    if name in held:
        _warn_of_clash(name, held[name])
        name = f"{name}_{SUFFIX}"
    installed.set(held, name, obj)


class _GivingWay:
    """Stands before a registry's ``_do_register``: a newcomer gets the name that one of ours holds.

    What its arguments are differs from release to release; what it does to the table tells the same.
    """

    def __init__(self, registry: Any) -> None:
        self._registry, self._do_register = registry, registry._do_register

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        held = self._registry._obj_map
        ours = {name: held.pop(name) for name, obj in list(held.items()) if _is_ours(obj)}
        try:
            self._do_register(*args, **kwargs)
        finally:
            for name, obj in ours.items():
                theirs = held.setdefault(name, obj)
                if theirs is not obj:
                    held[f"{name}_{SUFFIX}"] = obj
                    _warn_of_clash(name, theirs)


def _warn_of_clash(name: str, theirs: Any) -> None:
    if multiprocessing.parent_process() is not None or os.environ.get("RANK", "0") != "0":
        return  # the first process has said it
    owner = f"{getattr(theirs, '__module__', '?')}.{getattr(theirs, '__qualname__', name)}"
    warnings.warn(
        f"In BasicSR's registry the name {name} belongs to {owner}, so dscsr's is registered as {name}_{SUFFIX}: "
        f"write `type: {name}_{SUFFIX}` to get it.",
        stacklevel=2,
    )

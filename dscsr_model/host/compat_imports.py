"""What stops ``import basicsr`` beside today's torch and torchvision, and in a plain clone; see `compat`."""

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from dscsr_model.host.install_help import version_of

FUNCTIONAL_TENSOR = "torchvision.transforms.functional_tensor"


class _StandIns:
    """Last finder of all: supplies modules that nobody else has."""

    def __init__(self) -> None:
        self.modules: dict[str, ModuleType] = {}

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in self.modules else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: `create_module` hands out the module with all its names, but Python asks a loader for both."""

    def supply(self, name: str, doc: str, **names: object) -> None:
        module = ModuleType(name, doc)
        vars(module).update(names)
        self.modules[name] = module
        if self not in sys.meta_path:
            sys.meta_path.append(self)


_stand_ins = _StandIns()


def functional_tensor_missing() -> bool:
    """Whether torchvision is there, but not the module that BasicSR's degradations import from it."""
    if importlib.util.find_spec("torchvision") is None:
        return False
    return importlib.util.find_spec(FUNCTIONAL_TENSOR) is None


def supply_functional_tensor() -> None:
    """Supply it with the one function that BasicSR takes from it."""
    from torchvision.transforms.functional import rgb_to_grayscale

    _stand_ins.supply(FUNCTIONAL_TENSOR, "What BasicSR needs of it (dscsr).", rgb_to_grayscale=rgb_to_grayscale)


def _basicsr_locations() -> list[str]:
    spec = importlib.util.find_spec("basicsr")
    return list(spec.submodule_search_locations or ()) if spec is not None else []


def version_missing() -> bool:
    """Whether the BasicSR that would be imported has no ``version`` module. Nothing of it is imported."""
    if "basicsr.version" in sys.modules or "basicsr.version" in _stand_ins.modules:
        return False
    locations = _basicsr_locations()
    return bool(locations) and PathFinder.find_spec("basicsr.version", locations) is None


def supply_version() -> None:
    """Supply what BasicSR's ``setup.py`` would have written, from the clone's own VERSION file."""
    version = version_of(Path(_basicsr_locations()[0]))
    info = tuple(int(part) if part.isdigit() else part for part in version.split("."))
    doc = "Stands in for the file that BasicSR's setup.py generates (dscsr)."
    _stand_ins.supply("basicsr.version", doc, __version__=version, __gitsha__="unknown", version_info=info)

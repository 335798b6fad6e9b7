"""Mends BasicSR 1.4.2 and GitHub master where today's PyTorch, or a machine without a GPU, breaks them.

This is the only file that does. Each mend is detected first, touches BasicSR's own names only (or a module that is
missing altogether), and is recorded, so that ``dscsr doctor`` can list what was mended and why. No BasicSR code is
repeated here: its functions run with a few of their global names replaced while they run.
"""

import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

FUNCTIONAL_TENSOR = "torchvision.transforms.functional_tensor"


class Mend(NamedTuple):
    """One repair: ``apply`` is called when ``broken`` finds what ``why`` describes."""

    name: str
    why: str
    broken: Callable[[], bool]
    apply: Callable[[], None]


_applied: list[Mend] = []


def applied() -> tuple[Mend, ...]:
    """The mends this process needed, in the order in which they were applied."""
    return tuple(_applied)


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
            _applied.append(mend)


# --- before the import ------------------------------------------------------------------------------------------


class _StandIns:
    """Last finder of all: supplies modules that nobody else has."""

    def __init__(self) -> None:
        self.modules: dict[str, ModuleType] = {}

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in self.modules else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        pass

    def supply(self, name: str, doc: str, **names: object) -> None:
        module = ModuleType(name, doc)
        vars(module).update(names)
        self.modules[name] = module
        if self not in sys.meta_path:
            sys.meta_path.append(self)  # type: ignore[arg-type]


_stand_ins = _StandIns()


def _torchvision_ops_missing() -> bool:
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return False  # not installed: BasicSR's own message says so
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        return True
    return False


def _import_torchvision_without_ops() -> None:
    """Import it again while descriptions of operators that do not exist are let pass. BasicSR uses none of them."""
    import torch.library

    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # half imported
    original = torch.library.register_fake

    def tolerant(op: Any, *args: Any, **kwargs: Any) -> Any:
        register = original(op, *args, **kwargs)

        def decorate(function: Any) -> Any:
            try:
                return register(function)
            except RuntimeError as error:
                if "operator torchvision::" not in str(error):
                    raise
                return function

        return decorate

    torch.library.register_fake = tolerant
    try:
        importlib.import_module("torchvision")
    finally:
        torch.library.register_fake = original


def _functional_tensor_missing() -> bool:
    if importlib.util.find_spec("torchvision") is None:
        return False
    return importlib.util.find_spec(FUNCTIONAL_TENSOR) is None


def _supply_functional_tensor() -> None:
    from torchvision.transforms.functional import rgb_to_grayscale

    _stand_ins.supply(FUNCTIONAL_TENSOR, "What BasicSR needs of it (dscsr).", rgb_to_grayscale=rgb_to_grayscale)


def _basicsr_locations() -> list[str]:
    spec = importlib.util.find_spec("basicsr")
    return list(spec.submodule_search_locations or ()) if spec is not None else []


def _version_missing() -> bool:
    if "basicsr.version" in sys.modules or "basicsr.version" in _stand_ins.modules:
        return False
    locations = _basicsr_locations()
    return bool(locations) and PathFinder.find_spec("basicsr.version", locations) is None


def _supply_version() -> None:
    """What BasicSR's ``setup.py`` would have written, from the clone's own VERSION file."""
    file = Path(_basicsr_locations()[0]).parent / "VERSION"
    version = file.read_text(encoding="utf-8").strip() if file.is_file() else "unknown"
    info = tuple(int(part) if part.isdigit() else part for part in version.split("."))
    doc = "Stands in for the file that BasicSR's setup.py generates (dscsr)."
    _stand_ins.supply("basicsr.version", doc, __version__=version, __gitsha__="unknown", version_info=info)


# --- while running ----------------------------------------------------------------------------------------------


class _Overlay:
    """An object seen through: the given names are replaced, every other one is its own."""

    def __init__(self, below: object, **names: object) -> None:
        vars(self).update(names, _below=below)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_below"], name)


@contextmanager
def _globals_of(function: FunctionType, **names: object) -> Iterator[None]:
    """Replace global names of the function's module while it runs; PyTorch itself is never touched."""
    namespace = function.__globals__
    before = {name: namespace[name] for name in names}
    namespace.update(names)
    try:
        yield
    finally:
        namespace.update(before)


def _mentions(function: object, name: str) -> bool:
    """Whether the function's own code uses the name. False for our wrappers, and where BasicSR has mended itself."""
    return isinstance(function, FunctionType) and name in function.__code__.co_names + function.__code__.co_consts


def _of(module: str, *names: str) -> Any:
    """What the path of names leads to in a module, or None: another BasicSR may lack any of them."""
    return functools.reduce(lambda found, name: getattr(found, name, None), names, sys.modules.get(module))


def _gpu() -> bool:
    """Asked when a mended function runs, never at import: asking starts CUDA, which makes later forks unsafe."""
    import torch

    return torch.cuda.is_available()


def _resume_anywhere(load_resume_state: FunctionType) -> Callable[..., Any]:
    import torch

    def load_on_cpu(path: str, **_: object) -> Any:
        return torch.load(path, map_location="cpu")

    @functools.wraps(load_resume_state)
    def wrapper(opt: dict[str, Any]) -> Any:
        if _gpu():
            return load_resume_state(opt)
        cuda = _Overlay(torch.cuda, current_device=lambda: 0)
        with _globals_of(load_resume_state, torch=_Overlay(torch, cuda=cuda, load=load_on_cpu)):
            return load_resume_state(opt)

    return wrapper


def _mend_resume_in(namespace: dict[str, Any]) -> None:
    function = namespace.get("load_resume_state")
    if _mentions(function, "current_device"):
        namespace["load_resume_state"] = _resume_anywhere(function)


def _parse_anywhere(parse_options: FunctionType) -> Callable[..., Any]:
    @functools.wraps(parse_options)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        # `python basicsr/train.py` runs that file as `__main__`: its load_resume_state is not basicsr.train's, and
        # is defined after we are called. But it calls this first.
        _mend_resume_in(sys._getframe(1).f_globals)
        sys.argv[1:] = [
            arg.replace("-rank", "_rank", 1) if arg.startswith("--local-rank") else arg for arg in sys.argv[1:]
        ]
        opt, parsed = parse_options(*args, **kwargs)
        for dataset in opt["datasets"].values():
            if dataset.get("prefetch_mode") == "cuda" and not _gpu():
                print("dscsr: no GPU is usable, so `prefetch_mode: cuda` is taken as `~`.", file=sys.stderr)
                dataset.update(prefetch_mode=None, pin_memory=False)
        return opt, parsed

    return wrapper


def _mend_parse_options() -> None:
    """For the pipelines of the installed package and, through ``basicsr.utils.options``, for a script's."""
    original = _of("basicsr.utils.options", "parse_options")
    mended = _parse_anywhere(original)
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "basicsr":
            if getattr(module, "parse_options", None) is original:
                module.parse_options = mended  # type: ignore[attr-defined]
            _mend_resume_in(vars(module))


def _init_anywhere(init: FunctionType) -> Callable[..., None]:
    import torch

    def set_device(index: int) -> None:
        if _gpu():  # LOCAL_RANK is right also where nodes have different numbers of GPUs
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", index)) % torch.cuda.device_count())

    @functools.wraps(init)
    def wrapper(backend: str, *args: Any, **kwargs: Any) -> None:
        cuda = _Overlay(torch.cuda, device_count=lambda: max(1, torch.cuda.device_count()), set_device=set_device)
        with _globals_of(init, torch=_Overlay(torch, cuda=cuda)):
            init(backend if _gpu() else "gloo", *args, **kwargs)

    return wrapper


def _mend_init_dist() -> None:
    module = sys.modules["basicsr.utils.dist_util"]
    for name in ("_init_dist_pytorch", "_init_dist_slurm"):
        if _mentions(getattr(module, name, None), "set_device"):
            setattr(module, name, _init_anywhere(getattr(module, name)))


def _mend_model_to_device() -> None:
    import torch
    from basicsr.models.base_model import BaseModel
    from torch.nn.parallel import DistributedDataParallel

    original = BaseModel.model_to_device

    def on_cpu(net: torch.nn.Module, device_ids: object = None, **kwargs: Any) -> DistributedDataParallel:
        return DistributedDataParallel(net, **kwargs)

    @functools.wraps(original)
    def model_to_device(self: Any, net: torch.nn.Module) -> torch.nn.Module:
        if self.device.type != "cpu":
            return original(self, net)
        cuda = _Overlay(torch.cuda, current_device=lambda: None)
        with _globals_of(original, torch=_Overlay(torch, cuda=cuda), DistributedDataParallel=on_cpu):
            return original(self, net)

    BaseModel.model_to_device = model_to_device


IMPORT_MENDS = (
    Mend(
        "torchvision",
        "its compiled operators cannot be loaded beside this build of torch, which stops its import",
        _torchvision_ops_missing,
        _import_torchvision_without_ops,
    ),
    Mend(
        "functional_tensor",
        "torchvision 0.17 and later have no transforms.functional_tensor, which BasicSR imports",
        _functional_tensor_missing,
        _supply_functional_tensor,
    ),
    Mend(
        "version",
        "this BasicSR clone has no basicsr/version.py, which only its setup.py writes",
        _version_missing,
        _supply_version,
    ),
)

RUN_MENDS = (
    Mend(
        "parse_options",
        "resuming and `prefetch_mode: cuda` need a GPU, and torch's `--local-rank` is refused",
        lambda: _mentions(_of("basicsr.utils.options", "parse_options"), "parse_args"),
        _mend_parse_options,
    ),
    Mend(
        "init_dist",
        "`--launcher` divides by the number of GPUs and takes the GPU of the global rank, not of LOCAL_RANK",
        lambda: _mentions(_of("basicsr.utils.dist_util", "_init_dist_pytorch"), "set_device"),
        _mend_init_dist,
    ),
    Mend(
        "model_to_device",
        "several processes need a GPU: DistributedDataParallel is given the current CUDA device",
        lambda: _mentions(_of("basicsr.models.base_model", "BaseModel", "model_to_device"), "current_device"),
        _mend_model_to_device,
    ),
)

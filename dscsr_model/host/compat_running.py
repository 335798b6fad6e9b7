"""What stops BasicSR's train and test loops without a GPU, or under torch's launchers; see `compat`.

No BasicSR code is repeated here: its functions run with a few of their global names replaced while they run.
"""

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any, TypeGuard

from dscsr_model.host import loop
from dscsr_model.host.patches import installed


class Overlay:
    """An object seen through: the given names are replaced, every other one is its own."""

    def __init__(self, below: object, **names: object) -> None:
        vars(self).update(names, _below=below)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_below"], name)


@contextmanager
def globals_of(function: FunctionType, **names: object) -> Iterator[None]:
    """Replace global names of the function's module while it runs; PyTorch itself is never touched."""
    namespace = function.__globals__
    before = {name: namespace[name] for name in names}
    namespace.update(names)
    try:
        yield
    finally:
        namespace.update(before)


def _mentions(function: object, name: str) -> TypeGuard[FunctionType]:
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
        cuda = Overlay(torch.cuda, current_device=lambda: 0)
        with globals_of(load_resume_state, torch=Overlay(torch, cuda=cuda, load=load_on_cpu)):
            return load_resume_state(opt)

    return wrapper


def _mend_resume_in(namespace: dict[str, Any]) -> None:
    function = namespace.get("load_resume_state")
    if _mentions(function, "current_device"):
        installed.set(namespace, "load_resume_state", _resume_anywhere(function))


def _parse_anywhere(parse_options: FunctionType) -> Callable[..., Any]:
    from dscsr_model.host import user_code

    @functools.wraps(parse_options)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        # `python basicsr/train.py` runs that file as `__main__`: its load_resume_state is not basicsr.train's, and
        # is defined after we are called. But it calls this first.
        namespace = sys._getframe(1).f_globals
        loop.leave()
        _mend_resume_in(namespace)
        if not _mentions(parse_options, "--local-rank"):
            sys.argv[1:] = [
                arg.replace("-rank", "_rank", 1) if arg.startswith("--local-rank") else arg for arg in sys.argv[1:]
            ]
        result = parse_options(*args, **kwargs)
        if not isinstance(result, tuple) or len(result) != 2:
            return result  # a project's own, which gives something else: its loop is not one that we know
        opt, parsed = result
        user_code.import_user_code(user_code.names(opt.get("import")), parsed.opt)
        for dataset in opt["datasets"].values():
            if dataset.get("prefetch_mode") == "cuda" and not _gpu():
                print("dscsr: no GPU is usable, so `prefetch_mode: cuda` is taken as `~`.", file=sys.stderr)
                dataset.update(prefetch_mode=None, pin_memory=False)
        loop.enter(namespace, opt, parsed)
        return result

    return wrapper


def parse_options_broken() -> bool:
    """Whether this is BasicSR's own: no release resumes or prefetches without a GPU, and it is how we meet its loop."""
    return _mentions(_of("basicsr.utils.options", "parse_options"), "parse_args")


def mend_parse_options() -> None:
    """Mend the pipelines of ``basicsr`` and, through ``basicsr.utils.options``, those of a script run later."""
    original = _of("basicsr.utils.options", "parse_options")
    mended = _parse_anywhere(original)
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "basicsr":
            if getattr(module, "parse_options", None) is original:
                installed.set(module, "parse_options", mended)
            _mend_resume_in(vars(module))


def _init_anywhere(init: FunctionType) -> Callable[..., None]:
    import torch

    def set_device(index: int) -> None:
        if _gpu():  # LOCAL_RANK is right also where nodes have different numbers of GPUs
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", index)) % torch.cuda.device_count())

    @functools.wraps(init)
    def wrapper(backend: str, *args: Any, **kwargs: Any) -> None:
        cuda = Overlay(torch.cuda, device_count=lambda: max(1, torch.cuda.device_count()), set_device=set_device)
        with globals_of(init, torch=Overlay(torch, cuda=cuda)):
            init(backend if _gpu() else "gloo", *args, **kwargs)

    return wrapper


def init_dist_broken() -> bool:
    """Whether starting distributed training chooses a GPU without asking whether there is one."""
    return _mentions(_of("basicsr.utils.dist_util", "_init_dist_pytorch"), "set_device")


def mend_init_dist() -> None:
    """Without a GPU, gloo; with one, the device of LOCAL_RANK."""
    module = sys.modules["basicsr.utils.dist_util"]
    for name in ("_init_dist_pytorch", "_init_dist_slurm"):
        if _mentions(getattr(module, name, None), "set_device"):
            installed.set(module, name, _init_anywhere(getattr(module, name)))


def model_to_device_broken() -> bool:
    """Whether DistributedDataParallel is built for the current CUDA device on any device."""
    return _mentions(_of("basicsr.models.base_model", "BaseModel", "model_to_device"), "current_device")


def mend_model_to_device() -> None:
    """On the CPU, DistributedDataParallel without device ids."""
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
        cuda = Overlay(torch.cuda, current_device=lambda: None)
        with globals_of(original, torch=Overlay(torch, cuda=cuda), DistributedDataParallel=on_cpu):
            return original(self, net)

    installed.set(BaseModel, "model_to_device", model_to_device)


def validation_broken() -> bool:
    """Whether rank 0 alone runs a DistributedDataParallel network, as BasicSR's own SRModel does to validate."""
    return _mentions(_of("basicsr.models.sr_model", "SRModel", "dist_validation"), "nondist_validation")


def mend_validation() -> None:
    """Rank 0 validates with the network itself, which waits for nobody."""
    from basicsr.models.sr_model import SRModel

    original = SRModel.dist_validation

    @functools.wraps(original)
    def dist_validation(self: Any, *args: Any, **kwargs: Any) -> Any:
        wrapped = self.net_g
        self.net_g = self.get_bare_model(wrapped)
        try:
            return original(self, *args, **kwargs)
        finally:
            self.net_g = wrapped

    installed.set(SRModel, "dist_validation", dist_validation)

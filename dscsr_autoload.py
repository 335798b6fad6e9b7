"""Lets stock BasicSR find this project: when somebody imports ``basicsr``, patch it first and register afterwards.

``dscsr_autoload.pth`` puts a finder in front of every Python's ``sys.meta_path`` in the environment. It imports
nothing, this module included, until somebody imports ``basicsr``; then it asks `find_spec` below.
``DSCSR_AUTOLOAD=0`` switches it off.
"""

import os
import sys
from functools import partial

_HOST = "basicsr"
_busy = False
_warned = False


def find_spec(fullname, path=None, target=None):
    """The other finders' spec of ``basicsr``, with a step added before and after its execution.

    Nothing happens yet: whoever only looks for the module gets its spec and no more.
    """
    global _busy
    if fullname != _HOST or _busy or not _wanted():
        return None
    _busy = True  # the loop below meets our own finder again, and perhaps another that asks all, as this one does
    try:
        finders = [finder for finder in sys.meta_path if hasattr(finder, "find_spec")]
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in finders)), None)
    finally:
        _busy = False
    loader = getattr(spec, "loader", None)
    if hasattr(loader, "exec_module") and hasattr(loader, "__dict__"):
        loader.exec_module = partial(_exec_module, loader)  # unlike a closure, a partial can be pickled
    return spec


def _wanted():
    if os.environ.get("DSCSR_AUTOLOAD") != "0":
        return True
    # Switched off, but a program called dscsr_model.register() itself: its data-loader workers, spawned or from a fork
    # server, import BasicSR anew and need the same patches.
    return "DSCSR_REGISTERED" in os.environ and _is_worker()


def _is_worker():
    """Whether multiprocessing started this process, also while it still unpickles what it is to do."""
    process = sys.modules.get("multiprocessing.process")
    if process is None:
        return False
    return process.parent_process() is not None or getattr(process.current_process(), "_inheriting", False)


def _exec_module(loader, module):
    """Stands in for ``loader.exec_module`` until it has executed ``basicsr`` once."""
    if module.__name__ != _HOST:  # a loader may be shared between modules
        return type(loader).exec_module(loader, module)
    vars(loader).pop("exec_module", None)  # from here on the loader is as its finder made it
    try:
        from dscsr_model.host import compat

        compat.patch_imports()
    except Exception as error:
        _warn("mend BasicSR's imports", error)
    result = loader.exec_module(module)
    try:
        import dscsr_model

        dscsr_model.register()
    except Exception as error:
        _warn("register its networks with BasicSR", error)
    return result


def _warn(doing, error):
    """One line on stderr, once: a fault of ours must never keep somebody from importing BasicSR."""
    global _warned
    if not _warned:
        _warned = True
        print(
            f"dscsr: could not {doing} ({type(error).__name__}: {error}). BasicSR goes on without dscsr; "
            "`dscsr doctor` says more, DSCSR_AUTOLOAD=0 switches this off.",
            file=sys.stderr,
        )

"""Lets stock BasicSR find this project: when somebody imports ``basicsr``, mend it first and register afterwards.

Every Python start in the environment imports this module (``dscsr_autoload.pth``), so it touches nothing but
``sys`` and ``os``, which are loaded by then, and does nothing until ``basicsr`` itself is executed.
``DSCSR_AUTOLOAD=0`` switches it off.
"""

import os
import sys

_HOST = "basicsr"
_warned = False


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


def _exec_module(loader, module):
    """Stands in for ``loader.exec_module`` until it has executed ``basicsr`` once."""
    if module.__name__ != _HOST:  # a loader may be shared between modules
        return type(loader).exec_module(loader, module)
    vars(loader).pop("exec_module", None)  # from here on the loader is as its finder made it
    try:
        from dscsr_model.host import compat

        compat.mend_imports()
    except Exception as error:
        _warn("mend BasicSR's imports", error)
    result = loader.exec_module(module)
    try:
        import dscsr_model

        dscsr_model.register()
    except Exception as error:
        _warn("register its networks with BasicSR", error)
    return result


class BasicSRFinder:
    """Meta-path finder that leaves finding to the others and only adds a step before and after executing."""

    def __init__(self):
        self._busy = False

    def find_spec(self, fullname, path=None, target=None):
        """The others' spec of ``basicsr`` with its loader's ``exec_module`` wrapped; None for every other module."""
        if fullname != _HOST or self._busy:
            return None
        self._busy = True  # another finder may ask all finders, as this one does
        try:
            spec = self._ask_the_others(fullname, path, target)
        finally:
            self._busy = False
        loader = getattr(spec, "loader", None)
        if hasattr(loader, "exec_module") and hasattr(loader, "__dict__") and "exec_module" not in vars(loader):
            from functools import partial  # a partial can be pickled, a closure cannot

            loader.exec_module = partial(_exec_module, loader)
        return spec

    def _ask_the_others(self, fullname, path, target):
        for finder in list(sys.meta_path):
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    return spec
        return None


def is_active():
    """Whether the finder stands in ``sys.meta_path``."""
    return any(isinstance(finder, BasicSRFinder) for finder in sys.meta_path)


def _wanted():
    if os.environ.get("DSCSR_AUTOLOAD") != "0":
        return True
    # Switched off, but the parent called dscsr_model.register() itself: its spawned data-loader workers import
    # BasicSR anew and need the same mends.
    return os.environ.get("DSCSR_REGISTERED_IN") == str(os.getppid())


if _wanted() and not is_active():
    sys.meta_path.insert(0, BasicSRFinder())

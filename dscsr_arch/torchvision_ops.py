"""Import torchvision beside a build of torch for which its compiled operators cannot be loaded.

An index that has torch for CPUs only may have torchvision for all builds. Its import then stops where it describes
operators that are not there: ``operator torchvision::nms does not exist``. BasicSR and spandrel use none of them.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any


def operators_missing() -> bool:
    """Whether importing torchvision fails because its compiled operators could not be loaded."""
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return False  # not installed: who needs it says so
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        return True
    return False


def import_without_operators() -> None:
    """Import torchvision again while descriptions of operators that do not exist are let pass."""
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

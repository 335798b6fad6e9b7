"""The user's own networks, losses, datasets and models: files and modules that ``import:`` of an option file names.

A file is imported under its own name with its folder on ``sys.path``, as if it lay beside the program. Processes that
are spawned get that path from Python, so what a dataset is unpickled from is found there under the same name.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable
from multiprocessing import current_process, parent_process
from pathlib import Path
from types import TracebackType

from dscsr_arch.errors import DscsrError
from dscsr_model.host.options.faults import did_you_mean

_IMPORTED = "DSCSR_IMPORTED"
"""Environment variable with the modules that processes spawned from here import too."""


def names(value: object) -> list[str]:
    """What an ``import:`` of an option file names: nothing, one, or a list; other values name nothing."""
    listed = value if isinstance(value, list) else [value]
    return [name for name in listed if isinstance(name, str) and name]


def import_user_code(code: Iterable[str], option_file: str | os.PathLike[str]) -> None:
    """Import files and modules, each once in a process; processes that it spawns do the same.

    Files (``my_loss.py``, ``archs/mine.py``) are looked for in the option file's folder, then in the working directory;
    modules (``hat.archs``) in the working directory too.

    Raises:
        DscsrError: One is not there, or raises an error of its own, which the message shows.
    """
    folder = Path(option_file).parent
    for name in code:
        is_file = name.endswith(".py") or "/" in name
        if not is_file:
            _look_in(Path.cwd())
        module = _module_of(name, folder) if is_file else name
        _import(name, module, folder)
        os.environ[_IMPORTED] = os.pathsep.join(dict.fromkeys([*_imported(), module]))


def import_again() -> None:
    """In a process that multiprocessing spawned, import what its parent has imported; elsewhere do nothing."""
    if parent_process() is not None or getattr(current_process(), "_inheriting", False):
        for module in _imported():
            importlib.import_module(module)


def _imported() -> list[str]:
    return [module for module in os.environ.get(_IMPORTED, "").split(os.pathsep) if module]


def _module_of(name: str, folder: Path) -> str:
    """The name under which a file can be imported, from here on."""
    looked = dict.fromkeys(place / Path(name).expanduser() for place in (folder, Path()))
    file = next((path.absolute() for path in looked if path.is_file()), None)
    if file is None:
        near = [other.name for path in looked for other in path.parent.glob("*.py")]
        remedy = did_you_mean(Path(name).name, near, "Correct the path.")
        got = " or ".join(f"'{path}'" for path in looked)
        raise DscsrError("a file of yours", f"{got}, which does not exist", remedy)
    if "." in file.stem:
        raise DscsrError("a file that can be imported by its name", f"'{file.name}'", "Rename it.")
    root, parts = file.parent, [file.stem]
    while (root / "__init__.py").is_file():  # a file of a package belongs to it, or its relative imports fail
        parts.insert(0, root.name)
        root = root.parent
    _look_in(root)
    spec = importlib.util.find_spec(parts[0])
    origin = spec.origin if spec is not None and spec.origin else "a folder of that name"
    if Path(origin).resolve() != (file if len(parts) == 1 else root / parts[0] / "__init__.py").resolve():
        got = f"'{file.name}', while `{parts[0]}` is {origin}"
        raise DscsrError("a file whose name no other module has", got, "Rename it.")
    return ".".join(parts).removesuffix(".__init__")


def _look_in(folder: Path) -> None:
    if not any(Path(entry).resolve() == folder.resolve() for entry in sys.path):
        sys.path.append(str(folder.resolve()))  # last: what is installed keeps its name
        importlib.invalidate_caches()


def _import(name: str, module: str, folder: Path) -> None:
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is None or not f"{module}.".startswith(f"{missing}."):
            raise _failed(name, error) from error
        remedy = "Start where it lies, or install it; a file is named with its `.py`."
        if (folder / f"{module}.py").is_file():
            remedy = f"Did you mean the file `{module}.py`?"
        expected = f"a module of yours in {Path.cwd()} or among what is installed"
        raise DscsrError(expected, f"`{name}`, and there is no `{missing}`", remedy) from error


def _failed(name: str, error: BaseException) -> DscsrError:
    importing = (
        __file__,
        importlib.__file__,
        "<frozen importlib._bootstrap>",
        "<frozen importlib._bootstrap_external>",
    )
    inside: TracebackType | None = error.__traceback__
    while inside is not None and inside.tb_frame.f_code.co_filename in importing:
        inside = inside.tb_next
    shown = "".join(traceback.format_exception(type(error), error.with_traceback(inside), inside, chain=False)).rstrip()
    return DscsrError(f"Expected `{name}` to be imported, but it raises an error of its own:\n{shown}")

"""What to tell somebody whose environment lacks BasicSR. Standard library only: ``dscsr doctor`` runs anywhere."""

import importlib.util
import re
import sys
from importlib import metadata
from pathlib import Path

from dscsr_arch.errors import UnavailableError

HOW_TO_INSTALL = """\
Install it into an environment of Python 3.10 to 3.14 that has torch:
  pip install torch torchvision
  python -m dscsr_model.host.install_basicsr"""


def package_version(package: str) -> str | None:
    """The version of a package in this environment; None if it is not there."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def look_into_working_directory() -> None:
    """Let a ``basicsr`` folder here come before an installed one, as for ``python -m`` and projects' own scripts."""
    here = str(Path.cwd())
    if Path("basicsr", "__init__.py").is_file() and here not in sys.path:
        sys.path.insert(0, here)
        importlib.invalidate_caches()


def find_basicsr() -> Path | None:
    """Folder of the BasicSR package that ``import basicsr`` would take, or None. Nothing is imported."""
    spec = importlib.util.find_spec("basicsr")
    # A folder of that name without __init__.py is a namespace package: importable, and empty.
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def version_of(folder: Path | None) -> str:
    """What a BasicSR folder says of its version, in the file that its setup.py writes or in the one that it reads."""
    if folder is None:
        return "unknown"
    written, read = folder / "version.py", folder.parent / "VERSION"
    if written.is_file():
        found = re.search(r"""^__version__\s*=\s*['"](.+?)['"]""", written.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return found[1]
    return read.read_text(encoding="utf-8").strip() if read.is_file() else "unknown"


def require_basicsr() -> None:
    """Raise, with the way out, unless ``import basicsr`` would find BasicSR."""
    if find_basicsr() is not None:
        return
    spec = importlib.util.find_spec("basicsr")
    if spec is None or not spec.submodule_search_locations:
        raise UnavailableError("BasicSR to be installed", "no module named `basicsr`", HOW_TO_INSTALL)
    folder = Path(next(iter(spec.submodule_search_locations)))
    met = f"{folder}, version {version_of(folder)}, which has no `__init__.py` and no registries to put networks into"
    raise UnavailableError("BasicSR 1.3.4.8 or later", met, HOW_TO_INSTALL)

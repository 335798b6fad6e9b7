"""What to tell somebody whose environment lacks BasicSR. Standard library only: ``dscsr doctor`` runs anywhere."""

import importlib.util
from pathlib import Path

from dscsr_arch.errors import DscsrError

HOW_TO_INSTALL = """\
Install it in this order (torch first, or its build downloads a second one):
  python3.11 -m venv .venv && . .venv/bin/activate      (Python 3.10, 3.11 or 3.12)
  pip install torch==2.13.0 torchvision==0.28.0
  pip install --upgrade "setuptools>=77" wheel cython numpy
  pip install --no-build-isolation basicsr==1.4.2
  pip install --no-build-isolation .                    (in the folder of dscsr)"""


class BasicSRMissingError(DscsrError):
    """BasicSR is not importable from here."""


def find_basicsr() -> Path | None:
    """Folder of the BasicSR package that ``import basicsr`` would take, or None. Nothing is imported."""
    spec = importlib.util.find_spec("basicsr")
    # A folder of that name without __init__.py is a namespace package: importable, and empty.
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def require_basicsr() -> None:
    """Raise, with the way out, unless ``import basicsr`` would find BasicSR."""
    if find_basicsr() is not None:
        return
    if Path("basicsr", "__init__.py").is_file():
        raise BasicSRMissingError(
            "Expected BasicSR to be importable, but got only a folder `basicsr` here that Python does not look into. "
            "Start with `PYTHONPATH=. dscsr …` to use that clone."
        )
    raise BasicSRMissingError(f"Expected BasicSR to be installed, but got no module named `basicsr`. {HOW_TO_INSTALL}")

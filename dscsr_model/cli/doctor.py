"""``dscsr doctor``: what is installed, what was mended and why, whether a GPU is usable, what to do about the rest.

Only the standard library is needed to start it: it runs where torch or BasicSR are missing.
"""

import argparse
import os
import platform
import re
import shutil
import sys
import traceback
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from dscsr_arch.errors import DscsrError, UnavailableError
from dscsr_arch.words import many
from dscsr_model.host import install_help
from dscsr_model.host.install_help import package_version

PYTHONS = ((3, 10), (3, 14))
PACKAGES = (
    *("torch", "torchvision", "numpy", "opencv-python", "openimageio", "pillow", "lmdb", "pyyaml", "pydantic"),
    *("safetensors", "filelock", "tabulate", "tqdm"),
)
"""What nothing runs without: our dependencies in pyproject.toml, and torchvision, which BasicSR imports."""
EXTRAS = {
    "onnx": ("onnx", "onnxruntime"),
    "openvino": ("openvino",),
    "profile": ("fvcore", "matplotlib"),
    "spandrel": ("spandrel",),
    "losses": ("pytorch-msssim",),
}
"""Packages that some commands want, by the extra of ours that brings them (pyproject.toml)."""
OTHER_OPENCVS = ("opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")


class Finding(NamedTuple):
    """One line of the report; with a remedy, something is not right."""

    name: str
    says: str
    remedy: str = ""


def add_parser(subparsers: Any) -> None:
    """Add the command to the ``dscsr`` parser."""
    parser = subparsers.add_parser(
        "doctor",
        help="examine this environment and say what to mend",
        description="Examine this environment. The exit code is 1 when something is not right.",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the report; 1 when something is not right."""
    wrong = 0
    for finding in examine():
        wrong += bool(finding.remedy)
        print(f"{'!!' if finding.remedy else 'ok'}  {finding.name:<14}{finding.says}")
        for line in finding.remedy.splitlines():
            print(f"      {line}")
    print(f"\n{many(wrong, 'thing')} to mend, marked !! above." if wrong else "\nAll is well.")
    return int(wrong > 0)


def examine() -> Iterator[Finding]:
    """Every finding, in the order in which one would mend them."""
    install_help.look_into_working_directory()
    yield _python()
    yield from map(_package, PACKAGES)
    yield _pair()
    yield Finding("dscsr", installed_version())
    yield from (_extra(*each) for each in EXTRAS.items())
    yield _autoload()
    yield from _basicsr()
    yield from _passed_over()
    yield _gpu()


def installed_version() -> str:
    """Ours, and where it is."""
    return f"{package_version('dscsr') or 'not installed, run from its folder'} ({Path(__file__).parents[2]})"


def _python() -> Finding:
    fits = PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]
    remedy = "" if fits else "Use Python 3.10 to 3.14 in a new environment."
    return Finding("python", f"{platform.python_version()} ({sys.executable})", remedy)


def _package(name: str) -> Finding:
    names = [name, *(OTHER_OPENCVS if name == "opencv-python" else ())]
    for each in names:
        if version := package_version(each):
            oldest = _oldest(name)
            if _release(version) >= _release(oldest):
                return Finding(name, version)
            beside = " torchvision" if name == "torch" else ""
            return Finding(name, f"{version}, older than {oldest}", f"pip install --upgrade '{each}>={oldest}'{beside}")
    if name in ("torch", "torchvision"):  # one without the other would bring whichever release is the newest
        remedy = f"pip install torch torchvision    (together, and before BasicSR: its build needs {name})"
        return Finding(name, "not installed", remedy)
    return Finding(name, "not installed", f"pip install {name}")


def _oldest(name: str) -> str:
    """The oldest version of a package that we take, as our own requirements tell it."""
    try:
        required = metadata.requires("dscsr") or ()
    except metadata.PackageNotFoundError:  # run from its folder
        required = ()
    return next((r.removeprefix(f"{name}>=") for r in required if r.startswith(f"{name}>=")), "0")


def _release(version: str) -> list[int]:
    """The numbers of a version: (2, 13, 0) of ``2.13.0+cpu``."""
    return [int(number) for number in re.findall(r"\d+", version.partition("+")[0])]


def _extra(extra: str, names: tuple[str, ...]) -> Finding:
    """What nobody needs who only trains; missing, it is no fault."""
    found = {name: package_version(name) for name in names}
    there = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    missing = ", ".join(name for name, version in found.items() if version is None)
    hint = f"{missing} not installed (optional): pip install 'dscsr[{extra}]'" if missing else ""
    return Finding(f"[{extra}]", "; ".join(filter(None, (there, hint))))


def _pair() -> Finding:
    torch, torchvision = package_version("torch"), package_version("torchvision")
    if torch is None or torchvision is None:
        return Finding("torch pair", "cannot be judged: torch or torchvision is missing")
    # torchvision names the one torch it was built for, as `torch==2.13.0`.
    wanted = next((r.partition("==")[2] for r in metadata.requires("torchvision") or () if r.startswith("torch==")), "")
    release, _, build = torch.partition("+")
    if wanted and release != wanted:
        remedy = f"torchvision {torchvision} was built for torch {wanted}: pip install torch=={wanted}"
        return Finding("torch pair", f"torch {torch} beside torchvision {torchvision}", remedy)
    from dscsr_model.host import compat

    try:
        compat.patch_imports()
        fault = "only with dscsr's mend" if any(patch.name == "torchvision" for patch in compat.applied()) else ""
    except Exception as error:
        fault = f"not at all ({type(error).__name__}: {error})"
    if not fault:
        return Finding("torch pair", "torch and torchvision belong together")
    index = f" --index-url https://download.pytorch.org/whl/{build}" if build else ""
    remedy = (
        "They are of two indexes: other programs cannot import torchvision. Take it from where torch comes from:\n"
        f"pip install --force-reinstall --no-deps torchvision=={torchvision.partition('+')[0]}{index}"
    )
    return Finding("torch pair", f"torchvision {torchvision} can be imported beside torch {torch} {fault}", remedy)


def _autoload() -> Finding:
    if os.environ.get("DSCSR_AUTOLOAD") == "0":
        return Finding("autoload", "off (DSCSR_AUTOLOAD=0): call dscsr_model.register() before importing basicsr")
    if any(getattr(finder, "__name__", "") == "DscsrAutoload" for finder in sys.meta_path):
        return Finding("autoload", "on: whoever imports basicsr gets dscsr's networks")
    remedy = "Install dscsr into this environment, or call dscsr_model.register() before importing basicsr."
    return Finding("autoload", "off: this Python has not read dscsr_autoload.pth", remedy)


def _basicsr() -> Iterator[Finding]:
    try:
        install_help.require_basicsr()
        from dscsr_model.host import compat, registration

        registration.register()
    except UnavailableError as error:
        yield Finding("basicsr", "not usable", str(error))
        return
    except DscsrError as error:
        where = traceback.extract_tb((error.__cause__ or error).__traceback__)[-1]
        yield Finding("basicsr", "not usable", f"{error}\nThe error comes from {where.filename}, line {where.lineno}.")
        return
    folder = install_help.find_basicsr()
    yield Finding("basicsr", f"{install_help.version_of(folder)} ({folder})")
    for patch in compat.applied():
        yield Finding("  mended", f"{patch.name}: {patch.why}")
    for name, registered in registration.registered_names().items():
        yield Finding("  registered", name if registered == name else f"{name} as {registered}: the name was taken")


def _passed_over() -> Iterator[Finding]:
    """A project's own BasicSR of 1.2 and before: where another is installed, Python takes that, in silence."""
    here, taken = Path("basicsr").absolute(), install_help.find_basicsr()
    if taken is not None and (here / "models").is_dir() and not (here / "__init__.py").exists():
        remedy = (
            f"It has no `__init__.py`, so whatever starts here gets {taken}, and dscsr\n"
            "works with that. What the folder defines is in no registry: option files do not know its networks until\n"
            "a file of yours, named with `import:`, registers them."
        )
        yield Finding("basicsr", f"{install_help.version_of(here)} ({here}) is passed over", remedy)


def _gpu() -> Finding:
    on_cpu = "everything runs on the CPU"
    try:
        import torch
    except Exception as error:
        return Finding("gpu", f"cannot be judged: torch cannot be imported ({type(error).__name__}: {error})")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.cuda.init()
            torch.ones(1, device="cuda").add_(1).cpu()
        devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return Finding("gpu", "usable: " + ", ".join(f"{d.name} ({d.total_memory / 2**30:.0f} GiB)" for d in devices))
    except Exception as error:
        reason = str(error).partition("\n")[0]
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return Finding("gpu", f"hidden by CUDA_VISIBLE_DEVICES: {on_cpu}")
    if shutil.which("nvidia-smi") is None and not Path("/dev/nvidia0").exists():
        return Finding("gpu", f"none on this machine: {on_cpu}")
    if (cuda := torch.version.cuda) is None:
        remedy = "Install a CUDA build of torch and torchvision (pytorch.org, Get Started) to use it."
        return Finding("gpu", f"there is one, but this torch is a CPU build: {on_cpu}", remedy)
    remedy = f"torch is built for CUDA {cuda}: check the driver with nvidia-smi, or install a torch that fits it."
    return Finding("gpu", f"there is one, but torch cannot use it ({reason}): {on_cpu}", remedy)

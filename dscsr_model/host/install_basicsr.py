"""``python -m dscsr_model.host.install_basicsr [VERSION]``: BasicSR for the environment of this Python.

BasicSR's ``setup.py`` imports torch, for which pip's isolated build downloads a second one, and from Python 3.13 on it
ends with ``KeyError: '__version__'``. Here it is built beside the torch that is there, which stays as it is, with build
tools in a folder that goes away again. Only the standard library is needed: in its folder, dscsr need not be installed.
"""

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dscsr_arch.errors import DscsrError, UnavailableError
from dscsr_model.host.install_help import package_version

VERSION = "1.4.2"

BUILD_TOOLS = ("setuptools>=77", "cython")

SITECUSTOMIZE = '''\
"""For the build of BasicSR alone: its setup.py calls exec() in a function and looks for the result in locals()."""
import builtins
import sys

builtin_exec = builtins.exec


def exec(code, globals=None, locals=None, **closure):
    """exec() without namespaces writes into its caller's, in functions too: up to Python 3.12 it did."""
    if globals is None:
        caller = sys._getframe(1)
        globals, locals = caller.f_globals, caller.f_locals if locals is None else locals
    builtin_exec(code, globals, locals, **closure)


builtins.exec = exec
'''


def main(argv: Sequence[str] | None = None) -> int:
    """Install BasicSR; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m dscsr_model.host.install_basicsr",
        description=f"Install BasicSR {VERSION}, or the VERSION that you name, beside the torch that is installed.",
        epilog="Options of pip are taken from its environment variables: PIP_INDEX_URL, PIP_CONSTRAINT, …",
    )
    parser.add_argument("version", nargs="?", metavar="VERSION", help="one of BasicSR's releases on the package index")
    wanted = parser.parse_args(argv).version
    try:
        install(wanted)
    except DscsrError as error:
        print(f"dscsr: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("dscsr: interrupted", file=sys.stderr)
        return 130
    return 0


def install(wanted: str | None) -> None:
    """Build and install that release; without one named, the default, unless there is any.

    Raises:
        DscsrError: There is no torch or pip, the version is none, or pip fails.
    """
    if wanted is None and (there := package_version("basicsr")):
        print(f"BasicSR {there} is installed. To replace it, name a version: install_basicsr {VERSION}")
        return
    version = wanted or VERSION
    if not re.fullmatch(r"\d[\w.]*", version):
        raise DscsrError("VERSION to be a release of BasicSR", f"'{version}'", f"Write it as {VERSION}.")
    if importlib.util.find_spec("torch") is None:
        remedy = "Run `pip install torch torchvision` first: BasicSR's build imports torch."
        raise UnavailableError("torch to be installed", f"none in the environment of {sys.executable}", remedy)
    if importlib.util.find_spec("pip") is None:
        remedy = f"Run `{sys.executable} -m ensurepip`, or with uv `uv pip install pip`."
        raise UnavailableError("pip to be installed", f"none in the environment of {sys.executable}", remedy)
    torch = package_version("torch")
    requirement = f"basicsr=={version}"
    with tempfile.TemporaryDirectory(prefix="install_basicsr_") as folder:
        tools, wheels, pins = Path(folder, "tools"), Path(folder, "wheels"), Path(folder, "pins.txt")
        pins.write_text(f"torch=={torch}\n" if torch else "", encoding="utf-8")
        print(f"Building BasicSR {version} beside torch {torch or 'of a source tree'}", flush=True)
        numpy = () if importlib.util.find_spec("numpy") else ("numpy",)  # that of the environment, where it has one
        _pip("install", "--quiet", "--target", tools, *BUILD_TOOLS, *numpy)
        Path(tools, "sitecustomize.py").write_text(SITECUSTOMIZE, encoding="utf-8")
        path = os.pathsep.join(filter(None, (str(tools), os.environ.get("PYTHONPATH"))))
        _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, requirement, PYTHONPATH=path)
        # A wheel that is only linked to leaves no path of this folder in what `pip freeze` says.
        _pip("install", "--find-links", wheels, "--only-binary", "basicsr", "--constraint", pins, requirement)
    print(f"BasicSR {version} is installed.")


def _pip(*arguments: str | Path, **variables: str) -> None:
    """Run pip and show what it says; when it fails, end with what to do about it."""
    command = [sys.executable, "-m", "pip", *map(str, arguments)]
    env = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **variables}
    said = ""
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            said += line
    if process.returncode:
        got = f"exit code {process.returncode}; it says why above"
        raise DscsrError(f"`pip {arguments[0]}` to install BasicSR", got, _remedy(said))


def _remedy(said: str) -> str:
    """What to do when pip fails with such words."""
    if "externally-managed-environment" in said:
        return "Work in a virtual environment: python3 -m venv .venv && . .venv/bin/activate"
    if re.search(r"connection|max retries", said, re.IGNORECASE):
        return "Check the way to the package index, or name another that this machine reaches: PIP_INDEX_URL=https://…"
    if "No matching distribution found for basicsr" in said:
        return "Name a release of those that pip lists above."
    if re.search(r"metadata-generation-failed|Failed (to build|building)|exited with error", said):
        return f"BasicSR's own build failed: name another release ({VERSION} is tried on Python 3.10 to 3.14)."
    return "Mend that, then run this again: nothing was changed."


if __name__ == "__main__":
    sys.exit(main())

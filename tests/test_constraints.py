"""`constraints.txt` on every Python that we name: it can be installed, and pins all that is installed.

By uv, since pip reads the markers of another version's requirements with its own Python. Only metadata is downloaded.
"""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from conftest import ROOT

UV = Path(sys.executable).with_name("uv")
INSTALLED = ("torch", "torchvision", "setuptools", "cython", "basicsr")
"""What the Makefile installs beside our own dependencies."""
SDISTS = ("basicsr", "fvcore", "iopath")
"""What has no wheels; their requirements are read from the installed ones, for no build tells them here."""
OF_TORCH = re.compile(r"(nvidia|cuda)-|triton$")
"""What a torch for GPUs brings, which pins it itself."""


def names(lines: str) -> set[str]:
    pins = re.findall(r"^([\w.-]+)(?:\[\w+\])?==", lines, flags=re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower() for name in pins}


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_constraints_resolve(tmp_path, python):
    if not UV.exists():
        pytest.skip("needs uv (extra: lint)")
    told = [f"[[dependency-metadata]]\nname = {name!r}\nrequires-dist = {metadata.requires(name)}\n" for name in SDISTS]
    (tmp_path / "uv.toml").write_text("".join(told))
    command = (
        *(UV, "--config-file", tmp_path / "uv.toml", "pip", "compile", "-", "pyproject.toml"),
        *("--extra", "test", "--extra", "lint", "--constraint", "constraints.txt", "--no-header", "--no-annotate"),
        *("--python", sys.executable, "--no-python-downloads"),
        *("--python-version", python, "--python-platform", "x86_64-manylinux_2_28"),
        *("--only-binary", ":all:", *(word for name in SDISTS for word in ("--no-binary", name))),
    )
    done = subprocess.run(
        command, input="\n".join(INSTALLED), cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode and re.search(r"Failed to fetch|error sending request|dns error", done.stderr):
        pytest.skip(f"no package index: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    resolved = {name for name in names(done.stdout) if not OF_TORCH.match(name)}
    assert {"torch", "basicsr", "pytest"} <= resolved
    assert resolved - names((ROOT / "constraints.txt").read_text()) == set()


def test_pythons_are_named_alike():
    """In pyproject.toml, by the doctor and for the Makefile."""
    from dscsr_model.cli import doctor

    project = (ROOT / "pyproject.toml").read_text()
    (first, last) = doctor.PYTHONS
    assert f'requires-python = ">=3.{first[1]},<3.{last[1] + 1}"' in project
    named = re.findall(r'"Programming Language :: Python :: 3\.(\d+)"', project)
    assert [*map(int, named)] == [*range(first[1], last[1] + 1)]
    assert f"{first} <= sys.version_info[:2] <= {last}" in (ROOT / ".ci/find_python").read_text()

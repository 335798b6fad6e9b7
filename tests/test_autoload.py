"""The autoload, with small stand-ins for BasicSR and for our package that print when they are touched."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

PTH = ROOT / "dscsr_autoload.pth"
BASICSR = "print('basicsr executed')\n"
DSCSR = "def register():\n    import basicsr\n    print('registered')\n"
COMPAT = "def patch_imports():\n    print('mended')\n"


@pytest.fixture
def run(tmp_path: Path):
    """Run code in a bare Python that has only our ``.pth``, our autoload module and the stand-ins on its path."""
    site = tmp_path / "site"
    write(site, "basicsr/__init__.py", BASICSR)
    write(site, "dscsr_model/__init__.py", DSCSR)
    write(site, "dscsr_model/host/__init__.py", "")
    write(site, "dscsr_model/host/compat.py", COMPAT)
    write(site, "dscsr_autoload.py", (ROOT / "dscsr_autoload.py").read_text())
    write(site, PTH.name, PTH.read_text())

    def run(code: str, *, stderr: str = "", **env: str) -> list[str]:
        start = f"import site, sys; sys.path.insert(0, {str(site)!r}); site.addsitedir({str(site)!r})\n"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DSCSR_")}
        command = [sys.executable, "-IBS", "-c", start + code]
        done = subprocess.run(command, env=clean | env, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        assert stderr in done.stderr if stderr else not done.stderr, done.stderr
        run.stderr = done.stderr
        return done.stdout.split("\n")[:-1]

    run.site = site
    return run


def write(folder: Path, name: str, text: str) -> None:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


ALL_STEPS = ["mended", "basicsr executed", "registered"]


def test_a_start_imports_nothing_and_looking_for_basicsr_does_nothing(run):
    code = """
print(sorted(set(sys.modules) & {'dscsr_autoload', 'dscsr_model', 'importlib.util', 'functools'}))
import importlib.util
print(importlib.util.find_spec('basicsr').name, 'dscsr_model' in sys.modules)
"""
    assert run(code) == ["[]", "basicsr False"]


def test_importing_basicsr_or_a_module_of_it_mends_before_and_registers_after(run):
    write(run.site, "basicsr/train.py", "print('train')")
    code = "import basicsr.train, importlib; print('reload'); importlib.reload(basicsr)"
    assert run(code) == [*ALL_STEPS, "train", "reload", *ALL_STEPS]


def test_the_spec_is_as_its_finder_made_it(run):
    code = """
import copy, importlib.machinery, importlib.util, pickle
found = importlib.util.find_spec('basicsr')
copies = pickle.loads(pickle.dumps(found)), copy.deepcopy(found)
import basicsr
plain = importlib.machinery.PathFinder.find_spec('basicsr')
assert basicsr.__spec__.origin == plain.origin and basicsr.__path__ == plain.submodule_search_locations
assert type(basicsr.__loader__) is type(plain.loader) and vars(basicsr.__loader__) == vars(plain.loader)
pickle.loads(pickle.dumps(basicsr.__spec__))
module = importlib.util.module_from_spec(copies[0])
print('copy')
copies[0].loader.exec_module(module)
"""
    assert run(code) == [*ALL_STEPS, "copy", *ALL_STEPS]


WORKER = """
import multiprocessing
code = "import site; site.addsitedir(" + repr(sys.path[0]) + "); import basicsr"
worker = multiprocessing.get_context({!r}).Process(target=exec, args=(code,))
worker.start()
worker.join()
"""


@pytest.mark.parametrize(
    ("value", "registered", "code", "on"),
    [
        ("0", False, "import basicsr", False),
        ("1", False, "import basicsr", True),
        ("", False, "import basicsr", True),
        ("0", True, "import basicsr", False),  # a program that one which has called register() starts
        ("0", True, WORKER.format("spawn"), True),
        ("0", True, WORKER.format("forkserver"), True),
        ("0", False, WORKER.format("forkserver"), False),
    ],
)
def test_switch(run, value, registered, code, on):
    """Switched off, it stays on for the workers of a process that called register() itself."""
    env = {"DSCSR_AUTOLOAD": value, **({"DSCSR_REGISTERED": "1"} if registered else {})}
    assert run(code, **env) == (ALL_STEPS if on else ["basicsr executed"])


def test_a_failed_import_can_be_tried_again(run):
    write(run.site, "basicsr/__init__.py", "import os\nprint('basicsr executed')\nos.environ['READY']\n")
    code = """
import os
try:
    import basicsr
except KeyError as error:
    print(repr(error))
os.environ['READY'] = 'yes'
import basicsr
"""
    assert run(code) == ["mended", "basicsr executed", "KeyError('READY')", *ALL_STEPS]


@pytest.mark.parametrize(
    ("broken", "told", "mended"),
    [
        ("register", "register its networks with BasicSR (ValueError: no luck). BasicSR goes on without dscsr", True),
        ("package", "No module named 'dscsr_model'", False),
    ],
)
def test_a_fault_of_ours_is_told_once_and_basicsr_works(run, broken, told, mended):
    if broken == "register":
        write(run.site, "dscsr_model/__init__.py", "def register():\n    raise ValueError('no luck')\n")
    else:
        shutil.rmtree(run.site / "dscsr_model")
    code = "import importlib, basicsr; importlib.reload(basicsr)"
    assert run(code, stderr=told) == ["mended", "basicsr executed"][not mended :] * 2
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize("left", ["nothing", "garbage"])
def test_a_half_removed_installation_says_nothing(run, left):
    (run.site / "dscsr_autoload.py").unlink()
    if left == "garbage":
        write(run.site, "dscsr_autoload.py", "def find_spec(")
    assert run("import basicsr") == ["basicsr executed"]


def test_without_basicsr_its_absence_is_reported_as_ever(run):
    shutil.rmtree(run.site / "basicsr")
    code = "try:\n import basicsr\nexcept ModuleNotFoundError as error:\n print(error)"
    assert run(code) == ["No module named 'basicsr'"]


def test_finders_that_ask_all_finders_and_loaders_that_are_shared(run):
    write(run.site, "other.py", "print('other executed')")
    code = """
import importlib.util
class Shared:
    def create_module(self, spec): pass
    def exec_module(self, module): print(module.__name__, 'by the shared loader')
shared = Shared()
class AsksAll:
    busy = False
    def find_spec(self, name, path=None, target=None):
        if self.busy or name not in ('basicsr', 'other'):
            return None
        self.busy = True
        try:
            assert importlib.util.find_spec(name) is not None
        finally:
            self.busy = False
        return importlib.util.spec_from_loader(name, shared)
sys.meta_path.insert(1, AsksAll())
importlib.util.find_spec('basicsr')
import other, basicsr
"""
    assert run(code) == ["other by the shared loader", "mended", "basicsr by the shared loader", "registered"]


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_installations_carry_the_autoload_and_wheels_the_weights(tmp_path, kind):
    """Built by the backend that pip calls, from a copy of the source."""
    source, built, site = (tmp_path / name for name in ("source", "built", "site"))
    source.mkdir()
    built.mkdir()
    names = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "dscsr_autoload.py", "dscsr_arch", "dscsr_model")
    subprocess.run(["cp", "-r", *names, PTH.name, source], cwd=ROOT, check=True)
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(built)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True, timeout=120)
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    assert (site / PTH.name).is_file()
    assert PTH.name in next(site.glob("*.dist-info/RECORD")).read_text()  # or uninstalling would leave it behind
    if kind == "wheel":
        for file in (ROOT / "dscsr_model/weights").glob("*.*"):
            assert (site / "dscsr_model/weights" / file.name).read_bytes() == file.read_bytes()
    code = f"import site, sys; site.addsitedir({str(site)!r}); import dscsr_autoload; print(sys.meta_path)"
    done = subprocess.run([sys.executable, "-IBS", "-c", code], capture_output=True, text=True, check=True, cwd=site)
    assert "DscsrAutoload" in done.stdout
    assert not done.stderr

"""The installer of BasicSR, with a pip that only says what it was asked for; `make` runs the real one."""

import json
import sys
from importlib import metadata

import pytest

from dscsr_model.host import install_basicsr

INSTALL = ("-m", "dscsr_model.host.install_basicsr")
PIP = """
import json, os, sys
if {words!r} and sys.argv[1] == 'wheel':
    sys.exit(print({words!r}) or 1)
with open('asked.jsonl', 'a') as file:
    file.write(json.dumps([sys.argv[1:], os.environ.get('PYTHONPATH', '').split(os.pathsep)[0]]) + '\\n')
if '--constraint' in sys.argv:
    print('pins:', open(sys.argv[sys.argv.index('--constraint') + 1]).read())
if '--target' in sys.argv:
    os.makedirs(sys.argv[sys.argv.index('--target') + 1])
"""
SETUP = """
def get_version():
    with open('version.py') as file:
        exec(compile(file.read(), 'version.py', 'exec'))
    return locals()['__version__']
print(get_version())
scope = {}
exec('kept = 1', scope)
exec('here = 2')
print(scope['kept'], here)
"""


@pytest.fixture
def fake_pip(tmp_path, run_python):
    """Run the installer beside a pip that fails with such words when it is to build."""

    def run(*arguments: str, words: str = ""):
        (tmp_path / "pip").mkdir(exist_ok=True)
        (tmp_path / "pip/__init__.py").touch()
        (tmp_path / "pip/__main__.py").write_text(PIP.format(words=words))
        return run_python(*INSTALL, *arguments, env={"PYTHONPATH": str(tmp_path)})

    return run


def test_setup_py_gets_the_version_that_it_executed(tmp_path, run_python):
    """BasicSR's way of reading its version, on every Python; other calls of exec() are as ever."""
    (tmp_path / "sitecustomize.py").write_text(install_basicsr.SITECUSTOMIZE)
    (tmp_path / "version.py").write_text("__version__ = '1.4.2'\n")
    (tmp_path / "setup.py").write_text(SETUP)
    assert run_python("setup.py", env={"PYTHONPATH": str(tmp_path)}, check=True).stdout == "1.4.2\n1 2\n"


def test_it_is_built_beside_the_torch_that_is_there(tmp_path, fake_pip):
    done = fake_pip("1.3.5")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("BasicSR 1.3.5 is installed.\n")
    assert f"pins: torch=={metadata.version('torch')}\n" in done.stdout
    asked = [json.loads(line) for line in (tmp_path / "asked.jsonl").read_text().splitlines()]
    (tools, _), (wheel, path), (install, own_path) = asked
    assert tools[-2:] == ["setuptools>=77", "cython"]
    assert wheel[:3] == ["wheel", "--no-deps", "--no-build-isolation"]
    assert path == tools[tools.index("--target") + 1]
    assert own_path == str(tmp_path)  # the tools are not mistaken for installed packages
    assert (wheel[-1], install[-1]) == ("basicsr==1.3.5", "basicsr==1.3.5")


def test_one_that_is_there_stays(fake_pip):
    there = metadata.version("basicsr")
    assert fake_pip().stdout.startswith(f"BasicSR {there} is installed. To replace it, name a version")


@pytest.mark.parametrize(
    ("arguments", "words", "told"),
    [
        (["latest"], "", "Expected VERSION to be a release of BasicSR, but got 'latest'. Write it as 1.4.2."),
        (["9.9"], "No matching distribution found for basicsr==9.9", "Name a release of those that pip lists above."),
        (["1.4.2"], "Retrying after connection broken", "Check the way to the package index"),
        (["1.4.2"], "error: metadata-generation-failed", "BasicSR's own build failed: name another release"),
        (["1.4.2"], "error: externally-managed-environment", "Work in a virtual environment: python3 -m venv"),
        (["1.4.2"], "no space left", "exit code 1; it says why above. Mend that, then run this again"),
    ],
)
def test_what_fails_has_a_remedy(fake_pip, arguments, words, told):
    done = fake_pip(*arguments, words=words)
    assert done.returncode == 1
    assert words in done.stdout
    assert done.stderr.startswith("dscsr: error: Expected ")
    assert told in done.stderr


@pytest.mark.parametrize(("missing", "remedy"), [("torch", "pip install torch torchvision"), ("pip", "ensurepip")])
def test_what_it_needs_is_told(monkeypatch, capsys, missing, remedy):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else object())
    assert install_basicsr.main(["1.4.2"]) == 1
    assert f"Expected {missing} to be installed, but got none in the environment of" in (err := capsys.readouterr().err)
    assert remedy in err

"""`dscsr doctor`, in this environment, in one with nothing in it, and on machines that are described to it."""

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

import dscsr_model
from dscsr_model.cli import doctor, main
from dscsr_model.host import compat

DOCTOR = ("-m", "dscsr_model.cli", "doctor")
ROOT = Path(dscsr_model.__file__).parents[1]


def test_this_environment_is_well(run_python, tmp_path):
    """But for a torchvision of another index than torch, which only we can import, if there is one."""
    done = run_python(*DOCTOR, env={"DSCSR_AUTOLOAD": "1", "CUDA_VISIBLE_DEVICES": ""})
    wrong = [line for line in done.stdout.splitlines() if line.startswith("!!")]
    assert ["torch pair" in line for line in wrong] == [True] * ("mended      torchvision:" in done.stdout)
    assert done.returncode == len(wrong), done.stdout
    assert done.stdout.endswith("1 thing to mend, marked !! above.\n" if wrong else "\nAll is well.\n")
    for name in ("python", *doctor.PACKAGES, "dscsr", "autoload", "basicsr", "gpu"):
        assert f"\nok  {name:<14}" in f"\n{done.stdout}"
    assert f"basicsr       {metadata.version('basicsr')} (" in done.stdout
    for patch in ("functional_tensor", "parse_options", "init_dist", "model_to_device"):
        assert f"  mended      {patch}: " in done.stdout
    assert "  registered  SPAN\n" in done.stdout
    assert list(tmp_path.iterdir()) == []


def bare(python: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "DSCSR_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([python, "-S", *DOCTOR], env=env, capture_output=True, text=True, check=False, cwd="/")


def test_an_empty_environment_gets_remedies():
    done = bare(sys.executable)
    assert (done.returncode, done.stderr) == (1, "")
    for words in (
        "!!  torch         not installed\n      pip install torch torchvision    (together, and before BasicSR",
        "!!  basicsr       not usable\n      Expected BasicSR to be installed, but got no module",
        "!!  autoload      off: this Python has not read dscsr_autoload.pth\n      Install dscsr",
    ):
        assert words in done.stdout
    assert done.stdout.endswith("things to mend, marked !! above.\n")


def says(finding: doctor.Finding, says: str, remedy: str) -> None:
    assert says in finding.says
    assert remedy in finding.remedy
    assert bool(remedy) == bool(finding.remedy)


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ((3, 15, 0), "Use Python 3.10 to 3.14"),
        ((3, 9, 1), "Use Python 3.10 to 3.14"),
        ((3, 10, 0), ""),
        ((3, 14, 9), ""),
    ],
)
def test_python(monkeypatch, version, words):
    monkeypatch.setattr(sys, "version_info", version)
    says(doctor._python(), "", words)


MET = "torchvision 0.28.0 can be imported beside torch 2.13.0"


@pytest.mark.parametrize(
    ("torch", "fault", "expected", "remedy"),
    [
        ("2.13.0+cpu", "", "belong together", ""),
        ("2.12.0", "", "torch 2.12.0 beside", "built for torch 2.13.0: pip install torch==2.13.0"),
        (
            "2.13.0+cu126", "patch", f"{MET}+cu126 only with dscsr's mend",
            "--no-deps torchvision==0.28.0 --index-url https://download.pytorch.org/whl/cu126",
        ),
        ("2.13.0", "patch", f"{MET} only with dscsr's mend", "--force-reinstall --no-deps torchvision==0.28.0"),
        ("2.13.0", "error", f"{MET} not at all (OSError: no libjpeg)", "pip install --force-reinstall"),
    ],
)  # fmt: skip
def test_torch_and_torchvision_belong_together(monkeypatch, torch, fault, expected, remedy):
    def patch_imports() -> None:
        if fault == "error":
            raise OSError("no libjpeg")

    monkeypatch.setattr(compat, "patch_imports", patch_imports)
    monkeypatch.setattr(compat, "applied", lambda: compat.IMPORT_PATCHES[: fault == "patch"])
    monkeypatch.setattr(doctor, "package_version", {"torch": torch, "torchvision": "0.28.0"}.get)
    monkeypatch.setattr(metadata, "requires", lambda name: ["numpy", "torch==2.13.0", "pillow>=5"])
    says(doctor._pair(), expected, remedy)


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"dscsr {metadata.version('dscsr')} ({ROOT})\n"


def test_packages_that_may_be_others_or_missing(monkeypatch):
    there = {"opencv-python-headless": "4.9", "onnx": "1.23.2", "spandrel": "0.4.2"}
    monkeypatch.setattr(doctor, "package_version", there.get)
    found = {finding.name: finding for finding in doctor.examine() if finding.name[0] in "o[l"}
    assert found["opencv-python"].says == "4.9"
    assert found["lmdb"].remedy == "pip install lmdb"
    says(found["[onnx]"], "onnx 1.23.2; onnxruntime not installed (optional): pip install 'dscsr[onnx]'", "")
    says(found["[spandrel]"], "spandrel 0.4.2", "")


def test_a_package_that_is_too_old_is_told(monkeypatch):
    there = {"torch": "2.3.1+cu121", "opencv-python-headless": "4.7.0.72", "numpy": "1.26.0"}
    monkeypatch.setattr(doctor, "package_version", there.get)
    oldest = doctor._oldest("torch")
    says(doctor._package("torch"), f"2.3.1+cu121, older than {oldest}", f"--upgrade 'torch>={oldest}' torchvision")
    says(doctor._package("opencv-python"), "4.7.0.72, older than 4.8", "--upgrade 'opencv-python-headless>=4.8'")
    says(doctor._package("numpy"), "1.26.0", "")


def test_autoload_switched_off(monkeypatch):
    monkeypatch.setenv("DSCSR_AUTOLOAD", "0")
    says(doctor._autoload(), "call dscsr_model.register() before importing basicsr", "")


@pytest.mark.parametrize(
    ("present", "hidden", "built_for", "expected", "remedy"),
    [
        (False, False, None, "none on this machine: everything runs on the CPU", ""),
        (True, True, "13.0", "hidden by CUDA_VISIBLE_DEVICES", ""),
        (True, False, None, "this torch is a CPU build", "Install a CUDA build of torch and torchvision"),
        (True, False, "13.0", "torch cannot use it (driver too old)", "CUDA 13.0: check the driver with nvidia-smi"),
    ],
)
def test_why_no_gpu_is_used(monkeypatch, present, hidden, built_for, expected, remedy):
    def init() -> None:
        raise RuntimeError("driver too old\nmore")

    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr("shutil.which", lambda name: "nvidia-smi" if present else None)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "" if hidden else "0")
    says(doctor._gpu(), expected, remedy)


def test_a_basicsr_of_the_folder_that_does_not_fit_is_named(run_python, tmp_path):
    """Vendored by a project, older than registries: found before the installed one, and said by train as well."""
    (tmp_path / "basicsr/utils").mkdir(parents=True)
    (tmp_path / "basicsr/__init__.py").touch()
    (tmp_path / "basicsr/utils/__init__.py").touch()
    (tmp_path / "basicsr/version.py").write_text("__version__ = '1.2.0+1a'\n")
    (tmp_path / "opt.yml").write_text("name: any\n")
    # Not -m, which has the working directory on its path: a console script has not.
    code = (
        "import sys; sys.path.remove(''); sys.argv[0] = 'dscsr'; from dscsr_model.cli import main\n"
        "print(main(['doctor']), main(['train', '-opt', 'opt.yml']))"
    )
    done = run_python("-c", code, env={"DSCSR_AUTOLOAD": "1"}, check=True)
    expected = (
        f"Expected a BasicSR that dscsr's classes fit, but got {tmp_path / 'basicsr'}, version 1.2.0+1a, where it ends "
        "with ModuleNotFoundError: No module named 'basicsr.utils.registry'. Nothing of dscsr is registered here. Use "
    )
    assert f"!!  basicsr       not usable\n      {expected}" in done.stdout
    assert done.stdout.endswith("1 1\n")
    assert done.stderr.startswith(f"Checking opt.yml …\ndscsr: error: {expected}")
    assert done.stderr.count("\n") == 2


def test_a_basicsr_of_the_folder_that_python_passes_over_is_named(monkeypatch, tmp_path):
    """Projects made from BasicSR 1.2 vendor one without `__init__.py`: an installed one is taken instead."""
    monkeypatch.chdir(tmp_path)
    assert list(doctor._passed_over()) == []
    (tmp_path / "basicsr/models").mkdir(parents=True)
    (tmp_path / "basicsr/version.py").write_text("__version__='1.2.0+10018c6'\n")
    (finding,) = doctor._passed_over()
    assert finding.says == f"1.2.0+10018c6 ({tmp_path / 'basicsr'}) is passed over"
    assert f"gets {doctor.install_help.find_basicsr()}, and dscsr" in finding.remedy


def test_extras_are_those_that_pip_knows():
    project = (ROOT / "pyproject.toml").read_text()  # by hand: Python 3.10 has no tomllib
    for extra, names in doctor.EXTRAS.items():
        (told,) = re.findall(rf"^{extra} = \[(.+)\]$", project, flags=re.MULTILINE)
        assert set(re.findall(r'"([\w-]+)>=', told)) == set(names)


def test_every_dependency_is_examined():
    (told,) = re.findall(r"^dependencies = \[\n(.+?)^\]$", (ROOT / "pyproject.toml").read_text(), flags=re.M | re.S)
    assert set(re.findall(r'"([\w-]+)>=', told)) == set(doctor.PACKAGES) - {"torchvision"}

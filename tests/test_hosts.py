"""`make test-hosts`: every BasicSR that people have, as they have it: installed, cloned, vendored by a project.

The Makefile fetches each release from the package index into build/hosts. What a user starts is started here, in
processes of its own: `dscsr doctor`, `train`, `test`, and a clone's own `python basicsr/train.py`.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import option_files
import pytest
import torch
from conftest import ROOT

from dscsr_arch import SPAN
from dscsr_arch.checkpoint import read_pickle
from dscsr_model.host import registration

pytestmark = pytest.mark.hosts

RELEASES = ("1.3.4.9", "1.3.5", "1.4.0", "1.4.1", "1.4.2")
DSCSR = str(Path(sys.executable).with_name("dscsr"))


@pytest.fixture(scope="module", params=[*RELEASES, "master"])
def project(request, tmp_path_factory) -> Path:
    """A project's folder with that BasicSR in it, data, and option files."""
    release = "1.4.2" if request.param == "master" else request.param
    package = ROOT / "build/hosts" / release / "basicsr"
    assert package.is_dir(), f"Expected BasicSR {release} in {package}, but it is not there. Run `make test-hosts`."
    folder = tmp_path_factory.mktemp("project") / request.param
    shutil.copytree(package, folder / "basicsr", ignore=shutil.ignore_patterns("__pycache__"))
    if request.param == "master":  # a clone has no generated version.py, but what it is generated from
        (folder / "basicsr/version.py").unlink()
        (folder / "VERSION").write_text(f"{release}\n")
        (folder / "setup.py").write_text("raise SystemExit('not to be run')\n")
    data = option_files.make_data(folder / "data")
    torch.save({"params": SPAN(feature_channels=8).fuse().state_dict()}, folder / "base.pth")
    for name, changes in options_by_name().items():
        stock = option_files.changed(option_files.training_options(data), {"val:val_freq": 5})
        option_files.write_options(folder / f"{name}.yml", option_files.changed(stock, {"name": name, **changes}))
    tested = option_files.testing_options(data)
    tested["network_g"] = {"type": "SPAN", "feature_channels": 8, "upscale": 4}
    tested["path"]["pretrain_network_g"] = "base.pth"
    option_files.write_options(folder / "test.yml", tested)
    return folder


def options_by_name() -> dict[str, dict]:
    span = {"feature_channels": 8, "upscale": 4}
    l1 = {"type": "L1Loss", "loss_weight": 1.0}
    affinity = {"type": "SpatialAffinityLoss", "loss_weight": 1.0, "layers": ["block_1"]}
    backbone = {"type": "CARN", "num_feat": 8, "upscale": 4}
    return {
        "stock": {"datasets:train:num_worker_per_gpu": 1, "datasets:train:dataset_enlarge_ratio": 2},
        "span": {"model_type": "EfficientSRModel", "network_g": {"type": "SPAN", **span}},
        "dsclora": {
            "model_type": "DSCLoRAModel", "network_g": {"type": "DSCLoRA", **span},
            "path:pretrain_network_g": "base.pth", "teacher": {"weights": "base.pth"},
            "train:teacher_opt": {**l1, "target": "teacher"}, "train:affinity_opt": affinity,
        },
        "cssrnet": {
            "model_type": "CSDModel", "network_g": {"type": "CSSRNet", "backbone": backbone, "widths": [0.25]},
            "train:pixel_opt": {**l1, "output_of": "student"}, "train:whole_opt": {**l1, "output_of": "teacher"},
        },
    }  # fmt: skip


def run(project: Path, *command: str, codes: tuple[int, ...] = (0,), **env: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env = {**clean, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DSCSR_AUTOLOAD": "1", **env}
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode in codes, done.stdout + done.stderr
    return done.stdout + done.stderr


def iterations(said: str) -> list[int]:
    return [int(number) for number in re.findall(r"iter: *(\d+),", said)]


def log(project: Path, name: str) -> str:
    return max((project / f"experiments/{name}").glob("train_*.log")).read_text()


def latest(project: Path, name: str) -> dict:
    return read_pickle(project / f"experiments/{name}/models/net_g_latest.pth")


def test_doctor_names_it_and_everything_is_registered(project):
    version = "1.4.2" if project.name == "master" else project.name
    said = run(project, DSCSR, "doctor", codes=(0, 1))  # it may find fault with this machine
    assert f"ok  basicsr       {version} ({project / 'basicsr'})\n" in said
    assert [entry.name for entry in registration.entries() if f"  registered  {entry.name}\n" not in said] == []


@pytest.mark.parametrize("name", ["span", "dsclora", "cssrnet"])
def test_ten_iterations(project, name):
    """In the BasicSR of the project's folder, though another is installed; one of them is stopped and resumed."""
    command = (DSCSR, "train", "-opt", f"{name}.yml")
    if name == "cssrnet":
        run(project, *command, "--force_yml", "train:total_iter=5")
        assert iterations(log(project, name)) == [1, 2, 3, 4, 5]
        said = run(project, *command, "--auto_resume")
        assert iterations(log(project, name)) == [6, 7, 8, 9, 10]
    else:
        said = run(project, *command)
        assert iterations(log(project, name)) == list(range(1, 11))
    assert "validation 10: Set psnr" in said
    assert all(tensor.isfinite().all() for tensor in latest(project, name)["params"].values())


def test_installed_instead_of_vendored_it_trains_and_tests(project, tmp_path):
    """From another folder, with the package on Python's path; networks of ours under BasicSR's own SRModel."""
    for entry in project.iterdir():
        if entry.suffix in (".yml", ".pth") or entry.name == "data":
            (tmp_path / entry.name).symlink_to(entry)
    installed = {"PYTHONPATH": str(project)}
    stock_model = ("--force_yml", "model_type=SRModel", "train:total_iter=4", "logger:save_checkpoint_freq=2")
    assert iterations(run(tmp_path, DSCSR, "train", "-opt", "span.yml", *stock_model, **installed)) == [1, 2, 3, 4]
    longer = ("--force_yml", "model_type=SRModel", "train:total_iter=5")
    assert iterations(run(tmp_path, DSCSR, "train", "-opt", "span.yml", *longer, "--auto_resume", **installed)) == [5]
    assert run(tmp_path, DSCSR, "test", "-opt", "test.yml", **installed).count("# ssim:") == 2


# BasicSR cannot be imported beside today's torchvision as it is: what mends that is had with the plugin and without.
SCRIPT = """
import runpy, sys
from dscsr_model.host import compat
compat.patch_imports()
sys.path.insert(0, '.')
sys.argv = ['basicsr/train.py', '-opt', 'stock.yml']
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def test_installed_and_unused_is_not_there(project):
    """The clone's own train script, model and data set: the same losses to the last digit, the same files."""
    found = []
    for autoload in ("0", "1"):
        said = run(project, sys.executable, "-c", SCRIPT, DSCSR_AUTOLOAD=autoload)
        assert iterations(said) == list(range(1, 11))
        folder = project / "experiments/stock"
        files = sorted(re.sub(r"_\d{8}_\d{6}", "", str(file.relative_to(folder))) for file in folder.rglob("*"))
        found.append((re.findall(r"l_pix: \S+|# psnr: \S+", said), files, latest(project, "stock")))
        shutil.rmtree(folder)
    (losses, files, weights), (losses_with_us, files_with_us, weights_with_us) = found
    assert losses == losses_with_us
    assert len(losses) == 10 + 3
    assert files == files_with_us
    for key, tensors in weights.items():
        assert all(torch.equal(tensor, weights_with_us[key][name]) for name, tensor in tensors.items())

"""Real training processes, as a user starts them: small network, small images, the CPU."""

import argparse
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import option_files
import pytest
import torch

import dscsr_model
from dscsr_arch.errors import DscsrError, UnavailableError
from dscsr_model.cli.train import add_basicsr_arguments
from dscsr_model.host import install_help, launch

ONE_THREAD = {"OMP_NUM_THREADS": "1", "DSCSR_AUTOLOAD": "1", "CUDA_VISIBLE_DEVICES": ""}
DSCSR = ("-m", "dscsr_model.cli")


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """Options that train a small SPAN on three pairs of images, written to opt.yml by `write`."""
    data = option_files.make_data(tmp_path / "data")
    options = option_files.training_options(data)
    options["num_gpu"] = "auto"
    options["network_g"] = {"type": "SPAN", "feature_channels": 8, "upscale": 4}
    train = options["datasets"]["train"]
    train.update(dataroot_gt="data/gt", dataroot_lq="data/lq", io_backend={"type": "disk"}, dataset_enlarge_ratio=40)
    options["logger"]["use_tb_logger"] = True
    return options


@pytest.fixture
def write(tmp_path: Path, options):
    def write(**changes: Any) -> Path:
        return option_files.write_options(tmp_path / "opt.yml", option_files.changed(options, changes))

    return write


def saved(folder: Path, name: str = "tiny") -> list[str]:
    return sorted(file.name for file in (folder / "experiments" / name / "models").iterdir())


def test_train_writes_under_the_working_directory_only(run_python, tmp_path, write):
    write()
    site = Path(sys.modules["torch"].__file__).parents[1]
    done = run_python(*DSCSR, "train", "-opt", "opt.yml", env=ONE_THREAD)
    assert done.returncode == 0, done.stderr
    assert saved(tmp_path) == ["net_g_10.pth", "net_g_5.pth", "net_g_latest.pth"]
    assert (tmp_path / "experiments/tiny/opt.yml").read_text().splitlines()[2].startswith("# dscsr train -opt opt.yml")
    assert {entry.name for entry in tmp_path.iterdir()} == {"data", "opt.yml", "experiments", "tb_logger"}
    assert not (site / "experiments").exists()
    assert "Warning" not in done.stderr
    assert "iter:      10" in done.stderr


def test_test_measures_and_writes_results_of_the_sets_that_are_there(run_python, tmp_path, write, options):
    """One of them without ground truth, whose images are made all the same."""
    options.update(option_files.testing_options(tmp_path / "data"), network_g=options["network_g"])
    lone = {"name": "lone", "type": "SingleImageDataset", "dataroot_lq": "data/lq", "io_backend": {"type": "disk"}}
    options["datasets"] |= {"test_3": option_files.paired("gone", Path("nowhere")), "test_4": lone}
    options["model_type"] = "EfficientSRModel"
    option_files.write_options(tmp_path / "opt.yml", options)
    done = run_python(*DSCSR, "test", "-opt", "opt.yml", "--skip-missing", env=ONE_THREAD)
    assert done.returncode == 0, done.stderr
    assert "left out, since their folders are missing: `test_3` (nowhere/gt)\n" in done.stderr
    assert done.stderr.count("# ssim:") == 2
    assert {entry.name for entry in tmp_path.iterdir()} == {"data", "opt.yml", "results"}
    assert {folder.name for folder in (tmp_path / "results/tiny_test/visualization").iterdir()} == {
        "one",
        "two",
        "lone",
    }


def test_killed_and_resumed_on_the_cpu(run_python, tmp_path, write, options):
    """SIGKILL between two checkpoints; the resumed run goes on from the newest one."""
    options["train"]["total_iter"] = 100_000
    options["logger"]["save_checkpoint_freq"] = 40
    options["datasets"]["train"]["dataset_enlarge_ratio"] = 4000
    write()
    command = [sys.executable, *DSCSR, "train", "-opt", "opt.yml"]
    env = {**os.environ, **ONE_THREAD}
    with subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if "iter:      44," in line:  # 40 is on disk, 80 is far
                process.send_signal(signal.SIGKILL)
                break
        process.stderr.read()
    assert process.returncode == -signal.SIGKILL
    assert saved(tmp_path) == ["net_g_40.pth"]
    done = run_python(
        *DSCSR, "train", "-opt", "opt.yml", "--auto_resume", "--force_yml", "train:total_iter=43", env=ONE_THREAD
    )
    assert done.returncode == 0, done.stderr
    assert "Resuming training from epoch: 0, iter: 40." in done.stderr
    assert [f"iter:      {i}," in done.stderr for i in (40, 41, 42, 43)] == [False, True, True, True]
    assert saved(tmp_path) == ["net_g_40.pth", "net_g_latest.pth"]


def torchrun(*args: object, cwd: Path, ranks: int = 2) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    env = {**os.environ, **ONE_THREAD}
    return subprocess.run(
        [*command, *map(str, args)], cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])  # BasicSR spawns them: 5 s each
def test_two_ranks_train(tmp_path, write, options, workers):
    options["datasets"]["train"]["num_worker_per_gpu"] = workers
    options["train"]["ema_decay"] = 0  # rank 0 then validates the network that is trained, and SPAN has a buffer
    options["val"]["val_freq"] = 2
    write(train={**options["train"], "total_iter": 5})
    done = torchrun(*DSCSR, "train", "-opt", "opt.yml", "--launcher", "pytorch", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "World size (gpu number): 2" in done.stderr
    assert done.stderr.count("iter:       5,") == 1
    assert done.stderr.count("# psnr:") == 3
    assert "Warning" not in done.stderr
    assert saved(tmp_path) == ["net_g_5.pth", "net_g_latest.pth"]


MY_DATA = """
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.utils.registry import DATASET_REGISTRY

@DATASET_REGISTRY.register()
class MyDataset(PairedImageDataset):
    pass
"""


@pytest.mark.slow
def test_every_rank_and_its_spawned_workers_know_the_users_own_dataset(tmp_path, write):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/my_data.py").write_text(MY_DATA)
    changes = {"type": "MyDataset", "num_worker_per_gpu": 1, "batch_size_per_gpu": 1}
    write(**{"import": "mine/my_data.py"}, **{f"datasets:train:{key}": value for key, value in changes.items()})
    done = torchrun(*DSCSR, "train", "-opt", "opt.yml", "--launcher", "pytorch", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("iter:      10,") == 1


STEP = """
import gc, os, sys, torch
import dscsr_model
dscsr_model.register()
from basicsr.models import build_model
from basicsr.utils.dist_util import get_dist_info, init_dist
from basicsr.utils.options import ordered_yaml
import yaml

launcher, out = sys.argv[1:]
if launcher != 'none':
    init_dist(launcher)
rank, world = get_dist_info()
torch.set_default_dtype(torch.float64)
torch.manual_seed(rank)  # DDP has to make the ranks equal
opt = yaml.load(open('opt.yml'), Loader=ordered_yaml()[0])
opt.update(dist=launcher != 'none', rank=rank, world_size=world, is_train=True, num_gpu=0)
opt['path'].update(models=out, pretrain_network_g='start.pth')
opt['train']['pixel_opt']['type'] = 'MSELoss'
model = build_model(opt)
draw = torch.Generator().manual_seed(1)
for step in (1, 2, 3):
    lq = torch.rand(4, 3, 9, 7, generator=draw, dtype=torch.float64)
    gt = torch.rand(4, 3, 36, 28, generator=draw, dtype=torch.float64)
    model.feed_data({'lq': lq[rank::world], 'gt': gt[rank::world]})
    model.optimize_parameters(step)
model.save_network([model.net_g, model.net_g_ema], 'net_g', 3, param_key=['params', 'params_ema'])
if world > 1:  # with the network gone, and together: else torch 2.13 with gloo aborts now and then while it ends
    del model
    gc.collect()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
"""


def test_two_ranks_with_half_the_batch_take_the_step_of_one_with_all(run_python, tmp_path, write):
    from dscsr_arch import SPAN

    write()
    (tmp_path / "step.py").write_text(STEP)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    start = SPAN(feature_channels=8).double().state_dict()
    torch.save({"params": start}, tmp_path / "start.pth")
    alone = run_python("step.py", "none", "one", env=ONE_THREAD)
    assert alone.returncode == 0, alone.stderr
    together = torchrun("step.py", "pytorch", "two", cwd=tmp_path)
    assert together.returncode == 0, together.stderr
    one, two = (torch.load(tmp_path / name / "net_g_3.pth") for name in ("one", "two"))
    moved = 0
    for key in ("params", "params_ema"):
        for name, value in one[key].items():
            # The order of summation is all that differs; three Adam steps of 1e-4 divide by small numbers.
            torch.testing.assert_close(two[key][name], value, rtol=1e-9, atol=1e-11)
            moved += int(not torch.equal(value, start[name]))
    assert moved > len(start)  # both copies of most weights


def leave_as_unpacked(tree: Path) -> None:
    """BasicSR 1.4.2 as it is."""


def lay_out_like_master(tree: Path) -> None:
    """A plain clone: no generated version.py; a VERSION file and setup.py above the package."""
    (tree / "basicsr/version.py").unlink()
    (tree / "VERSION").write_text("1.4.2\n")
    (tree / "setup.py").write_text("raise SystemExit('not to be run')\n")


MY_LOSS = """
from basicsr.utils.registry import LOSS_REGISTRY
from torch import nn

@LOSS_REGISTRY.register()
class MyLoss(nn.L1Loss):
    pass
"""


@pytest.mark.parametrize("lay_out", [leave_as_unpacked, lay_out_like_master])
def test_stock_train_script_trains_span_and_resumes(run_python, tmp_path, write, lay_out):
    """The script is its own `__main__`, another module than the `basicsr.train` that we mend at import.

    With a loss of the user's own.
    """
    dscsr_model.register()
    import basicsr

    package = Path(basicsr.__file__).parent
    shutil.copytree(package, tmp_path / "basicsr", ignore=shutil.ignore_patterns("__pycache__"))
    lay_out(tmp_path)
    before = {file: file.read_bytes() for file in (tmp_path / "basicsr").rglob("*.py")}
    (tmp_path / "data/my_loss.py").write_text(MY_LOSS)
    write(**{"import": "data/my_loss.py", "train:pixel_opt": {"type": "MyLoss"}})
    env = {**ONE_THREAD, "PYTHONPATH": ".", "PYTHONDONTWRITEBYTECODE": "1"}

    def train(*args: str) -> str:
        done = run_python("basicsr/train.py", "-opt", "opt.yml", *args, env=env)
        assert done.returncode == 0, done.stderr
        assert "BasicSR: 1.4.2" in done.stderr
        assert "dscsr" not in done.stderr
        return done.stderr

    train("--force_yml", "train:total_iter=5")
    assert saved(tmp_path) == ["net_g_5.pth", "net_g_latest.pth"]
    if lay_out is lay_out_like_master:  # one of the two is enough: their train.py is the same
        assert "Resuming training from epoch: 0, iter: 5." in train("--auto_resume")
        assert saved(tmp_path) == ["net_g_10.pth", "net_g_5.pth", "net_g_latest.pth"]
    assert {file: file.read_bytes() for file in (tmp_path / "basicsr").rglob("*.py")} == before


# --- what goes wrong before anything starts ---


def nothing_made(folder: Path) -> bool:
    return {entry.name for entry in folder.iterdir()} <= {"data", "opt.yml"}


def test_faulty_options_are_told_and_nothing_is_made(run_python, tmp_path, write):
    write(network_g={"type": "SPANN"}, scale=5)
    done = run_python(*DSCSR, "train", "-opt", "opt.yml", env=ONE_THREAD)
    assert done.returncode == 1
    assert done.stderr.startswith("dscsr: error: ")
    assert "SPANN" in done.stderr
    assert "Traceback" not in done.stderr
    assert nothing_made(tmp_path)


def test_other_ranks_do_not_repeat_it(run_python, tmp_path):
    env = {**ONE_THREAD, "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    done = run_python(*DSCSR, "train", "-opt", "nowhere.yml", "--launcher", "pytorch", env=env)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_torchrun_lets_rank_0_speak(tmp_path):
    done = torchrun(*DSCSR, "test", "-opt", "nowhere.yml", "--launcher", "pytorch", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("dscsr: error: ") == 1


def test_without_basicsr_the_install_order_is_told(tmp_path, write):
    root = Path(dscsr_model.__file__).parents[1]
    command = [sys.executable, "-S", *DSCSR, "train", "-opt", "opt.yml"]
    write()

    def run(**env: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": str(root), **env}
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    done = run()
    assert done.returncode == 1
    assert done.stderr.startswith("dscsr: error: Expected BasicSR to be installed, but got no module named `basicsr`.")
    assert "--no-build-isolation basicsr==1.4.2" in done.stderr
    assert nothing_made(tmp_path)


def test_a_basicsr_vendored_here_comes_before_an_installed_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = list(sys.path)
    install_help.look_into_working_directory()
    assert sys.path == before
    (tmp_path / "basicsr").mkdir()
    (tmp_path / "basicsr/__init__.py").touch()
    install_help.look_into_working_directory()
    install_help.look_into_working_directory()
    assert sys.path == [str(tmp_path), *before]
    monkeypatch.delitem(sys.modules, "basicsr", raising=False)
    assert install_help.find_basicsr() == tmp_path / "basicsr"


def test_a_basicsr_without_registries_is_named(tmp_path, monkeypatch):
    """A namespace package, as projects vendor that were made from BasicSR 1.2."""
    (tmp_path / "basicsr").mkdir()
    (tmp_path / "VERSION").write_text("1.2.0\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "basicsr", raising=False)
    folder = tmp_path / "basicsr"
    expected = rf"^Expected BasicSR 1\.3\.4\.8 or later, but got {folder}, version 1\.2\.0, which has no `__init__\.py`"
    with pytest.raises(UnavailableError, match=expected):
        install_help.require_basicsr()


def parse(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_basicsr_arguments(parser)
    return parser.parse_args(argv)


def test_launcher_without_torchrun(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(DscsrError, match=r"Expected the environment of torchrun .* but got none"):
        launch.train(parse("-opt", "x.yml", "--launcher", "pytorch"))


def test_launcher_slurm_without_slurm(monkeypatch):
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    with pytest.raises(DscsrError, match=r"Expected the environment of slurm .* Start with `srun`"):
        launch.train(parse("-opt", "x.yml", "--launcher", "slurm"))


def test_torchrun_without_launcher(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DscsrError, match=r"Expected `--launcher pytorch` in 2 processes .* Add"):
        launch.test(parse("-opt", "x.yml"))


@pytest.mark.parametrize(
    "argv",
    [
        ["-opt", "opt.yml"],
        ["-opt", "opt.yml", "--auto_resume", "--debug"],
        ["-opt", "opt.yml", "--force_yml", "name=a", "scale=2", "--local_rank", "3"],
    ],
)
def test_arguments_reach_basicsr_unchanged(argv, tmp_path, monkeypatch, write):
    dscsr_model.register()
    from basicsr.utils.options import parse_options

    write()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", *argv])
    straight = vars(parse_options(str(tmp_path))[1])
    monkeypatch.setattr(sys, "argv", ["train.py", *launch.basicsr_arguments(parse(*argv))])
    assert vars(parse_options(str(tmp_path))[1]) == straight


def test_arguments_of_the_caller_are_put_back(monkeypatch, tmp_path, write):
    import basicsr.train

    seen = []

    def fail(root_path: str) -> None:
        seen.append((list(sys.argv), root_path))
        raise ZeroDivisionError

    monkeypatch.setattr(basicsr.train, "train_pipeline", fail)
    monkeypatch.chdir(tmp_path)
    before = list(sys.argv)
    with pytest.raises(DscsrError, match=r"(?s)Expected your own code to run.*test_launch.py.*ZeroDivisionError"):
        launch.train(parse("-opt", str(write())))
    assert seen == [(["dscsr train", "-opt", str(tmp_path / "opt.yml"), *seen[0][0][3:]], str(tmp_path))]
    assert sys.argv == before

"""Real training processes, as a user starts them: small network, small images, the CPU."""

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import option_files
import pytest
import torch
from training_runs import dscsr

import dscsr_model
from dscsr_model import cli
from dscsr_model.host import launch

ONE_THREAD = {"OMP_NUM_THREADS": "1", "DSCSR_AUTOLOAD": "1", "CUDA_VISIBLE_DEVICES": ""}


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
def write(tmp_path: Path, options, monkeypatch):
    """Write the options, changed, into the working directory."""
    monkeypatch.chdir(tmp_path)

    def write(**changes: Any) -> Path:
        return option_files.write_options(tmp_path / "opt.yml", option_files.changed(options, changes))

    return write


def saved(folder: Path, name: str = "tiny") -> list[str]:
    return sorted(file.name for file in (folder / "experiments" / name / "models").iterdir())


def test_test_measures_and_writes_results_of_the_sets_that_are_there(tmp_path, write, options, capfd):
    """One of them without ground truth, whose images are made all the same."""
    options.update(option_files.testing_options(tmp_path / "data"), network_g=options["network_g"])
    lone = {"name": "lone", "type": "SingleImageDataset", "dataroot_lq": "data/lq", "io_backend": {"type": "disk"}}
    options["datasets"] |= {"test_3": option_files.paired("gone", Path("nowhere")), "test_4": lone}
    options["model_type"] = "EfficientSRModel"
    option_files.write_options(tmp_path / "opt.yml", options)
    assert dscsr("test", "-opt", "opt.yml", "--skip-missing") == 0
    said = capfd.readouterr()
    assert "left out, since their folders are missing: `test_3` (nowhere/gt)\n" in said.err
    assert [re.sub(r"-?\d+\.\d{4}", "#", line) for line in said.out.splitlines()] == [
        "one   ssim #",
        "two   ssim #",
        "lone  no scores",
    ]
    assert {entry.name for entry in tmp_path.iterdir()} == {"data", "opt.yml", "results"}
    made = {folder.name for folder in (tmp_path / "results/tiny_test/visualization").iterdir()}
    assert made == {"one", "two", "lone"}


MY_DATA = """
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.utils.registry import DATASET_REGISTRY

@DATASET_REGISTRY.register()
class MyDataset(PairedImageDataset):
    pass
"""


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])  # BasicSR spawns them: 5 s each
def test_two_ranks_train(run_python, tmp_path, write, workers):
    """Every rank and its workers know the user's own dataset; nothing is written but under the working directory.

    Without the autoload: each registers by itself, and before anything of ours imports BasicSR unpatched.
    """
    (tmp_path / "data/my_data.py").write_text(MY_DATA)
    write(**{
        "import": "data/my_data.py", "datasets:train:type": "MyDataset", "datasets:train:num_worker_per_gpu": workers,
        # Rank 0 then validates the network that is trained, and SPAN has a buffer.
        "train:ema_decay": 0, "train:total_iter": 5, "val:val_freq": 2,
    })  # fmt: skip
    command = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "dscsr_model.cli", "train")
    without = {**ONE_THREAD, "DSCSR_AUTOLOAD": "0"}
    done = run_python(*command, "-opt", "opt.yml", "--launcher", "pytorch", env=without)
    assert done.returncode == 0, done.stderr
    assert "World size (gpu number): 2" in done.stderr
    assert done.stderr.count("iter:       5,") == 1
    assert done.stderr.count("# psnr:") == 3
    assert "Warning" not in done.stderr
    assert saved(tmp_path) == ["net_g_5.pth", "net_g_latest.pth"]
    assert (tmp_path / "experiments/tiny/opt.yml").read_text().splitlines()[2].startswith("# dscsr train -opt opt.yml")
    assert {entry.name for entry in tmp_path.iterdir()} == {"data", "opt.yml", "experiments", "tb_logger"}
    assert not Path(torch.__file__).parents[1].joinpath("experiments").exists()


def test_the_train_script_of_a_plain_clone_trains_span(run_python, tmp_path, write):
    """No line edited, with a dataset of the user's own. The script is its own `__main__`, not `basicsr.train`.

    The clone has no generated version.py, but what it is generated from.
    """
    dscsr_model.register()
    import basicsr

    shutil.copytree(
        Path(basicsr.__file__).parent, tmp_path / "basicsr", ignore=shutil.ignore_patterns("__pycache__", "version.py")
    )
    (tmp_path / "VERSION").write_text("1.4.2\n")
    (tmp_path / "setup.py").write_text("raise SystemExit('not to be run')\n")
    before = {file: file.read_bytes() for file in (tmp_path / "basicsr").rglob("*.py")}
    (tmp_path / "data/my_data.py").write_text(MY_DATA)
    write(**{"import": "data/my_data.py", "datasets:train:type": "MyDataset", "train:total_iter": 5})
    env = {**ONE_THREAD, "PYTHONPATH": ".", "PYTHONDONTWRITEBYTECODE": "1"}
    done = run_python("basicsr/train.py", "-opt", "opt.yml", env=env)
    assert done.returncode == 0, done.stderr
    assert "BasicSR: 1.4.2" in done.stderr
    assert "dscsr" not in done.stderr
    assert saved(tmp_path) == ["net_g_5.pth", "net_g_latest.pth"]
    assert {file: file.read_bytes() for file in (tmp_path / "basicsr").rglob("*.py")} == before


# --- what goes wrong before anything starts ---


def test_without_basicsr_it_is_told_how_to_install_it(tmp_path, write, run_python):
    write()
    env = {"PYTHONPATH": str(Path(dscsr_model.__file__).parents[1])}
    done = run_python("-S", "-m", "dscsr_model.cli", "train", "-opt", "opt.yml", env=env)
    assert done.returncode == 1
    assert done.stderr.startswith("dscsr: error: Expected BasicSR to be installed, but got no module named `basicsr`.")
    assert "python -m dscsr_model.host.install_basicsr" in done.stderr
    assert {entry.name for entry in tmp_path.iterdir()} == {"data", "opt.yml"}


@pytest.mark.parametrize(
    ("launcher", "world", "words"),
    [
        ("pytorch", "", r"Expected the environment of torchrun \(RANK, WORLD_SIZE\) for `--launcher pytorch`, but got"),
        ("slurm", "", r"Expected the environment of slurm .* Start with `srun`"),
        ("none", "2", r"Expected `--launcher pytorch` in 2 processes .* Add"),
    ],
)
def test_a_launcher_that_does_not_fit(monkeypatch, capsys, launcher, world, words):
    for name in ("RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", world)
    assert cli.main(["train", "-opt", "x.yml", "--launcher", launcher]) == 1
    assert re.search(words, capsys.readouterr().err)


@pytest.mark.parametrize(
    "argv", [[], ["--auto_resume", "--debug", "--force_yml", "name=a", "scale=2", "--local_rank", "3"]]
)
def test_arguments_reach_basicsr_unchanged(argv, tmp_path, monkeypatch, write):
    dscsr_model.register()
    from basicsr.utils.options import parse_options

    write()
    argv = ["-opt", "opt.yml", *argv]
    monkeypatch.setattr(sys, "argv", ["train.py", *argv])
    straight = vars(parse_options(str(tmp_path))[1])
    given = cli._parser().parse_args(["train", *argv])
    monkeypatch.setattr(sys, "argv", ["train.py", *launch.basicsr_arguments(given)])
    assert vars(parse_options(str(tmp_path))[1]) == straight


def test_arguments_of_the_caller_are_put_back(monkeypatch, tmp_path, write, capsys):
    import basicsr.train

    seen = []

    def fail(root_path: str) -> None:
        seen.append((sys.argv[0], root_path))
        raise ZeroDivisionError

    monkeypatch.setattr(basicsr.train, "train_pipeline", fail)
    before = list(sys.argv)
    write()
    assert cli.main(["train", "-opt", "opt.yml"]) == 1
    said = capsys.readouterr().err
    assert re.search(r"(?s)error: Expected your own code to run.*test_launch.py.*ZeroDivisionError", said)
    assert seen == [("dscsr train", str(tmp_path))]
    assert sys.argv == before

"""Validations of whole runs under BasicSR's loop: each once, under its true iteration, also after a kill."""

import re
import time
from pathlib import Path

import pytest
import torch
from training_runs import experiment, last_log, pipeline, prepare_dsclora, write_options

from dscsr_arch import load_model
from dscsr_arch.checkpoint import read_pickle, read_state_dict
from dscsr_model.cli.report_logs import read_logs
from dscsr_model.models.efficient_sr_model import EfficientSRModel

# The learning rate explodes after iteration 8: what was validated there remains the best.
BEST_AT_8 = {
    "train:total_iter": 13, "val:val_freq": 4, "train:warmup_iter": -1, "train:ema_decay": 0,
    "train:scheduler": {"type": "MultiStepLR", "milestones": [8], "gamma": 1000},
    "datasets:val_2": {"name": "Other", "type": "PairedImageDataset", "io_backend": {"type": "disk"},
                       "dataroot_gt": "data/gt", "dataroot_lq": "data/lq"},
}  # fmt: skip


class Killed(BaseException):
    """In place of SIGKILL, inside this process."""


def run_until(folder: Path, dataset: str, iteration: int) -> None:
    """Killed as this validation begins, which is after the checkpoint of its iteration was saved."""
    validate = EfficientSRModel.nondist_validation

    def killed(self, loader, current_iter, *arguments):
        if (loader.dataset.opt["name"], current_iter) == (dataset, iteration):
            arguments[0].flush()  # TensorBoard's writer does so every two minutes
            raise Killed
        validate(self, loader, current_iter, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EfficientSRModel, "nondist_validation", killed)
        with pytest.raises(Killed):
            pipeline(folder)
    time.sleep(1 - time.time() % 1)  # TensorBoard reads files by their names: the second, the process, a count of it


def plotted(folder: Path, tag: str = "metrics/Set/psnr") -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tb_logger/tiny"))
    events.Reload()
    return [(point.step, point.value) for point in events.Scalars(tag)]


def same_best(one: Path, two: Path) -> None:
    ours, theirs = (read_pickle(experiment(folder) / "models/net_g_best.pth") for folder in (one, two))
    assert ours["best"] == theirs["best"]
    assert ours["best"]["iter"] == 8
    assert all(torch.equal(ours["params"][name], tensor) for name, tensor in theirs["params"].items())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    write_options(folder, **BEST_AT_8)
    pipeline(folder)
    return folder


def test_the_last_validation_is_made_once_and_labelled_with_the_last_iteration(undisturbed):
    """13 is no multiple of 4: BasicSR validates it when the loop has ended, and calls it 14."""
    assert [step for step, _ in plotted(undisturbed)] == [4, 8, 12, 13]
    assert last_log(undisturbed).count("Validation Set") == 4
    assert "only* supported by SRModel" not in last_log(undisturbed)  # BasicSR's warning of two sets: ours takes them


@pytest.mark.parametrize(("dataset", "iteration", "made_up_for"), [("Set", 8, 2), ("Other", 8, 1), ("Set", 12, 0)])
def test_a_validation_that_a_kill_prevented_is_made_up_for_and_none_repeated(
    undisturbed, tmp_path, dataset, iteration, made_up_for
):
    """Killed at 12, with a checkpoint of 8: the resumed run knows that this was validated, and with what result."""
    write_options(tmp_path, **BEST_AT_8, **({"logger:save_checkpoint_freq": 8} if iteration == 12 else {}))
    run_until(tmp_path, dataset, iteration)
    pipeline(tmp_path, "--auto_resume")
    same_best(tmp_path, undisturbed)
    for tag in ("metrics/Set/psnr", "metrics/Other/psnr", "losses/l_pix"):  # steps that were undone stand there once
        assert plotted(tmp_path, tag) == plotted(undisturbed, tag)
    said = last_log(tmp_path)
    assert said.count("Validating iteration 8") == bool(made_up_for)
    assert len(re.findall(r"Validation (Set|Other)\n", said)) == made_up_for + 4  # of 12 and 13
    assert set(re.findall(r"@ (\S+) iter", said)) == {"8"}  # the best, whose checkpoint did not know of it


def test_a_base_is_validated_first_and_remains_the_best_where_training_gains_nothing(tmp_path):
    changes = {"train:total_iter": 5, "val:val_freq": 4, "train:optim_g:lr": 1e-30}
    write_options(tmp_path, **prepare_dsclora(tmp_path, 4), **changes)
    pipeline(tmp_path)
    assert [step for step, _ in plotted(tmp_path)] == [0, 4, 5]
    best = experiment(tmp_path) / "models/net_g_best.pth"
    assert read_pickle(best)["best"]["iter"] == 0
    base = load_model(tmp_path / "base.pth").fuse().state_dict()
    fused = read_state_dict(best.with_name("fused_g_best.pth"))
    assert all(torch.allclose(fused[name], tensor, atol=1e-6) for name, tensor in base.items())
    assert list(read_logs(experiment(tmp_path).glob("train_*.log")).metrics["Set", "psnr"]) == [0, 4, 5]
    pipeline(tmp_path, "--auto_resume")  # from 4, which was validated, to 5 again
    assert [step for step, _ in plotted(tmp_path)] == [0, 4, 5]

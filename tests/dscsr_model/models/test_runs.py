"""Whole runs of `dscsr train` with EfficientSRModel, in real processes: seen, killed, poisoned, shared by two ranks."""

import random
import shutil
import subprocess
import sys
from pathlib import Path

import option_files
import pytest
import torch
from rank_steps import one_and_two
from small_models import distance
from training_runs import COMMAND, experiment, train, train_until_killed, weights_on_disk, write_options

from dscsr_arch.checkpoint import read_pickle
from dscsr_model.training import checkpoints


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    write_options(folder)
    done = train(folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_what_a_person_sees(uninterrupted):
    _, done = uninterrupted
    lines = done.stderr.splitlines()
    steps = [line for line in lines if "[tiny..][epoch:" in line]
    assert len(steps) == 48
    assert "lr:(1.000e-02,)" not in steps[5]  # warming up
    for shown in ("iter:      48", "[eta: ", "time (data): ", " l_pix: ", " images_per_s: ", " peak_memory_gib: "):
        assert shown in steps[-1]
    assert sum("Validation Set" in line for line in lines) == 3
    assert sum("# psnr: " in line for line in lines) == 3
    assert any("saved as net_g_best.pth" in line for line in lines)
    assert "Warning" not in done.stderr
    assert "skipped" not in done.stderr


def test_what_tensorboard_shows(uninterrupted):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(uninterrupted[0] / "tb_logger/tiny"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {
        "losses/l_pix", "metrics/Set/psnr", "lr", "images_per_s", "peak_memory_gib"
    }  # fmt: skip
    assert [point.step for point in events.Scalars("lr")] == list(range(1, 49))
    assert events.Scalars("lr")[9].value == pytest.approx(0.005)
    assert [point.step for point in events.Scalars("metrics/Set/psnr")] == [16, 32, 48]


def resumed_and_compared(folder: Path, whole: Path, done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr
    assert "passed over" not in done.stderr
    assert distance(weights_on_disk(folder), weights_on_disk(whole)) == 0
    last = max(checkpoints.iterations(experiment(whole) / "training_states"))
    ours, theirs = (read_pickle(experiment(f) / f"training_states/{last}.state") for f in (folder, whole))
    assert str(ours["optimizers"]) == str(theirs["optimizers"])
    assert ours["epoch"] == theirs["epoch"]
    assert not list(experiment(folder).rglob(".*.tmp"))


def test_killed_twice_and_resumed_it_ends_where_it_would_have(uninterrupted, tmp_path):
    """Once resumed by `dscsr train`, once by BasicSR's own script, run as users of a clone run it."""
    import basicsr

    write_options(tmp_path)
    (tmp_path / "basicsr").mkdir()
    shutil.copy(Path(basicsr.__file__).with_name("train.py"), tmp_path / "basicsr")
    script = [sys.executable, "basicsr/train.py", "-opt", "opt.yml", "--auto_resume"]
    assert train_until_killed(tmp_path, COMMAND, f"iter:      {random.randint(10, 14)}", random.uniform(0, 0.03))
    assert train_until_killed(tmp_path, script, f"iter:      {random.randint(20, 38)}", random.uniform(0, 0.03))
    resumed_and_compared(tmp_path, uninterrupted[0], train(tmp_path, "--auto_resume"))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_25_kills(tmp_path, workers):
    """At random moments, many of them while saving, which is done every second step here."""
    changes = {
        "train:total_iter": 1500,
        "train:scheduler:T_max": 1500,
        "logger:save_checkpoint_freq": 2,
        "logger:keep_checkpoints": 200,
        "val:val_freq": 50,
        "datasets:train:num_worker_per_gpu": workers,
    }
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        write_options(folder, **changes)
    done = train(whole)
    assert done.returncode == 0, done.stderr
    states, models = experiment(killed) / "training_states", experiment(killed) / "models"
    newest = while_saving = 0
    for _ in range(25):
        command = [*COMMAND, *(["--auto_resume"] if newest else [])]
        assert train_until_killed(killed, command, "Start training", random.uniform(0.02, 0.4))
        while_saving += any(True for _ in experiment(killed).rglob(".*.tmp"))
        state, passed_over = checkpoints.newest_whole(states, models)
        assert not passed_over
        assert max(checkpoints.iterations(states), default=0) >= newest
        newest = int(state.stem) if state else 0
    assert while_saving > 0
    resumed_and_compared(killed, whole, train(killed, "--auto_resume"))


def test_permanent_nan_stops_and_the_checkpoint_on_disk_is_still_good(uninterrupted, tmp_path):
    """Goes on from the end of the run above; a mean beyond float32 makes every image infinite."""
    shutil.copytree(uninterrupted[0], tmp_path, dirs_exist_ok=True)
    infinite = {"datasets:train:mean": [1e39] * 3}
    write_options(tmp_path, **infinite, **{"train:total_iter": 200, "train:max_bad_steps": 7})
    done = train(tmp_path, "--auto_resume")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "skipped_steps: 3.0000e+00" in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("dscsr: error: Expected finite losses and gradients, but got none in the last 7 steps")
    assert "up to iteration 55 (l_pix nan)" in last
    assert "the last checkpoint is " in last
    assert "net_g_52.pth" in last
    for name in ("48", "52"):
        assert all(tensor.isfinite().all() for tensor in weights_on_disk(tmp_path, name).values())
    params = {name: tensor for name, tensor in weights_on_disk(tmp_path, "52").items() if name.startswith("params.")}
    assert all(torch.equal(tensor, weights_on_disk(tmp_path, "48")[name]) for name, tensor in params.items())


RANKS = """
import rank_steps, small_models, torch, yaml
from basicsr.data import build_dataloader, build_dataset

model, rank, world = rank_steps.begin()
step_losses = []
for step in range(1, 6):
    whole = {name: tensor.double() for name, tensor in small_models.batch(step).items()}
    if step == 4:
        whole['gt'][1] = torch.inf  # of rank 1 alone: its gradients stay finite, the loss does not
    model.feed_data({name: tensor[rank::world] for name, tensor in whole.items()})
    model.optimize_parameters(step)
    step_losses.append(model.get_current_log()['l_pix'])
weights = small_models.weights(model)
torch.set_default_dtype(torch.float32)
model.net_g.float(), model.net_g_ema.float()
section = yaml.safe_load(open('val.yml'))
model.validation(build_dataloader(build_dataset(section), section), 5, None, save_img=True)
if rank == 1:
    model.metric_results = {name: -value for name, value in model.metric_results.items()}
gathered = [model.metric_results] * world
if world > 1:
    torch.distributed.all_gather_object(gathered, model.metric_results)
model.save(0, 5)
found = {'weights': weights, 'losses': step_losses, 'scores': gathered, 'skipped': model.guard.total}
del model
rank_steps.end(rank, world, found)
"""


def test_two_ranks_step_and_validate_as_one_process_does(tmp_path, monkeypatch):
    """Five steps of Adam in float64 with the loss in float32; five images: one rank has three of them, one two."""
    import yaml

    names = [f"{number}.png" for number in range(5)]
    section = {
        "name": "Set", "type": "PairedImageDataset", "phase": "val", "scale": 2, "io_backend": {"type": "disk"},
        "dataroot_gt": str(option_files.write_images(tmp_path / "gt", names, (46, 38))),
        "dataroot_lq": str(option_files.write_images(tmp_path / "lq", names, (23, 19))),
    }  # fmt: skip
    (tmp_path / "val.yml").write_text(yaml.safe_dump(section))
    ssim = {"type": "calculate_ssim", "crop_border": 2, "test_y_channel": True}
    network = {"type": "SPAN", "feature_channels": 8, "upscale": 2}
    changes = {"val:metrics:ssim": ssim, "network_g": network}
    changes.update({"train:accumulate_steps": 2, "train:channels_last": True})
    one, two = one_and_two(tmp_path, monkeypatch, RANKS, changes)
    assert distance(one["weights"], two["weights"]) <= 1e-8
    assert one["losses"] == pytest.approx(two["losses"], rel=1e-6)
    assert one["skipped"] == two["skipped"] == 1
    assert two["scores"][0] == pytest.approx(one["scores"][0], abs=1e-9)
    assert two["scores"][1] == {name: -value for name, value in two["scores"][0].items()}  # every rank has them
    assert len(list((tmp_path / "two/visualization").rglob("*.png"))) == 5
    state = read_pickle(tmp_path / "two/training_states/5.state")
    assert len(state["random_states"]) == 2

"""Whole runs of `dscsr train`: seen, killed, poisoned; steps that two ranks share."""

import random
import shutil
from pathlib import Path

import option_files
import pytest
import torch
from rank_steps import one_and_two, share
from small_models import batch, distance, weights
from training_runs import (
    experiment,
    last_log,
    pipeline,
    prepare_csd,
    prepare_dsclora,
    train,
    train_until_killed,
    weights_on_disk,
    write_options,
)

from dscsr_arch.checkpoint import read_pickle
from dscsr_model.training import checkpoints


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    write_options(folder)
    done = train(folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_what_the_log_tells(uninterrupted):
    folder, done = uninterrupted
    lines = last_log(folder).splitlines()
    steps = [line for line in lines if "[tiny..][epoch:" in line]
    assert len(steps) == 48
    assert "lr:(1.000e-02,)" not in steps[5]  # warming up
    for shown in (
        "iter:      48",
        "[eta: 0:00:00, ",
        "time (data): ",
        " l_pix: ",
        " images_per_s: ",
        " peak_memory_gib",
    ):
        assert shown in steps[-1]
    assert sum("Validation Set" in line for line in lines) == 3
    assert sum("# psnr: " in line for line in lines) == 3
    assert any("saved as net_g_best.pth" in line for line in lines)
    assert "Warning" not in done.stderr
    assert not any("skipped" in line for line in lines)


def test_what_tensorboard_shows(uninterrupted):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(uninterrupted[0] / "tb_logger/tiny"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {
        "losses/l_pix", "metrics/Set/psnr", "metrics/Set/psnr_ema", "lr", "images_per_s", "peak_memory_gib"
    }  # fmt: skip
    assert [point.step for point in events.Scalars("lr")] == list(range(1, 49))
    assert events.Scalars("lr")[9].value == pytest.approx(0.005)
    assert [point.step for point in events.Scalars("metrics/Set/psnr")] == [16, 32, 48]


@pytest.mark.parametrize(
    ("kills", "workers"), [(2, 0), *(pytest.param(25, workers, marks=pytest.mark.slow) for workers in (0, 1))]
)
def test_killed_at_random_moments_and_resumed_it_ends_where_it_would_have(tmp_path, kills, workers):
    """Many of them while saving, every second step. Run by turns by `dscsr train` and by BasicSR's own script."""
    import basicsr

    steps = {"train:total_iter": 60 * kills, "train:scheduler:T_max": 60 * kills, "val:val_freq": 50}
    saving = {"logger:save_checkpoint_freq": 60, "logger:keep_checkpoints": 200, "logger:use_tb_logger": False}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        write_options(folder, **steps, **saving, **{"datasets:train:num_worker_per_gpu": workers})
        saving["logger:save_checkpoint_freq"] = 2
    (killed / "basicsr").mkdir()
    script = shutil.copy(Path(basicsr.__file__).with_name("train.py"), killed / "basicsr")
    pipeline(whole)
    states, models = experiment(killed) / "training_states", experiment(killed) / "models"
    newest = 0
    for kill in range(kills):
        resume, by = ["--auto_resume"] if newest else [], str(script) if kill % 2 else None
        assert train_until_killed(killed, random.uniform(0.1, 0.4), *resume, script=by)
        state, passed_over = checkpoints.newest_whole(states, models)
        assert not passed_over
        assert max(checkpoints.iterations(states), default=0) >= newest
        newest = int(state.stem) if state else 0
    pipeline(killed, "--auto_resume")
    assert distance(weights_on_disk(killed), weights_on_disk(whole)) == 0
    last = max(checkpoints.iterations(states))
    ours, theirs = (read_pickle(experiment(each) / f"training_states/{last}.state") for each in (killed, whole))
    assert str(ours["optimizers"]) == str(theirs["optimizers"])
    assert not list(experiment(killed).rglob(".*.tmp"))


def test_permanent_nan_stops_and_the_checkpoint_on_disk_is_still_good(uninterrupted, tmp_path):
    """Goes on from the end of the run above; a mean beyond float32 makes every image infinite."""
    shutil.copytree(uninterrupted[0], tmp_path, dirs_exist_ok=True)
    infinite = {"datasets:train:mean": [1e39] * 3}
    write_options(tmp_path, **infinite, **{"train:total_iter": 200, "train:max_bad_steps": 7})
    done = train(tmp_path, "--auto_resume")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "skipped_steps: 3.0000e+00" in last_log(tmp_path)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("dscsr: error: Expected finite losses and gradients, but got none in the last 7 steps")
    assert "up to iteration 55 (l_pix nan)" in last
    assert "the last checkpoint is " in last
    assert "net_g_52.pth" in last
    for name in ("48", "52"):
        assert all(tensor.isfinite().all() for tensor in weights_on_disk(tmp_path, name).values())
    params = {name: tensor for name, tensor in weights_on_disk(tmp_path, "52").items() if name.startswith("params.")}
    assert all(torch.equal(tensor, weights_on_disk(tmp_path, "48")[name]) for name, tensor in params.items())


# --- two ranks step as one process does ---------------------------------------------------------------------------


def test_two_ranks_step_and_validate_as_one_process_does(tmp_path):
    """Five steps of Adam in float64 with the loss in float32; five images: one rank has three of them, one two."""
    names = [f"{number}.png" for number in range(5)]
    section = {
        "name": "Set", "type": "PairedImageDataset", "phase": "val", "scale": 2, "io_backend": {"type": "disk"},
        "dataroot_gt": str(option_files.write_images(tmp_path / "gt", names, (46, 38))),
        "dataroot_lq": str(option_files.write_images(tmp_path / "lq", names, (23, 19))),
    }  # fmt: skip
    ssim = {"type": "calculate_ssim", "crop_border": 2, "test_y_channel": True}
    network = {"type": "SPAN", "feature_channels": 8, "upscale": 2}
    changes = {"network_g": network, "train:accumulate_steps": 2, "train:channels_last": True, "val:metrics:ssim": ssim}

    def steps(model, rank, world):
        from basicsr.data import build_dataloader, build_dataset

        losses = []
        for step in range(1, 6):
            whole = batch(step)
            if step == 4:
                whole["gt"][1] = torch.inf  # of rank 1 alone: its gradients stay finite, the loss does not
            model.feed_data(share(whole, rank, world))
            model.optimize_parameters(step)
            losses.append(model.get_current_log()["l_pix"])
        found = {"weights": weights(model), "losses": losses, "skipped": model.guard.total}
        torch.set_default_dtype(torch.float32)
        model.net_g.float(), model.net_g_ema.float()
        model.validation(build_dataloader(build_dataset(section), section), 5, None, save_img=True)
        scores = [model.metric_results] * world
        if world > 1:
            torch.distributed.all_gather_object(scores, model.metric_results)
        model.save(0, 5)
        return {**found, "scores": scores}

    one, two = one_and_two(tmp_path, lambda world: changes, steps)
    assert distance(one["weights"], two["weights"]) <= 1e-8
    assert one["losses"] == pytest.approx(two["losses"], rel=1e-6)
    assert one["skipped"] == two["skipped"] == 1
    for scores in two["scores"]:  # every rank has them
        assert scores == pytest.approx(one["scores"][0], abs=1e-9)
    assert len(list((tmp_path / "2/visualization").rglob("*.png"))) == 5
    state = read_pickle(tmp_path / "2/training_states/5.state")
    assert len(state["random_states"]) == 2


def csd_with_all_losses(folder):
    """One process has the batch in two parts, each rank one of them; all of a part are its negatives, `every` 2."""
    return prepare_csd(folder, 2) | {
        "path:pretrain_network_g": str(folder / "teacher.pth"),
        "train:teacher_opt": {"type": "L1Loss", "output_of": "teacher", "end_iter": 2},
        "train:contrastive_opt:num_negatives": 2,
        "train:contrastive_opt:start_iter": 2,
        "train:contrastive_opt:end_iter": 4,  # other widths run then
    }


def csd_from_scratch(folder):
    return {name: value for name, value in prepare_csd(folder, 2).items() if name in ("model_type", "network_g")}


def quantized(folder):
    network = {"type": "EDSR", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 6, "num_block": 1, "upscale": 2}
    return {"network_g": network, "train:quantize": {"method": "pact", "bits": 4, "clip_decay": 0.1}}


REST = [["l_pix"], ["l_pix", "l_contrastive"], ["l_pix"]]
DISTILLED = ["l_pix", "l_teacher", "l_affinity", "l_hint"]
KINDS = {
    "distillation": (lambda folder: prepare_dsclora(folder, 2) | {"train:accumulate_steps": 2}, [DISTILLED] * 5),
    "widths": (csd_with_all_losses, [["l_pix", "l_teacher"], ["l_pix", "l_teacher", "l_contrastive"], *REST]),
    "widths from scratch": (csd_from_scratch, [["l_pix"]] * 5),
    "quantized": (quantized, [["l_clips", "l_pix"]] * 5),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_train_by_every_method_as_one_process_does(tmp_path, monkeypatch, kind):
    """Float64, but for the losses, which are formed in float32."""
    monkeypatch.chdir(tmp_path)
    prepare, named = KINDS[kind]
    changes = prepare(tmp_path) | {"train:grad_clip_norm": 1.0}

    def steps(model, rank, world):
        for teacher in model.teacher.networks if kind == "distillation" else ():
            teacher.double()
        losses = []
        for step in range(1, 6):
            model.feed_data({name: tensor.double().chunk(world)[rank] for name, tensor in batch(step).items()})
            model.optimize_parameters(step)
            losses.append({name: value for name, value in model.get_current_log().items() if name.startswith("l_")})
        model.save(0, 5)
        trained = weights(model) | (model.regressors.state_dict() if kind == "distillation" else {})
        return {"weights": trained, "losses": losses}

    one, two = one_and_two(tmp_path, lambda world: {"train:accumulate_steps": 2 // world, **changes}, steps)
    assert distance(one["weights"], two["weights"]) <= 1e-6
    assert [sorted(terms) for terms in one["losses"]] == [sorted(terms) for terms in named]
    for ours, theirs in zip(one["losses"], two["losses"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    also = "net_g" if kind == "quantized" else "student_w0.5" if "widths" in kind else "fused_g"
    assert (tmp_path / f"2/models/{also}_5.pth").is_file()

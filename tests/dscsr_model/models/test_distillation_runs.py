"""Distillation in real processes: killed and resumed with its teacher; a step shared by two ranks."""

import pytest
from rank_steps import one_and_two
from small_models import distance
from training_runs import (
    COMMAND,
    experiment,
    prepare_dsclora,
    train,
    train_until_killed,
    weights_on_disk,
    write_options,
)


def test_killed_and_resumed_with_its_teacher_it_ends_where_it_would_have(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    shorter = {"train:total_iter": 16, "val:val_freq": 8, "train:scheduler:T_max": 16, "logger:keep_checkpoints": 2}
    for folder in (whole, killed):
        write_options(folder, **prepare_dsclora(folder, 4), **shorter)
    done = train(whole)
    assert done.returncode == 0, done.stderr
    assert train_until_killed(killed, COMMAND, "iter:      10", 0.01)
    done = train(killed, "--auto_resume")
    assert done.returncode == 0, done.stderr
    assert "Teacher: SPAN of" in done.stderr
    assert distance(weights_on_disk(killed), weights_on_disk(whole)) == 0
    names = {f"{kind}_g_{n}.pth" for kind in ("net", "lora", "fused") for n in ("12", "16", "best", "latest")}
    assert {file.name for file in (experiment(killed) / "models").iterdir()} == names


RANKS = """
import rank_steps, small_models

model, rank, world = rank_steps.begin()
for teacher in model.teacher.networks:
    teacher.double()
losses = []
for step in range(1, 4):
    whole = {name: tensor.double() for name, tensor in small_models.batch(step).items()}
    model.feed_data({name: tensor[rank::world] for name, tensor in whole.items()})
    model.optimize_parameters(step)
    log = model.get_current_log()
    losses.append([log[name] for name in ('l_pix', 'l_teacher', 'l_affinity')])
model.save(0, 3)
found = {'weights': small_models.weights(model), 'losses': losses}
del model
rank_steps.end(rank, world, found)
"""


@pytest.mark.slow
def test_two_ranks_step_as_one_process_does(tmp_path, monkeypatch):
    changes = prepare_dsclora(tmp_path, 2) | {"train:accumulate_steps": 2, "train:grad_clip_norm": 1.0}
    one, two = one_and_two(tmp_path, monkeypatch, RANKS, changes)
    assert distance(one["weights"], two["weights"]) <= 1e-6
    for ours, theirs in zip(one["losses"], two["losses"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert (tmp_path / "two/models/fused_g_3.pth").is_file()

"""CSD in real processes: killed and resumed; a step shared by two ranks; a test of every width."""

import subprocess
import sys
from pathlib import Path

import option_files
import pytest
import torch
import yaml
from rank_steps import one_and_two
from small_models import distance
from training_runs import COMMAND, ENV, experiment, train, train_until_killed, weights_on_disk, write_options

from dscsr_arch.checkpoint import save_state_dict
from dscsr_arch.cssr_arch import find_backbone

LOSSES = {
    "train:teacher_opt": {"type": "L1Loss", "output_of": "teacher", "end_iter": 14},
    "train:contrastive_opt": {
        "type": "ContrastiveLoss", "loss_weight": 0.1, "num_negatives": 1, "features": "teacher",
        "feature_layers": ["conv_first", "body.0"],
    },
}  # fmt: skip


def prepare(folder: Path, **changes) -> None:
    """A teacher in ``folder``, and the options of CSD with a student of half its width."""
    backbone = {**option_files.edsr(), "num_feat": 4}
    arguments = {name: value for name, value in backbone.items() if name != "type"}
    folder.mkdir(exist_ok=True)
    torch.manual_seed(2)
    save_state_dict({"params": find_backbone("EDSR")(**arguments).state_dict()}, folder / "teacher.pth")
    shorter = {"train:total_iter": 16, "val:val_freq": 8, "train:scheduler:T_max": 16, "logger:keep_checkpoints": 2}
    csd = {
        "model_type": "CSDModel",
        "network_g": {"type": "CSSRNet", "backbone": backbone, "widths": [0.5]},
        "path:pretrain_network_g": "teacher.pth",
    }
    write_options(folder, **csd, **LOSSES, **shorter, **changes)


def test_killed_and_resumed_it_ends_where_it_would_have_and_every_width_is_tested(tmp_path):
    """Killed before the teacher's loss ends; its first layers go on from the checkpoint, without its file."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        prepare(folder)
    done = train(whole)
    assert done.returncode == 0, done.stderr
    last = [line for line in done.stderr.splitlines() if "[tiny..][epoch:" in line]
    assert "l_teacher: " in last[13]
    assert "l_teacher: " not in last[14]
    assert "psnr_w0.5: " in done.stderr
    assert "psnr_w1.0: " in done.stderr
    assert train_until_killed(killed, COMMAND, "iter:      10", 0.01)
    (killed / "teacher.pth").unlink()
    done = train(killed, "--auto_resume")
    assert done.returncode == 0, done.stderr
    assert distance(weights_on_disk(killed), weights_on_disk(whole)) == 0
    names = {f"{kind}_{n}.pth" for kind in ("net_g", "student_w0.5") for n in ("12", "16", "best", "latest")}
    assert {file.name for file in (experiment(killed) / "models").iterdir()} == names

    options = yaml.safe_load((killed / "opt.yml").read_text())
    test = option_files.testing_options(killed / "data") | {key: options[key] for key in ("model_type", "network_g")}
    test = option_files.changed(test, {"path:pretrain_network_g": "experiments/tiny/models/net_g_16.pth"})
    option_files.write_options(killed / "test.yml", test)
    command = [sys.executable, "-m", "dscsr_model.cli", "test", "-opt", "test.yml"]
    done = subprocess.run(command, cwd=killed, env=ENV, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("# ssim_w0.5: ") == done.stderr.count("# ssim_w1.0: ") == 2
    images = {file.name for file in (killed / "results/tiny_test/visualization/one").iterdir()}
    assert images == {f"{name}_w{w}_tiny_test.png" for name in ("baby", "bird", "head") for w in (0.5, 1.0)}


RANKS = """
import os
import rank_steps, small_models, torch

world = int(os.environ.get('WORLD_SIZE', 1))
model, rank, world = rank_steps.begin(model_type='CSDModel', **{'train:accumulate_steps': 2 // world})
torch.manual_seed(rank)  # as BasicSR does
losses = []
for step in range(1, 6):  # the teacher's own loss ends, then contrast: other widths run then
    whole = {name: tensor.double() for name, tensor in small_models.batch(step).items()}
    model.feed_data({name: tensor.chunk(world)[rank] for name, tensor in whole.items()})
    model.optimize_parameters(step)
    losses.append({name: value for name, value in model.get_current_log().items() if name.startswith('l_')})
model.save(0, 5)
found = {'weights': small_models.weights(model), 'losses': losses}
del model
rank_steps.end(rank, world, found)
"""


@pytest.mark.slow
@pytest.mark.parametrize("start", ["teacher", "scratch"])
def test_two_ranks_step_as_one_process_does(tmp_path, monkeypatch, start):
    """One process has the batch in two parts, each rank one of them; all of a part are its negatives."""
    backbone = {"type": "EDSR", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_block": 1, "upscale": 2}
    network = {"type": "CSSRNet", "backbone": backbone, "widths": [0.25, 0.5]}
    changes = {"network_g": network, "train:grad_clip_norm": 1.0}
    if start == "teacher":
        arguments = {name: value for name, value in backbone.items() if name != "type"}
        torch.manual_seed(2)
        save_state_dict({"params": find_backbone("EDSR")(**arguments).state_dict()}, tmp_path / "teacher.pth")
        contrast = {"type": "ContrastiveLoss", "loss_weight": 0.1, "num_negatives": 2, "features": "teacher"}
        changes |= {
            "path:pretrain_network_g": str(tmp_path / "teacher.pth"),
            "train:teacher_opt": {"type": "L1Loss", "output_of": "teacher", "end_iter": 2},
            "train:contrastive_opt": {**contrast, "end_iter": 4},
        }
    else:
        changes["network_g"] = {**network, "widths": [0.5]}
    one, two = one_and_two(tmp_path, monkeypatch, RANKS, changes)
    # float64, but for the losses, which are formed in float32
    assert distance(one["weights"], two["weights"]) <= 1e-6
    for ours, theirs in zip(one["losses"], two["losses"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    if start == "teacher":
        assert ["l_teacher" in terms for terms in one["losses"]] == [True, True, False, False, False]
        assert ["l_contrastive" in terms for terms in one["losses"]] == [True] * 4 + [False]
    assert (tmp_path / "two/models/student_w0.5_5.pth").is_file()

"""Tables of stages: what makes sense, and what is said of those that do not."""

from pathlib import Path
from typing import Any

import pytest
from option_files import CONTRAST, L1, REMOVED

OURS = "EfficientSRModel"
MSE = {"type": "MSELoss", "loss_weight": 1.0}


def table(*stages: dict[str, Any]) -> dict[str, Any]:
    return {"train:stages": list(stages)}


COSINE = {"type": "CosineAnnealingRestartLR", "periods": [6], "restart_weights": [1]}
GOOD: list[tuple[str, dict[str, Any]]] = [
    (OURS, table({"until": 4.0}, {"until": 10, "gt_size": 48, "batch_size_per_gpu": 1})),
    (OURS, table({"until": 4, "train": {"pixel_opt": None, "mse_opt": MSE}}, {"train": {"optim_g": {"lr": 0.1}}})),
    # every stage brings its losses; a schedule has to last for its stage alone
    (OURS, {"train:pixel_opt": REMOVED, **table({"until": 4, "train": {"a_opt": L1}},
                                                {"train": {"b_opt": MSE, "scheduler": COSINE}})}),
    ("raw crops", table({"until": 1, "gt_size": 16}, {"until": 2, "train": {"pixel_opt": {"loss_weight": 2}}}, {})),
    ("DistillationModel", table({"until": 5}, {"train": {"teacher_opt": None, "affinity_opt": {"loss_weight": 0.1}}})),
    ("CSDModel", table({"until": 5}, {"train": {"teacher_opt": None, "contrastive_opt": {"num_negatives": 1}}})),
]  # fmt: skip


@pytest.mark.parametrize(("model", "changes"), GOOD)
def test_tables_that_make_sense(check_all, model, changes):
    check_all(changes, {}, model)


S = "train: stages: "
BAD: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    # the table
    (OURS, {"train:stages": {"until": 5}}, {"train: stages": "Expected a list of stages, `- until: …` and what"}),
    (OURS, {"train:stages": []}, {"train: stages": "Expected a list of stages"}),
    (OURS, {"train:stages": [{"until": 5}, 7]}, {S + "2": "Expected a section (indented `key: value` lines), but got"}),
    (OURS, table({}, {"until": 10}), {S + "1: until": "Expected the last iteration of the stage, but got no such key"}),
    (OURS, table({"until": 5}, {"until": 5}, {"until": 12}),
     {S + "2: until": "Expected more than 5, where the stage before ends, but got 5",
      S + "3: until": "Expected `total_iter: 10`, as the last stage ends there, but got 12. Correct one of them, or"}),
    (OURS, table({"until": 10}, {}),
     {S + "2: until": "Expected more than 10, where the stage before ends, but got `total_iter: 10`"}),
    (OURS, table({"until": "five", "gt_size": 0}),
     {S + "1: until": "Expected a whole number of iterations, at least 1, but got the text 'five'",
      S + "1: gt_size": "Expected a whole number of at least 1, but got 0"}),
    (OURS, {"train:max_seconds": 60, **table({"until": 5}, {})},
     {"train: max_seconds": "Expected either `stages` or `max_seconds`, but got both: nobody could say when a stage"}),
    # keys
    (OURS, table({"until": 5, "gt_szie": 32, "train": {"warm_iter": 3}}, {}),
     {S + "1: gt_szie": "Did you mean `gt_size`?", S + "1: train: warm_iter": "Did you mean `warmup_iter`?"}),
    (OURS, table({"until": 5, "network_g": {}, "dataroot_gt": "x", "lr": 1, "pixel_opt": L1}, {}),
     {S + "1: network_g": "Expected what a stage may change (`gt_size`, `batch_size_per_gpu`, `optim_g`, `scheduler`,",
      S + "1: dataroot_gt": "It is one for the whole run: remove it here.",
      S + "1: lr": "Write `train: {optim_g: {lr: …}}`.",
      S + "1: pixel_opt": "It belongs under `train:` of the stage."}),
    (OURS, table({"until": 5},
                 {"train": {"gt_size": 32, "ema_decay": 0.9, "lr": 1, "optim_g": {"type": "SGD", "lr": 1},
                            "x_opt": "MSELoss"}}),
     {S + "2: train: gt_size": "It belongs beside `train:` of the stage.",
      S + "2: train: ema_decay": "It is one for the whole run",
      S + "2: train: lr": "Write `train: {optim_g: {lr: …}}`.",
      S + "2: train: optim_g: type": "Expected one optimizer for the whole run, but got the text 'SGD'. Remove it",
      S + "2: train: x_opt": "`key: value` lines), or `~` for none, but got the text 'MSELoss'"}),
    (OURS, table({"until": 5, "train": {"optim_g": {"lr": "1e-4"}}}, {"gt_size": 30}),
     {S + "1: train: optim_g: lr": "Expected a number, but got the text '1e-4'. Write `0.0001`",
      S + "2: gt_size": "Expected a multiple of the scale, 4, but got 30"}),
    # whose
    ("SRModel", table({"until": 5}, {}), {"train: stages": "Expected a model type that knows `stages:`"}),
    (OURS, {"datasets:train:type": "FFHQDataset", **table({"until": 5, "gt_size": 16}, {})},
     {"datasets: train: type": "a dataset of image pairs",
      S + "1: gt_size": "Expected a dataset whose patches can change (PairedCropDataset, PairedImageDataset), but"}),
    # values that a stage has, or that all have: these are told once
    (OURS, {"datasets:train:gt_size": 30, **table({"until": 5, "gt_size": 52, "batch_size_per_gpu": 9}, {})},
     {S + "1: gt_size": "Expected at most 48, the smallest side of the GT images, but got 52",
      S + "1: batch_size_per_gpu": "Expected at most 6 (images of an epoch), but got 9 of 6 images",
      "datasets: train: gt_size": "Expected a multiple of the scale, 4, but got 30"}),
    (OURS, table({"until": 5}, {"train": {"pixel_opt": {"type": "L1Los"}, "optim_g": {"lr": -1}}}),
     {S + "2: train: pixel_opt: type": "Did you mean `L1Loss`?",
      S + "2: train: optim_g: lr": "Expected a number above 0, but got -1"}),
    (OURS, table({"until": 5}, {"train": {"pixel_opt": {"loss_weigth": 2}, "optim_g": {"betas": [0.9]}}}),
     {S + "2: train: pixel_opt: loss_weigth": "Did you mean `loss_weight`?",
      S + "2: train: optim_g": "Expected values that Adam takes"}),
    (OURS, table({"until": 5}, {"train": {"x_opt": {"loss_weight": 1}}}), {S + "2: train: x_opt: type": "Add `type:`"}),
    (OURS, table({"until": 5}, {"train": {"pixel_opt": None}}), {S + "2: train: pixel_opt": "Expected a loss ("}),
    (OURS, table({"until": 2}, {"train": {"scheduler": COSINE}}),
     {S + "2: train: scheduler: periods": "but got 6, shorter than the 8 iterations up to 10"}),
    ("DistillationModel",
     {"teacher:border": 3, **table({"until": 5, "gt_size": 24}, {"train": {"x_opt": {**L1, "layers": ["no"]}}})},
     {"teacher: border": "while patches have 6 LQ pixels",
      S + "2: train: x_opt: layers: no": "Expected a layer of SPAN"}),
    ("CSDModel", table({"until": 7}, {"train": {"pixel_opt": None, "contrastive_opt": None}}),
     {"train: total_iter": "Expected a loss in every iteration, but got none in iteration 8 of 10"}),
    ("CSDModel", table({"until": 5, "batch_size_per_gpu": 1},
                       {"train": {"contrastive_opt": {**CONTRAST, "feature_layers": ["conv_first"]}}}),
     {"train: contrastive_opt: num_negatives": "Expected a batch of at least 2 negatives, but got 1",
      S + "2: train: contrastive_opt: feature_layers": "Give the loss of this stage another name."}),
]  # fmt: skip


@pytest.mark.parametrize(("model", "changes", "expected"), BAD)
def test_tables_that_do_not(check_all, model, changes, expected):
    """All faults at once, each where its value stands."""
    check_all(changes, expected, model)


def test_faults_know_their_lines(check):
    (text,) = check(table({"until": 5}, {"gt_size": 30}), OURS).values()
    line = int(text.split(":")[1].split()[0])
    assert "gt_size: 30" in Path("options.yml").read_text(encoding="utf-8").splitlines()[line - 1]

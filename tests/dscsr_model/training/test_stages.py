"""What `train: stages` makes of the options."""

import pytest

from dscsr_model.training.stages import announcement, cost_until, stage_at, stages_of

L1, COSINE = {"type": "L1Loss", "loss_weight": 1.0}, {"type": "CosineAnnealingLR", "T_max": 9}
TRAIN = {"total_iter": 9, "optim_g": {"type": "Adam", "lr": 0.1}, "scheduler": COSINE, "pixel_opt": L1, "x_opt": None}
DATA = {"gt_size": 16, "batch_size_per_gpu": 2}


def test_a_stage_is_the_section_with_what_its_entry_changes():
    own = {"optim_g": {"lr": 0.2}, "pixel_opt": {"loss_weight": 3}, "x_opt": L1}
    others = {"scheduler": {"type": "StepLR", "step_size": 2}, "pixel_opt": {"type": "MSELoss"}}
    entries = [{"until": 3.0, "gt_size": 8}, {"until": 5, "train": own}, {"batch_size_per_gpu": 4, "train": others}]
    one, two, three = stages_of({**TRAIN, "stages": entries}, DATA)
    assert [(stage.first, stage.until, stage.schedule_after) for stage in (one, two, three)] == [
        (1, 3, 0), (4, 5, 3), (6, 9, 5)
    ]  # fmt: skip
    assert one.train == TRAIN
    assert two.train["optim_g"] == {"type": "Adam", "lr": 0.2}
    assert (two.train["pixel_opt"], two.train["x_opt"]) == ({"type": "L1Loss", "loss_weight": 3}, L1)
    assert three.train == {**TRAIN, **others}
    assert [(stage.gt_size, stage.data["batch_size_per_gpu"]) for stage in (one, two, three)] == [
        (8, 2),
        (16, 2),
        (16, 4),
    ]
    assert TRAIN["optim_g"]["lr"] == 0.1


def test_a_stage_without_a_schedule_goes_on_with_that_of_the_run():
    entries = [{"until": 3, "train": {"warmup_iter": 2}}, {"until": 6, "train": {"optim_g": {"lr": 1}}}, {}]
    stages = stages_of({**TRAIN, "stages": entries}, DATA)
    assert [stage.schedule_after for stage in stages] == [0, 3, 0]
    told = "Stage 3 of 3, iterations 7 to 9: optim_g:lr 1 → 0.1, the schedule of the run"
    assert announcement(stages, 3) == told


@pytest.mark.parametrize("train", [TRAIN, {**TRAIN, "stages": None}, {}])
def test_without_stages_there_is_one(train):
    (stage,) = stages_of(train, DATA)
    assert (stage.first, stage.gt_size, stage.train) == (1, None, {k: v for k, v in train.items() if k != "stages"})
    assert stage_at([stage], 10**9) is stage


def test_costs_are_pixels():
    stages = stages_of({**TRAIN, "stages": [{"until": 3}, {"gt_size": 32, "batch_size_per_gpu": 1}]}, DATA)
    assert [cost_until(stages, iteration) / 512 for iteration in (0, 1, 3, 4, 9)] == [0, 1, 3, 5, 15]
    assert [stage_at(stages, iteration).number for iteration in (1, 3, 4, 9, 10)] == [1, 1, 2, 2, 2]

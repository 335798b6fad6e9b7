"""Any optimizer and schedule of torch by name, and BasicSR's warm-up in front of it."""

import pytest
import torch
from torch import nn

from dscsr_model.training import optimizers
from dscsr_model.training.optimizers import WarmedSchedule


@pytest.mark.parametrize("name", optimizers.optimizer_names())
def test_every_optimizer_on_the_list_takes_a_step(name):
    weight = nn.Parameter(torch.ones(2, 3))  # Muon takes matrices only
    optimizer = optimizers.build_optimizer(name, [weight], lr=0.01)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert type(optimizer).__name__ == name
    assert not torch.equal(weight, torch.ones(2, 3))
    assert not optimizer.defaults.get("fused")  # on the CPU


def test_the_lists_hold_what_people_use():
    assert {"Adam", "AdamW", "NAdam", "RAdam", "SGD", "RMSprop", "Adafactor"} <= set(optimizers.optimizer_names())
    wanted = {"CosineAnnealingLR", "OneCycleLR", "StepLR", "MultiStepLR", "CosineAnnealingWarmRestarts"}
    assert wanted <= set(optimizers.scheduler_names())
    unusable = {"Optimizer", "LBFGS", "SparseAdam", "LRScheduler", "_LRScheduler", "ReduceLROnPlateau", "LambdaLR"}
    assert not unusable & {*optimizers.optimizer_names(), *optimizers.scheduler_names()}


def rates_of(steps: int, warm_up_steps: int) -> list[float]:
    """The learning rates of a run with a chained schedule."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    schedule = WarmedSchedule("CosineAnnealingLR", optimizer, T_max=20)
    rates = []
    for step in range(1, steps + 1):
        schedule.step(step, warm_up_steps)
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
    return rates


def test_after_the_warm_up_the_schedule_is_where_it_would_be_without():
    plain, warmed = rates_of(12, -1), rates_of(12, 5)
    assert warmed[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert warmed[4:] == pytest.approx(plain[4:], rel=1e-12)
    assert plain[4] < 0.95

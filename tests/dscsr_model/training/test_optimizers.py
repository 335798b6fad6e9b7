"""Any optimizer and schedule of torch by name, and BasicSR's warm-up in front of it."""

import pytest
import torch
from torch import nn

from dscsr_model.training import optimizers
from dscsr_model.training.optimizers import WarmUp


def parameters() -> list[nn.Parameter]:
    return list(nn.Linear(3, 2).parameters())


@pytest.mark.parametrize("name", optimizers.optimizer_names())
def test_every_optimizer_on_the_list_takes_a_step(name):
    weights = parameters()[:1]  # Muon takes matrices only
    before = weights[0].detach().clone()
    optimizer = optimizers.build_optimizer(name, weights, lr=0.01)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert type(optimizer).__name__ == name
    assert not torch.equal(weights[0], before)
    assert not optimizer.defaults.get("fused")  # on the CPU


def test_the_lists_hold_what_people_use():
    assert {"Adam", "AdamW", "NAdam", "RAdam", "SGD", "RMSprop", "Adafactor"} <= set(optimizers.optimizer_names())
    wanted = {"CosineAnnealingLR", "OneCycleLR", "StepLR", "MultiStepLR", "CosineAnnealingWarmRestarts"}
    assert wanted <= set(optimizers.scheduler_names())
    assert not {"Optimizer", "LRScheduler", "_LRScheduler"} & {
        *optimizers.optimizer_names(), *optimizers.scheduler_names()
    }  # fmt: skip


@pytest.mark.parametrize("name", ["Adan", "LBFGS", "SparseAdam", "Optimizer", "lr_scheduler"])
def test_other_optimizers_are_refused(name):
    with pytest.raises(ValueError, match=rf"Expected `optim_g: type` to be one of .*AdamW, .*, but got '{name}'"):
        optimizers.optimizer_class(name)


@pytest.mark.parametrize("name", ["Cosine", "ReduceLROnPlateau", "LambdaLR", "LRScheduler", "SequentialLR"])
def test_other_schedules_are_refused(name):
    message = rf"Expected `scheduler: type` to be one of .*CosineAnnealingLR, .*, but got '{name}'"
    with pytest.raises(ValueError, match=message):
        optimizers.scheduler_class(name)


def rates_of(steps: int, warm_up_steps: int) -> list[float]:
    """The learning rates of a run with a chained schedule, in the order of EfficientSRModel's loop."""
    optimizer = torch.optim.SGD(parameters(), lr=1.0)
    schedule, warm_up = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20), WarmUp([optimizer])
    rates = []
    for step in range(1, steps + 1):
        warm_up.before_step()
        if step > 1:
            optimizer.step()
            schedule.step()
        if step < warm_up_steps:
            warm_up.after_step()
            optimizer.param_groups[0]["lr"] = step / warm_up_steps
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def test_after_the_warm_up_the_schedule_is_where_it_would_be_without():
    plain, warmed = rates_of(12, -1), rates_of(12, 5)
    assert warmed[:4] == [0.2, 0.4, 0.6, 0.8]
    assert warmed[4:] == pytest.approx(plain[4:], rel=1e-12)
    assert plain[4] < 0.95

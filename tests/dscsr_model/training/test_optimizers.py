"""Any optimizer and schedule of torch by name, and BasicSR's warm-up in front of it."""

import pytest
import torch
from torch import nn

from dscsr_model.training import optimizers


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

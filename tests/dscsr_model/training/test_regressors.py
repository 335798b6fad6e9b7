"""What goes on in a training whose regressors are others; how they train: models/test_distillation_model.py."""

import pytest
import torch
from torch import nn

from dscsr_model.training.optimizers import take_over
from dscsr_model.training.regressors import Regressors, of_checkpoint

BEFORE, TODAY = ({("a.0", "b"): (2, 3)}, {}), ({("a.0", "b"): (2, 4)}, {}, {("a.0", "b"): (2, 3), ("c", "d"): (2, 3)})


def stepped(network: nn.Module, regressors: Regressors) -> torch.optim.Optimizer:
    parameters = [*network.parameters(), *regressors.parameters()]
    for parameter in parameters:
        parameter.grad = torch.rand_like(parameter)
    optimizer = torch.optim.Adam(parameters)
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("today", TODAY)
@pytest.mark.parametrize("before", BEFORE)
def test_the_networks_moments_go_on(before, today):
    network, one, two = nn.Conv2d(2, 2, 1), Regressors(before), Regressors(today)
    saved = {"optimizers": [stepped(network, one).state_dict()], "regressors": one.state_dict()}
    assert two.fit(one.state_dict()) == (before == today)
    optimizer = torch.optim.Adam([*network.parameters(), *two.parameters()])
    (carried,) = of_checkpoint(saved, two, weights=2)
    assert take_over(optimizer, carried)
    moments = optimizer.state_dict()["state"]
    assert sorted(moments) == [0, 1]
    assert torch.equal(moments[0]["exp_avg"], saved["optimizers"][0]["state"][0]["exp_avg"])
    assert of_checkpoint(saved, two, weights=1) == saved["optimizers"]  # of another network

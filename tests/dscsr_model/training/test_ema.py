"""The running average, beside BasicSR's formula written out."""

import pytest
import torch
from torch import nn

from dscsr_model.training.ema import update_average


def network() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    nn.init.normal_(net[1].weight)
    nn.init.normal_(net[1].bias)
    net(torch.rand(2, 3, 5, 5))  # its running statistics are buffers, the counter is an integer
    return net


@pytest.mark.parametrize("decay", [0.9, 0.3])
def test_parameters_and_float_buffers_move_and_counters_are_copied(decay):
    average, net = network(), network()
    net(torch.rand(2, 3, 5, 5))
    before = {name: tensor.clone() for name, tensor in average.state_dict().items()}
    update_average(average, net, decay)
    for name, tensor in average.state_dict().items():
        theirs = net.state_dict()[name]
        wanted = decay * before[name] + (1 - decay) * theirs if theirs.is_floating_point() else theirs
        torch.testing.assert_close(tensor, wanted.to(tensor.dtype))
        assert not torch.equal(tensor, before[name]), name


def test_decay_zero_copies_exactly_even_onto_what_is_not_finite():
    average, net = network(), network()
    with torch.no_grad():
        average[0].weight.fill_(torch.nan)
    update_average(average, net, 0)
    assert all(torch.equal(average.state_dict()[name], tensor) for name, tensor in net.state_dict().items())


def test_the_network_in_training_is_left_alone():
    average, net = network(), network()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    update_average(average, net, 0.5)
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())

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


@pytest.mark.parametrize("decay", [0.9, 0])
def test_parameters_and_float_buffers_move_and_counters_are_copied(decay):
    """A decay of 0 copies exactly, even onto what is not finite."""
    average, net = network(), network()
    net(torch.rand(2, 3, 5, 5))
    if decay == 0:
        average[0].weight.detach().fill_(torch.nan)
    before, theirs = ({name: tensor.clone() for name, tensor in one.state_dict().items()} for one in (average, net))
    update_average(average, net, decay)
    for name, tensor in average.state_dict().items():
        wanted = theirs[name]
        if decay and wanted.is_floating_point():
            wanted = decay * before[name] + (1 - decay) * wanted
        torch.testing.assert_close(tensor, wanted)
        assert not torch.equal(tensor, before[name]), name
        assert torch.equal(net.state_dict()[name], theirs[name])

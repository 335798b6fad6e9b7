"""The running average, beside BasicSR's formula written out, and stochastic weight averaging, beside the mean."""

import option_files
import pytest
import small_models
import torch
from small_models import build, options, train
from torch import nn

from dscsr_model.training.ema import SHARE, update_average, warmed_up


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


def test_without_a_decay_the_average_reaches_back_a_twentieth(tmp_path, logged):
    """For any length: after t updates by its share of t, in which the network of step s weighs about s^19."""
    model = build(options(tmp_path, network_g=small_models.SPAN, **{"train:ema_decay": option_files.REMOVED}))
    wanted = model.net_g.conv_1.sk.weight.detach().double()
    for step in range(1, 7):
        train(model, [step])
        wanted = wanted + (model.net_g.conv_1.sk.weight.detach().double() - wanted) * 19 / (19 + step)
    torch.testing.assert_close(model.net_g_ema.conv_1.sk.weight.double(), wanted, rtol=0, atol=1e-7)
    assert any("a decay that reaches back a twentieth of the training" in line for line in logged())
    lag, steps = 0.0, 3000
    for count in range(steps):
        lag = (lag + 1) * warmed_up(1, count, SHARE)
    assert lag == pytest.approx(steps / SHARE, rel=0.1)


def test_swa_is_the_mean_of_every_nth_network(tmp_path, logged):
    """A run that is resumed between two of them: models/test_checkpointing_sr_model.py."""
    swa = {"train:swa": {"start": 0.4, "every": 3}, "train:ema_decay": 0, "train:total_iter": 12}
    model, networks = build(options(tmp_path, network_g=small_models.SPAN, **swa)), {}
    for step in range(1, 13):
        train(model, [step])
        networks[step] = {name: tensor.clone() for name, tensor in model.net_g.named_parameters()}
        averaged = [step] if step < 5 else [number for number in (5, 6, 9, 12) if number <= step]
        for name, tensor in model.net_g_ema.named_parameters():
            mean = torch.stack([networks[number][name] for number in averaged]).double().mean(0)
            torch.testing.assert_close(tensor.double(), mean, rtol=0, atol=1e-6)
    assert any("every 3 iterations from 5 on" in line for line in logged())

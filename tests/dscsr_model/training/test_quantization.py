"""Where clips begin."""

import math

import pytest
import torch
from torch import nn

from dscsr_arch import SPANF
from dscsr_arch.errors import DscsrError
from dscsr_arch.quantized_conv import inject, quantized_layers
from dscsr_model.training.quantization import calibrate, clip_decay, is_calibrated, quantized, share_clips


def network(method):
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(channels, 4, 1) for channels in (3, 4, 4)]
    return inject(nn.Sequential(convolutions[0], nn.ReLU(), *convolutions[1:], nn.Conv2d(4, 3, 1)), method, 4)


def test_a_network_without_the_layers_that_the_default_leaves_out():
    layers = quantized_layers(quantized(SPANF(feature_channels=4), {"method": "pams", "bits": 4}))
    assert {"block_1.c2_r.eval_conv", "conv_cat"} < layers.keys()
    assert layers.keys().isdisjoint({"conv_near", "block_1.c1_r.eval_conv", "conv_2.eval_conv"})


@pytest.mark.parametrize("method", ["pact", "pams"])
def test_mean_of_the_largest_inputs_of_the_finite_images(method):
    net, images = network(method), torch.rand(3, 3, 8, 8)
    images[1, 0, 0, 0] = math.nan
    assert not is_calibrated(net)
    after_relu = net[:2](images)
    signed = net[:3](images)
    calibrate(net, lambda: net(images))
    assert is_calibrated(net)
    for layer, inputs in ((net[2], after_relu), (net[3], signed)):
        expected = inputs[[0, 2]].abs().amax((1, 2, 3)).mean()
        torch.testing.assert_close(layer.alpha, expected.detach())
    assert net[2].input_levels == ((0, 15) if method == "pact" else (-7, 7))
    assert net[3].input_levels == (-7, 7)
    assert clip_decay(net, 0.5).item() == 1


def test_nothing_finite():
    net = network("pact")
    with pytest.raises(DscsrError, match="finite inputs of 2 to find its clip on, but got none in the first batch"):
        calibrate(net, lambda: net(torch.full((2, 3, 4, 4), math.inf)))
    assert not is_calibrated(net)


def test_clips_of_an_average():
    net, average = network("pact"), network("pact")
    calibrate(net, lambda: net(torch.rand(1, 3, 8, 8)))
    weight = average[2].weight.clone()
    net[2].weight.data.add_(1)
    share_clips(net, average)
    assert average[2].input_levels == (0, 15)
    assert torch.equal(average[2].alpha, net[2].alpha)
    assert torch.equal(average[2].weight, weight)

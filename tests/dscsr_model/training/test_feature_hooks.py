"""The features of the forward that is watched, on any network, however it is wrapped."""

import pytest
import torch
from torch import nn

from dscsr_arch import SPAN
from dscsr_arch.errors import DscsrError
from dscsr_model.training.feature_hooks import FeatureHooks


@pytest.fixture
def network():
    return SPAN(feature_channels=4, upscale=2)


def test_features_are_those_of_the_watched_forward(network):
    x = torch.rand(2, 3, 7, 9)
    hooks = FeatureHooks(network, ["block_1", "conv_cat", "block_1"])
    output, features = hooks.watch(network, x)
    assert hooks.layers == ("block_1", "conv_cat")
    expected = network.block_1(network.conv_1((x - network.mean) * 255))[0]  # a SPAB gives a pair
    torch.testing.assert_close(features["block_1"], expected)
    torch.testing.assert_close(network.upsampler(features["conv_cat"]), output, rtol=0, atol=0)
    features["block_1"].sum().backward()
    assert network.conv_1.sk.weight.grad is not None
    assert not network.conv_2.sk.weight.grad.any()  # all kernels are merged together: none is left without


def test_compiled_after_the_hooks_it_gives_the_same():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Conv2d(4, 3, 3))
    x = torch.rand(1, 3, 6, 5)
    hooks = FeatureHooks(network, ["0"])
    plain, features = hooks.watch(network, x)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    for _ in range(2):
        output, again = hooks.watch(compiled, x)
        torch.testing.assert_close(output, plain)
        torch.testing.assert_close(again, features)
    again["0"].sum().backward()
    assert network[0].weight.grad.any()
    assert network[2].weight.grad is None or not network[2].weight.grad.any()
    torch.testing.assert_close(compiled(x), plain)
    assert hooks._features is None


def test_a_layer_without_a_feature_map():
    class Shapes(nn.Module):
        def forward(self, x):
            return x.shape

    hooks = FeatureHooks(network := nn.Sequential(Shapes()), ["0"])
    with pytest.raises(DscsrError, match=r"Expected the layer '0' to put out a tensor .* but got int"):
        hooks.watch(network, torch.rand(1, 3))

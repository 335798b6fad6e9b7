"""Features however a network is wrapped; that they are the network's own: models/test_distillation_model.py."""

import pytest
import torch
from torch import nn

from dscsr_arch.errors import DscsrError
from dscsr_model.training.feature_hooks import FeatureHooks


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

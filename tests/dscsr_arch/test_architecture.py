"""What every network promises: all of it learns, and fusing leaves plain convolutions."""

import pytest
import torch
from small_models import with_updates
from torch import nn

from dscsr_arch.architecture import architectures
from dscsr_arch.conv_lora import inject, lora_layers

SMALL = {
    "CARN": {"num_feat": 8, "upscale": 2},
    "DSCLoRA": {"feature_channels": 8, "upscale": 2},
    "EDSR": {"num_feat": 8, "num_block": 2, "upscale": 3},
    "RCAN": {"num_feat": 8, "num_group": 2, "num_block": 2, "squeeze_factor": 2, "upscale": 2},
    "SPAN": {"feature_channels": 8, "upscale": 2},
    "SPANF": {"feature_channels": 8, "upscale": 2, "tail_channels": 6},
    "SPANV2": {"feature_channels": 8, "upscale": 2},
}


@pytest.fixture(params=architectures())
def network(request):
    """Of each kind, with weights of which none is zero."""
    made = architectures()[request.param].network(**SMALL[request.param]).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.1)
    return made


def test_every_parameter_that_is_trained_receives_a_gradient(network):
    network(torch.rand(2, 3, 7, 5, dtype=torch.float64)).square().mean().backward()
    trained = {name: parameter.grad for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained
    assert not [name for name, gradient in trained.items() if gradient is None or not gradient.any()]


@torch.no_grad()
def test_fused_it_has_plain_convolutions_only_and_does_the_same(network):
    if not lora_layers(network):
        with_updates(inject(network, {"conv_near" if hasattr(network, "conv_near") else "upsample*": (1, 2)}))
    x = torch.rand(1, 3, 6, 7, dtype=torch.float64)
    expected = network(x)
    assert network.fuse().fuse() is network
    assert {type(module) for module in network.modules() if list(module.parameters(recurse=False))} == {nn.Conv2d}
    torch.testing.assert_close(network(x), expected, rtol=1e-11, atol=1e-11 * expected.abs().max().item())

"""What every network promises: all of it learns, and fusing leaves plain convolutions."""

import copy

import pytest
import torch
from small_models import NETWORKS, with_updates
from torch import nn

from dscsr_arch import CSSRNet, DSCLoRA, load_model
from dscsr_arch.architecture import architectures
from dscsr_arch.checkpoint import save_state_dict
from dscsr_arch.conv_lora import inject, lora_layers
from dscsr_arch.deployable import deployable
from dscsr_arch.metadata import beside
from dscsr_arch.pruning import prune


@pytest.fixture(params=architectures())
def network(request):
    """Of each kind, with weights of which none is zero."""
    made = architectures()[request.param].network(**NETWORKS[request.param]).double()
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


RESIDUAL = [name for name, each in architectures().items() if "residual" in each.not_in_shapes]


@torch.no_grad()
@pytest.mark.parametrize("name", RESIDUAL)
def test_residual_adds_the_image_in_every_form_and_files_say_so(name, tmp_path):
    kind, small = architectures()[name].network, {"feature_channels": 8, "upscale": 1}
    network, plain = kind(**small, residual=True).double(), kind(**small).double()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    plain.load_state_dict(network.state_dict())
    x = torch.rand(1, 3, 7, 6, dtype=torch.float64)
    expected = x + plain(x)
    close = {"rtol": 1e-11, "atol": 1e-11 * expected.abs().max().item()}
    torch.testing.assert_close(network(x), expected, **close)
    save_state_dict({"params": network.float().state_dict(), **beside(network)}, tmp_path / "w.pth")
    loaded = load_model(tmp_path / "w.pth")
    assert loaded.arguments["residual"] is True
    torch.testing.assert_close(loaded.double()(x), x + plain.float().double()(x), **close)
    fused = deployable(loaded).double()
    torch.testing.assert_close(fused(x), x + deployable(plain.float()).double()(x), **close)
    narrow, image = prune(fused, 4, x).network.double(), torch.rand(1, 3, 5, 4, dtype=torch.float64)
    without = copy.deepcopy(narrow)
    without.residual = False
    torch.testing.assert_close(narrow(image), image + without(image), **close)
    if not isinstance(network, DSCLoRA):
        split = CSSRNet({"type": name, **small, "residual": True}, widths=[0.5])
        assert split.student(0.5).arguments["residual"] is True


@pytest.mark.parametrize("name", RESIDUAL)
def test_residual_needs_an_image_of_the_outputs_shape(name):
    for arguments in ({"upscale": 2}, {"upscale": 1, "num_out_ch": 1}):
        with pytest.raises(ValueError, match="`residual: true` where the output is as large as the image"):
            architectures()[name].network(**arguments, residual=True)

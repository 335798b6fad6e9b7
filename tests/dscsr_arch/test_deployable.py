import copy

import pytest
import torch
from small_models import with_updates
from torch import nn

from dscsr_arch import CARN, EDSR, SPAN, CSSRNet, DSCLoRA
from dscsr_arch.conv_lora import inject
from dscsr_arch.deployable import deployable


@pytest.mark.parametrize(
    "build",
    [
        lambda: SPAN(feature_channels=6, upscale=2),
        lambda: DSCLoRA(feature_channels=6, upscale=2),
        lambda: CARN(num_feat=4, upscale=3),
        lambda: inject(EDSR(3, 3, 4, 1, 2), {"body": (1, 2)}),
    ],
    ids=["SPAN", "DSCLoRA", "CARN", "EDSR with LoRA"],
)
@torch.no_grad()
def test_plain_convolutions_that_do_the_same(build):
    network = with_updates(build().train(), 0.1)
    before = copy.deepcopy(network.state_dict())
    shipped = deployable(network)
    assert not shipped.training
    assert not any(parameter.requires_grad or parameter.dtype != torch.float32 for parameter in shipped.parameters())
    leaves = {type(module) for module in shipped.modules() if not list(module.children())}
    assert leaves <= {nn.Conv2d, nn.PixelShuffle, nn.ReLU}
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    x = torch.rand(1, 3, 7, 5)
    torch.testing.assert_close(shipped(x), network.eval()(x), rtol=1e-5, atol=1e-5)  # float32, outputs of up to 10


def test_kernels_are_fused_in_double_precision():
    """Rounded once: nearer to the exact sum of the branches than fusing in float32 is."""
    network = SPAN(feature_channels=16, upscale=2)
    exact = copy.deepcopy(network).double().fuse().state_dict()
    shipped = deployable(network).state_dict()
    assert all(torch.equal(tensor, exact[name].float()) for name, tensor in shipped.items())
    assert not all(
        torch.equal(tensor, shipped[name]) for name, tensor in copy.deepcopy(network).fuse().state_dict().items()
    )


def test_of_several_widths_it_is_the_smallest():
    network = CSSRNet({"type": "CARN", "num_feat": 8, "upscale": 2}, widths=(0.5, 0.25))
    shipped, student = deployable(network).state_dict(), network.student(0.25).state_dict()
    assert shipped.keys() == student.keys()
    assert all(torch.equal(tensor, student[name]) for name, tensor in shipped.items())

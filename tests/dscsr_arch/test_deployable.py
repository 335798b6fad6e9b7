import copy

import torch

from dscsr_arch import SPAN, CSSRNet
from dscsr_arch.deployable import deployable


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

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dscsr_arch import CARN, EDSR, RCAN, SPAN
from dscsr_arch.channel_split import prefix, tensors
from dscsr_arch.channel_trace import trace_channels
from dscsr_arch.deployable import deployable
from dscsr_arch.narrower import narrower
from dscsr_arch.pruning import cut_into, l2_importance, permuted, plan, prune, taylor_importance

NETWORKS = {
    "SPAN": lambda: SPAN(feature_channels=8, upscale=2),
    "EDSR": lambda: EDSR(num_feat=8, num_block=2, res_scale=0.1),
    "CARN": lambda: CARN(num_feat=4, upscale=3),
    "RCAN": lambda: RCAN(num_feat=8, num_group=2, num_block=2, squeeze_factor=2, upscale=2),
}
IMAGE = torch.rand(1, 3, 11, 14, dtype=torch.float64)


def made(name):
    network = NETWORKS[name]()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    return deployable(network).double()


@pytest.mark.parametrize("name", NETWORKS)
def test_order_changes_no_image_and_what_is_cut_is_as_if_it_were_zero(name):
    """To 1e-10: sums of float64 in another order. Beside it, zeroed is not the whole."""
    network = made(name)
    channels = trace_channels(network, IMAGE)
    narrow, changed = narrower(network, 0.5)
    assert [2 * new for _, new in changed.values()] == [old for old, _ in changed.values()]
    cuts = plan(network, narrow, channels)
    importance = torch.rand(channels.count)
    wide = permuted(network, channels, cuts, importance)
    assert any(not torch.equal(one, tensors(network)[name]) for name, one in tensors(wide).items())
    whole = network(IMAGE)
    torch.testing.assert_close(wide(IMAGE), whole, rtol=0, atol=1e-10)

    gone = {each for cut in cuts for each in sorted(cut.channels, key=lambda c: -importance[c])[cut.keep :]}
    zeroed = copy.deepcopy(network)
    for (layer, axis), here in channels.sides.items():
        if (layer, axis) not in channels.made:  # what reads them does so no more
            dropped = [place for place, channel in enumerate(here) if channel in gone]
            zeroed.get_parameter(layer).data.index_fill_(axis, torch.tensor(dropped, dtype=torch.int64), 0)
    expected = zeroed(IMAGE)
    assert not torch.allclose(expected, whole)
    torch.testing.assert_close(cut_into(narrow.double(), wide, channels, cuts)(IMAGE), expected, rtol=0, atol=1e-10)

    side_by_side = {layer for layer, module in network.named_modules() if f"{layer}.weight" in CONCATENATED[name](network)}
    for layer, tensor in tensors(narrow).items():
        same = torch.equal(tensor, prefix(tensors(wide)[layer], tensor.shape))
        assert same != (layer.removesuffix(".weight") in side_by_side), layer


CONCATENATED = {
    "SPAN": lambda _: {"conv_cat.weight"},
    "EDSR": lambda _: set(),
    "RCAN": lambda _: set(),
    "CARN": lambda network: {name for name in tensors(network) if name.endswith(".conv.weight")},
}
"""Kernels that read several groups of channels side by side: there, a cut is no prefix."""


class Small(nn.Module):
    """All that ties channels: a PReLU, a product, a depthwise convolution, a transposed one, a residual scale."""

    def __init__(self, width=6, inner=4):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.slopes = nn.PReLU(width)
        self.each = nn.Conv2d(width, 2 * width, 3, padding=1, groups=width)
        self.mix = nn.Conv2d(2 * width, inner, 1, bias=False)
        self.gate = nn.Conv2d(inner, inner, 1)
        self.scale = nn.Parameter(torch.rand(inner, 1, 1))
        self.up = nn.ConvTranspose2d(inner, 3, 2, stride=2)
        self.described_as = ("Small", {"width": width, "inner": inner})

    def forward(self, x):
        x = self.mix(self.each(F.pad(self.slopes(self.first(x)), (1, 0, 0, 1))))
        return self.up(x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True))) + self.scale * x)

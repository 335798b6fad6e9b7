"""CARN; that its forward is the official one, written out layer by layer, is in test_csd_names."""

import torch

from dscsr_arch import CARN
from dscsr_arch.carn_arch import ResidualBlock


def test_size_and_names():
    net = CARN()
    cascade = sum(64 * 64 * n + 64 for n in (2, 3, 4))
    block = 6 * (64 * 64 * 9 + 64) + cascade
    ends = 2 * 3 * 64 * 9 + 64 + 3
    assert sum(p.numel() for p in net.parameters()) == 3 * block + ends + cascade + 2 * (64 * 256 * 9 + 256)
    names = {name.rpartition(".")[0] for name in net.state_dict()}
    assert {"entry", "b1.b1.conv1", "b3.c3.conv", "c3.conv", "upsample.blocks.1", "exit"} <= names


def test_the_final_relu_is_in_every_residual_block():
    x = torch.randn(1, 8, 5, 7)
    block, other = ResidualBlock(8), ResidualBlock(8, final_relu=True)
    other.load_state_dict(block.state_dict())
    assert torch.equal(other(x), block(x).relu())
    for net in (CARN(num_feat=8), CARN(num_feat=8, final_relu=True)):
        blocks = [module for module in net.modules() if isinstance(module, ResidualBlock)]
        assert [each.final_relu for each in blocks] == [net.arguments["final_relu"]] * 9

"""CARN; that its forward is the official one, written out layer by layer, is in test_csd_names."""

import torch

from dscsr_arch import CARN
from dscsr_arch.carn_arch import ResidualBlock


def test_the_final_relu_is_in_every_residual_block():
    x = torch.randn(1, 8, 5, 7)
    block, other = ResidualBlock(8), ResidualBlock(8, final_relu=True)
    other.load_state_dict(block.state_dict())
    assert torch.equal(other(x), block(x).relu())
    for net in (CARN(num_feat=8), CARN(num_feat=8, final_relu=True)):
        blocks = [module for module in net.modules() if isinstance(module, ResidualBlock)]
        assert [each.final_relu for each in blocks] == [net.arguments["final_relu"]] * 9

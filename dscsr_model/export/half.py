"""A network that computes in float16 between an image and a result in float32."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class HalfInside(nn.Module):
    """``network`` computing in float16 between a float32 image and a float32 result.

    Programs that feed a model without asking what it takes feed float32; so one file serves all of them.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).half()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) as the network does."""
        out: Tensor = self.network(x.to(torch.float16))
        return out.to(torch.float32)

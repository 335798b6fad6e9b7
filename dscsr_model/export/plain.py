"""The network that is shipped: only what a picture needs."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from dscsr_arch import conv_lora


def plain(network: nn.Module) -> nn.Module:
    """Copy a network as plain convolutions: fused, every LoRA added in, in eval mode, in float32, on the CPU.

    Kernels are fused in float64, so that they are the branches' sum rounded once. The network itself stays as it is;
    one that has nothing to fuse (EDSR, RCAN) comes as it is.
    """
    copied = copy.deepcopy(network).cpu().double()
    fuse = getattr(copied, "fuse", None)
    fused: nn.Module = copied if fuse is None else fuse()
    return conv_lora.fuse(fused).float().eval().requires_grad_(False)


class HalfInside(nn.Module):
    """``network`` computing in float16 between a float32 picture and a float32 result.

    Programs that feed a model without asking what it takes feed float32; so one file serves all of them.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).half()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) as the network does."""
        out: Tensor = self.network(x.to(torch.float16))
        return out.to(torch.float32)

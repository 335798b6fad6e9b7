"""The network that is used and shipped: only what a picture needs."""

from __future__ import annotations

import copy

from torch import nn

from dscsr_arch import conv_lora
from dscsr_arch.cssr_arch import CSSRNet


def plain(network: nn.Module) -> nn.Module:
    """Copy a network as plain convolutions: fused, every LoRA added in, in eval mode, in float32, on the CPU.

    Kernels are fused in float64, so that they are the branches' sum rounded once. The network itself stays as it is;
    one that has nothing to fuse (EDSR, RCAN) comes as it is. Of a CSSRNet it is the student of the
    smallest width, which is what that runs in eval mode.
    """
    if isinstance(network, CSSRNet):
        network = network.student(min(network.widths))
    copied = copy.deepcopy(network).cpu().double()
    fuse = getattr(copied, "fuse", None)
    fused: nn.Module = copied if fuse is None else fuse()
    return conv_lora.fuse(fused).float().eval().requires_grad_(False)

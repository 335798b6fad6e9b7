"""Networks as they are used and shipped: with only what an image needs."""

from __future__ import annotations

import copy

from torch import nn

from dscsr_arch import conv_lora
from dscsr_arch.cssr_arch import CSSRNet


def fused(network: nn.Module) -> nn.Module:
    """``network`` itself, in place: its own ``fuse()``, if it has one, and plain convolutions instead of ConvLoRA."""
    own = getattr(network, "fuse", None)  # BasicSR's networks have none
    if callable(own):
        own()
    return conv_lora.fuse(network)


def deployable(network: nn.Module) -> nn.Module:
    """Copy a network as plain convolutions: fused, every LoRA added in, in eval mode, in float32, on the CPU.

    Kernels are fused in float64, so that they are the branches' sum rounded once. The network itself stays as it is;
    one that has nothing to fuse (EDSR, RCAN) comes as it is. Of a CSSRNet it is the student of the smallest
    width, which is what that runs in eval mode.
    """
    if isinstance(network, CSSRNet):
        network = network.student(min(network.widths))
    return fused(copy.deepcopy(network).cpu().double()).float().eval().requires_grad_(False)

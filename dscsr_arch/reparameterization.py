"""The maths of Conv3XC: four linear convolutions as one 3x3 kernel, and one kernel as four convolutions again.

Pure functions of weights. Formulas: SPAN, arXiv 2311.12770; the inverse is ours.
"""

from __future__ import annotations

import math
import zlib
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Kernel(NamedTuple):
    """A plain 3x3 convolution: ``weight`` (out, in, 3, 3) and ``bias`` (out,) or None."""

    weight: Tensor
    bias: Tensor | None


class Branches(NamedTuple):
    """Weights of n Conv3XC layers of one shape (in: i, out: o, gain: g), stacked along the first axis.

    ``w1`` (n, g·i, i, 1, 1), ``w2`` (n, g·o, g·i, 3, 3), ``w3`` (n, o, g·o, 1, 1) and the shortcut ``ws``
    (n, o, i, 1, 1), each with its bias ``b1`` … ``bs``; the biases are all None or all tensors.
    """

    w1: Tensor
    w2: Tensor
    w3: Tensor
    ws: Tensor
    b1: Tensor | None = None
    b2: Tensor | None = None
    b3: Tensor | None = None
    bs: Tensor | None = None

    def to(self, dtype: torch.dtype, device: torch.device | None = None) -> Branches:
        """The same branches in another dtype, on another device."""
        return Branches(*(None if tensor is None else tensor.to(device, dtype) for tensor in self))  # type: ignore[arg-type]


def merge_branches(branches: Branches) -> tuple[Tensor, Tensor | None]:
    r"""Merge n layers of one shape into plain 3x3 kernels, all in a few batched products. Differentiable.

    .. math:: W = w_3 w_2 w_1 + \text{pad}(w_s), \quad b = w_3 (\textstyle\sum w_2 b_1 + b_2) + b_3 + b_s

    where the products run over channels, for each of the nine taps, and the sum over taps and input channels.

    Returns:
        Weights (n, o, i, 3, 3) and biases (n, o), or None where the branches have none.
    """
    _, w2, _, ws, b1, b2, b3, bs = branches
    w1, w3 = branches.w1.flatten(2), branches.w3.flatten(2)
    n, _, inner = w2.shape[:3]
    out, inp = ws.shape[1:3]
    outer = torch.bmm(w3, w2.flatten(2)).view(n, out, inner, 9).transpose(2, 3)  # (n, o, 9, g·i)
    weight = torch.bmm(outer.reshape(n, out * 9, inner), w1).view(n, out, 9, inp).transpose(2, 3)
    # Flattened, ws gets a gradient of usual strides: of others DistributedDataParallel warns.
    weight = weight.reshape(n, out, inp, 3, 3).contiguous() + F.pad(ws.flatten(2)[..., None, None], (1, 1, 1, 1))
    if b1 is None or b2 is None or b3 is None or bs is None:
        return weight, None
    inner_bias = torch.bmm(w2.sum((3, 4)), b1.unsqueeze(2)) + b2.unsqueeze(2)
    # `* 1` gives the gradient of bs memory of its own. A plain sum hands b3 and bs one tensor, which autograd keeps as
    # the gradient of both parameters: a second backward, clipping or unscaling would then change it twice.
    return weight, torch.bmm(w3, inner_bias).squeeze(2) + b3 + bs * 1


def unfuse_kernel(kernel: Kernel, gain: int) -> Branches:
    r"""Find branches that merge to ``kernel`` exactly and are as rich as a random start.

    All are random but the 3x3 ``w2`` and the last bias ``b3``. With :math:`^+` the pseudo-inverse and T the kernel,
    a random ``w2`` is corrected at each tap by

    .. math:: w_3^+ (T - w_s - w_3 w_2 w_1) w_1^+

    which is exact because ``w1`` has full column rank and ``w3`` full row rank. Solved in float64. The random numbers
    are drawn from a seed that is made of the kernel: a network and its running average that load one file must get
    the same branches, or their mean would merge to something else.

    Returns:
        One layer (n = 1) that is ``gain`` times wider inside, in the dtype and on the device of the kernel.
    """
    weight, bias = kernel
    start = _random_branches(kernel, gain)
    if weight.is_meta:  # shapes only: there is nothing to solve
        return start
    residual = (weight.detach().cpu().double() - merge_branches(start)[0][0]).permute(2, 3, 0, 1)  # (3, 3, o, i)
    change = torch.linalg.pinv(start.w3[0, ..., 0, 0]) @ residual @ torch.linalg.pinv(start.w1[0, ..., 0, 0])
    solved = start._replace(w2=start.w2 + change.permute(2, 3, 0, 1))
    merged_bias = merge_branches(solved)[1]
    if bias is not None and merged_bias is not None and start.b3 is not None:
        solved = solved._replace(b3=start.b3 + bias.detach().cpu().double() - merged_bias)
    return solved.to(weight.dtype, weight.device)


def _random_branches(kernel: Kernel, gain: int) -> Branches:
    """Branches of one layer in float64, uniform as a convolution of torch starts: within 1/sqrt(inputs)."""
    out, inp = kernel.weight.shape[:2]
    shapes = ((gain * inp, inp, 1, 1), (gain * out, gain * inp, 3, 3), (out, gain * out, 1, 1), (out, inp, 1, 1))
    if kernel.weight.is_meta:
        generator, device = None, torch.device("meta")
    else:
        device = torch.device("cpu")
        seed = zlib.crc32(kernel.weight.detach().cpu().float().numpy().tobytes())
        generator = torch.Generator().manual_seed(seed)

    def uniform(inputs: int, *shape: int) -> Tensor:
        return (torch.rand(1, *shape, dtype=torch.float64, device=device, generator=generator) * 2 - 1) / inputs**0.5

    weights = [uniform(math.prod(shape[1:]), *shape) for shape in shapes]
    biases = [] if kernel.bias is None else [uniform(math.prod(shape[1:]), shape[0]) for shape in shapes]
    return Branches(*weights, *biases)

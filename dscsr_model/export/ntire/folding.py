"""Convolutions of SPAN that follow each other without anything between them, as one.

The fusions of the 2026 challenge's smallest SPAN: 26 channels at x4 are then 0.126 M parameters and 8.22 G operations
instead of 0.131 M and 8.54 G.

- ``conv_2`` into ``conv_cat``: a 1x1 convolution of a 3x3 one is a 3x3 convolution. Exact, borders included: the zeros
  that ``conv_2`` pads are its own.
- ``conv_1`` into the first convolution of ``block_1``: a 3x3 of a 3x3 is a 5x5. Exact but for the border: there
  ``block_1`` sees zeros around ``conv_1``'s output, and the 5x5 what ``conv_1`` would have computed outside the
  image. So the first activation differs in the outermost pixel, and the 19 3x3 convolutions behind it carry that
  inwards: `BORDER` pixels of the input. No padding of the image makes up for it; 1x5 and 5x1 convolutions of its
  edges, and four of its corners, would, for 2,080 parameters and a dozen small operations, each a kernel to start.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

FOLDS = ("exact", "all")
"""``exact``: what changes nothing; ``all``: also what changes the border of the image."""

BORDER = 20
"""Pixels of the input, from each side, where ``all`` may change the image: 1 + the 3x3 layers behind ``conv_1``."""


@torch.no_grad()
def fold_span(state: Mapping[str, Tensor], fold: str) -> dict[str, Tensor]:
    """Weights of a folded `dscsr_arch.span_plain.PlainSPAN` from those of an unfolded one.

    Args:
        state: Floating point weights by name.
        fold: One of `FOLDS`.

    Returns:
        Weights of the same type, composed in float64.
    """
    folded = {name: tensor for name, tensor in state.items() if not name.startswith("conv_2.")}
    weight, bias = _double(state, "conv_cat")
    shallow, deep, first, activation = weight.chunk(4, dim=1)
    folded["conv_cat.weight"] = torch.cat([shallow, first, activation], dim=1)
    folded["conv_deep.weight"], folded["conv_cat.bias"] = compose(*_double(state, "conv_2"), deep, bias)
    if fold == "all":
        kernel, added = compose(*_double(state, "conv_1"), *_double(state, "block_1.c1_r"))
        folded["block_1.c1_r.weight"] = kernel
        if "block_1.c1_r.bias" in state:
            folded["block_1.c1_r.bias"] = added
    dtype = state["conv_cat.weight"].dtype
    return {name: tensor.to(dtype).contiguous() for name, tensor in folded.items()}


def compose(weight: Tensor, bias: Tensor, outer: Tensor, outer_bias: Tensor) -> tuple[Tensor, Tensor]:
    """One kernel for a convolution and the one that follows it, away from borders.

    Formula: ``K[o, i] = sum_m outer[o, m] * weight[m, i]``, a full 2-D convolution of kernels, and
    ``b[o] = outer_bias[o] + sum_m bias[m] * sum outer[o, m]``.

    Args:
        weight: (M, I, k, k), of the first.
        bias: (M,).
        outer: (O, M, l, l), of the second.
        outer_bias: (O,).

    Returns:
        Kernel (O, I, k + l - 1, k + l - 1) and bias (O,).
    """
    kernel = F.conv2d(weight.transpose(0, 1), outer.flip(-1, -2), padding=outer.shape[-1] - 1).transpose(0, 1)
    return kernel, outer_bias + outer.sum(dim=(-1, -2)) @ bias


def _double(state: Mapping[str, Tensor], layer: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer in float64; zeros where it has no bias."""
    weight = state[f"{layer}.weight"].double()
    bias = state.get(f"{layer}.bias")
    return weight, weight.new_zeros(weight.shape[0]) if bias is None else bias.double()

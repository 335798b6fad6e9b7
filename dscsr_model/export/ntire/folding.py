"""Convolutions of SPAN and SPANF that follow each other without anything between them, as one.

Of SPAN, the fusions of the 2026 challenge's smallest: 26 channels at x4 are then 0.126 M parameters and 8.22 G
operations instead of 0.131 M and 8.54 G.

- ``conv_2`` into ``conv_cat``: a 1x1 convolution of a 3x3 one is a 3x3 convolution. Exact, borders included: the zeros
  that ``conv_2`` pads are its own.
- ``conv_1`` into the first convolution of ``block_1``: a 3x3 of a 3x3 is a 5x5. Exact but for the border: there
  ``block_1`` sees zeros around ``conv_1``'s output, and the 5x5 what ``conv_1`` would have computed outside the
  image. So the first activation differs in the outermost pixel, and the 19 3x3 convolutions behind it carry that
  inwards: `BORDER` pixels of the input. No padding of the image makes up for it; 1x5 and 5x1 convolutions of its
  edges, and four of its corners, would, for 2,080 parameters and a dozen small operations, each a kernel to start.

Of SPANF, what is exact and makes it smaller: ``conv_near`` into the part of ``conv_cat`` that reads it, a 1x1 of a 3x3
as above, and that beside the first convolution of ``block_1``, which reads the image too. With a tail of T channels at
x4 that is 432 + 21 T parameters less, and one convolution.

What else follows each other makes networks larger. ``conv_cat`` into SPANF's ``conv_2`` would be a 3x3 of 112 channels
and one of ones, since ``conv_2`` pads zeros around the bias of ``conv_cat``: 48,864 parameters in place of 17,488, with
T 32, and it pays from T 90 on only. ``depthwise_conv`` into SPANV2's ``pointwise_conv`` is exact, a 3x3 of 80 channels:
34,560 parameters in place of 4,560; its ``guidance_map_conv`` into ``c3`` 9,216 in place of 1,024 a block.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from dscsr_arch.errors import DscsrError

FOLDED = {
    "SPAN": {"exact": "conv_2 folded into conv_cat", "all": "conv_2 folded into conv_cat, conv_1 folded into block_1"},
    "SPANF": dict.fromkeys(("exact", "all"), "conv_near folded into conv_cat, beside block_1"),
}
"""What the folds of each network do, in words."""
FOLDS = ("exact", "all")
"""``exact``: what changes nothing; ``all``: also what changes the border of the image."""

BORDER = 20
"""Pixels of the input, from each side, where ``all`` may change the image: 1 + the 3x3 layers behind ``conv_1``."""


def fold(network: str, state: Mapping[str, Tensor], kind: str) -> tuple[dict[str, Tensor], int]:
    """Weights of a folded network, and how far from its border its images may differ; `DscsrError` if none is there.

    ``network`` is its name, ``state`` are the weights of its plain form, ``kind`` is one of `FOLDS`.
    """
    if network not in FOLDED or kind not in FOLDS:
        words = f"a fold ({' or '.join(FOLDS)}) of a network that it makes smaller ({', '.join(FOLDED)})"
        raise DscsrError(words, f"{kind!r} of {network}", "Leave --fold out.")
    if network == "SPANF":
        return fold_spanf(state), 0
    return fold_span(state, kind), BORDER if kind == "all" else 0


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


@torch.no_grad()
def fold_spanf(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a folded `dscsr_arch.spanf_plain.PlainSPANF` from those of an unfolded one; see `fold_span`."""
    folded = {name: tensor for name, tensor in state.items() if not name.startswith(("conv_near.", "block_1.c1_r."))}
    grouped, (weight, bias) = state["conv_near.weight"].double(), _double(state, "conv_cat")
    del folded["conv_cat.bias"]
    each, channels = len(grouped), len(state["block_1.c1_r.weight"][0])
    near = grouped.new_zeros(each, channels, *grouped.shape[2:])  # of all channels, as block_1 reads them
    near[torch.arange(each), torch.arange(each) // (each // channels)] = grouped[:, 0]
    composed, bias = compose(near, near.new_zeros(each), weight[:, :each], bias)
    first, first_bias = _double(state, "block_1.c1_r")
    folded |= {"conv_in.weight": torch.cat([first, composed]), "conv_in.bias": torch.cat([first_bias, bias])}
    folded["conv_cat.weight"] = weight[:, each:]
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

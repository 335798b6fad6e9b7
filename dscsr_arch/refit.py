"""After a cut, in closed form: convolutions that give again what they gave before, as nearly as what is left allows.

From "Channel Pruning for Accelerating Very Deep Neural Networks" (arXiv 1707.06168), its second step: least squares,
layer by layer in the order in which they run, from what the cut network feeds a layer to what it put out before.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_RIDGE = 1e-6
"""Of the mean square of an input: what the images do not tell stays as it is."""
_LEAST = 8
"""Positions for each number to fit; a layer that meets fewer, such as attention of an image's means, stays as it is."""


@torch.no_grad()
def refit(narrow: nn.Module, network: nn.Module, kept: dict[str, list[int]], images: Sequence[Tensor]) -> nn.Module:
    """Fit the convolutions of ``narrow``, in place, to the outputs of ``network``; gives it back.

    Args:
        narrow: Cut, fused.
        network: What it was cut from, fused.
        kept: Of each convolution's outputs in ``network``, by its name, those that ``narrow`` has.
        images: Inputs (1, C, H, W).
    """
    wide = dict(network.named_modules())
    changed = False
    for name, layer in _in_order(narrow, images[0]):
        before = wide[name]
        changed |= layer.in_channels != before.in_channels
        if changed and layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
            _fit(narrow, layer, network, before, kept[name], images)
    return narrow


def _fit(
    narrow: nn.Module, layer: nn.Conv2d, wide: nn.Module, before: nn.Module, kept: list[int], images: Sequence[Tensor]
) -> None:
    """One layer, by the normal equations in float64, of its weights and its bias together."""
    padding: Any = layer.padding  # not "same": see `refit`
    weights = layer.weight.flatten(1).double()
    start = weights if layer.bias is None else torch.cat([weights, layer.bias.double()[:, None]], dim=1)
    seen = 0
    square, product = torch.zeros(2 * start.shape[1:], dtype=torch.float64), torch.zeros_like(start)
    for image in images:
        x, y = _at(narrow, layer, image)[0], _at(wide, before, image)[1]
        patches = F.unfold(x.double(), layer.kernel_size, layer.dilation, padding, layer.stride)[0]
        if layer.bias is not None:
            patches = torch.cat([patches, patches.new_ones(1, patches.shape[1])])
        square += patches @ patches.T
        product += y[0, kept].flatten(1).double() @ patches.T
        seen += patches.shape[1]
    if seen < _LEAST * len(square):
        return
    ridge = _RIDGE * square.diagonal().mean()
    square.diagonal().add_(ridge)
    fitted = torch.linalg.solve(square, product + ridge * start, left=False)
    layer.weight.copy_(fitted[:, : weights.shape[1]].view_as(layer.weight))
    if layer.bias is not None:
        layer.bias.copy_(fitted[:, -1])


def _in_order(network: nn.Module, image: Tensor) -> list[tuple[str, nn.Conv2d]]:
    """Convolutions in the order in which they run first."""
    names = {module: name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    seen: dict[nn.Conv2d, None] = {}
    handles = [module.register_forward_hook(lambda module, *_: seen.setdefault(module)) for module in names]
    network(image)
    for handle in handles:
        handle.remove()
    return [(names[module], module) for module in seen]


def _at(network: nn.Module, layer: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
    """Input and output of a layer in a run, which goes no further."""
    found: list[tuple[Tensor, Tensor]] = []

    def stop(_: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        found.append((args[0], out))
        raise _Found

    handle = layer.register_forward_hook(stop)
    with suppress(_Found):
        network(image)
    handle.remove()
    return found[0]


class _Found(Exception):  # noqa: N818 - no error
    """Ends a run."""

"""Pruning: the channels that matter least leave a network, which is then a narrower one of its class.

Channels are ranked by the norms of their kernels ("Pruning Filters for Efficient ConvNets", arXiv 1608.08710), or by
the first order of what their loss costs on images ("Importance Estimation for Neural Network Pruning", arXiv
1906.10771).

Different from both: what an addition or a product ties together is ranked and goes together (`channel_trace`); the
norm, L2, is that of the kernels that read a channel, since those that make it say little where others enlarge it again
(SPANF's tail of 32 cut to 20, Set5 ×4: 30.90 dB against 10.60); before any channel goes, all stand in the order of
their importance, which changes no output.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dscsr_arch.channel_split import tensors
from dscsr_arch.channel_trace import Channels, Side, trace_channels
from dscsr_arch.errors import ArgumentError
from dscsr_arch.narrower import narrower
from dscsr_arch.quantized_conv import require_full_precision
from dscsr_arch.refit import refit as refit_layers


class Cut(NamedTuple):
    """Channels that go together, of which some stay."""

    channels: tuple[int, ...]
    """As `Channels` counts them, in the order in which kernels have them."""
    keep: int
    made_by: tuple[str, ...]
    """The layers that make them."""


class Pruned(NamedTuple):
    """What is left, and what went."""

    network: nn.Module
    changed: dict[str, tuple[int, int]]
    """Arguments of its constructor: their values before and now."""
    cuts: list[Cut]


def prune(
    network: nn.Module,
    keep: float,
    image: Tensor,
    *,
    layers: Sequence[str] = (),
    pairs: Sequence[tuple[Tensor, Tensor]] = (),
    refit: bool = False,
) -> Pruned:
    """Give a narrower network of the class of ``network``, with the channels that matter most.

    Args:
        network: As `deployable` gives it; it stays as it is.
        keep: A part of the channels, between 0 and 1, or how many of them.
        image: Any small one that the network takes, (1, C, H, W): channels are followed through a run on it.
        layers: Arguments of its constructor that are the channels in question; none: its width.
        pairs: Images (1, C, H, W) and what should become of them: channels are then ranked by what they cost on these.
        refit: Fit what is left to what was there before on these images (`refit`).

    Raises:
        ArgumentError: ``keep`` or ``layers`` make no narrower network, or its channels cannot be followed.
    """
    require_full_precision(network, "pruning")
    if refit and not pairs:
        raise ArgumentError("images to refit on", "none", "Give some, or do not refit.")
    narrow, changed = narrower(network, keep, layers)
    channels = trace_channels(network, image)
    cuts = plan(network, narrow, channels)
    importance = taylor_importance(network, channels, pairs) if pairs else l2_importance(network, channels)
    wide = permuted(network, channels, cuts, importance)
    narrow = cut_into(narrow, wide, channels, cuts)
    if refit:
        kept = {name: _kept(channels, cuts, (f"{name}.weight", 0)) for name, _ in wide.named_modules()}
        refit_layers(narrow, wide, kept, [lq for lq, _ in pairs])
    return Pruned(narrow.requires_grad_(False), changed, cuts)


def plan(network: nn.Module, narrow: nn.Module, channels: Channels) -> list[Cut]:
    """How many channels of which layers go when ``network`` becomes as narrow as ``narrow``, both fused.

    Raises:
        ArgumentError: Channels that would have to go cannot.
    """
    wide, small = tensors(network), tensors(narrow)
    cuts: dict[frozenset[int], Cut] = {}
    for name, axis in channels.made:
        here = channels.sides[name, axis]
        together = tuple(dict.fromkeys(here))
        share = len(here) // len(together)
        keep, rest = divmod(small[name].shape[axis], share)
        if small[name].shape[axis] == len(here):
            keep, rest = len(together), 0
        elif why := next((channels.fixed[each] for each in together if each in channels.fixed), None):
            raise _tied(name, f"they go through {why}")
        known = cuts.setdefault(frozenset(together), Cut(together, keep, ()))
        if rest or known.keep != keep:
            raise _tied(name, f"{keep} of {len(together)} would stay here, and {known.keep} elsewhere")
        cuts[frozenset(together)] = known._replace(made_by=(*known.made_by, name.rpartition(".")[0]))
    found = [cut for cut in cuts.values() if cut.keep < len(cut.channels)]
    gone = {channel for cut in found for channel in cut.channels[cut.keep :]}
    if sum(len(cut.channels) for cut in cuts.values()) != len(set().union(*cuts)):
        raise ArgumentError("channels that belong to one group of layers each", "some that belong to several")
    for name, tensor in small.items():
        for axis, size in enumerate(tensor.shape):
            here = channels.sides.get((name, axis), [-1] * wide[name].shape[axis])
            if size != sum(channel not in gone for channel in here):
                raise _tied(name, f"{size} of {len(here)} would stay, which nothing that was followed explains")
    return found


def _tied(name: str, why: str) -> ArgumentError:
    remedy = "Networks of convolutions whose channels are added, multiplied and concatenated can be pruned."
    return ArgumentError(f"channels at {name} that can go", f"others: {why}", remedy)


@torch.no_grad()
def l2_importance(network: nn.Module, channels: Channels) -> Tensor:
    """Of every channel, by its number, float64: the norm of all kernels that read it, together."""
    own = tensors(network)
    read = {side: here for side, here in channels.sides.items() if side not in channels.made and own[side[0]].dim() > 1}
    return _sum(channels._replace(sides=read), {name: own[name].double() ** 2 for name, _ in read}).sqrt()


def taylor_importance(network: nn.Module, channels: Channels, images: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Of every channel, by its number, float64: ``Σ |w · ∂L/∂w|`` over its weights w, the mean over images.

    Args:
        network: Fused; it stays as it is.
        channels: Its channels.
        images: Its input and what should come out, (B, C, H, W) each; L is the L1 loss of one such pair.
    """
    network = copy.deepcopy(network).requires_grad_(True)
    learned = dict(network.named_parameters())
    total, count = torch.zeros(0, dtype=torch.float64), 0
    for lq, gt in images:
        slopes = torch.autograd.grad(F.l1_loss(network(lq), gt), list(learned.values()), allow_unused=True)
        costs = {
            name: (weight.detach() * slope).double().abs()
            for (name, weight), slope in zip(learned.items(), slopes, strict=True)
            if slope is not None
        }
        each = _sum(channels, costs)
        total, count = each + total if count else each, count + 1
    if not count:
        raise ArgumentError("at least one pair of images", "none")
    return total / count


def _sum(channels: Channels, values: dict[str, Tensor]) -> Tensor:
    """Values of all entries of tensors, added up for each channel."""
    total = torch.zeros(channels.total, dtype=torch.float64)
    for (name, axis), here in channels.sides.items():
        if name in values:
            others = [other for other in range(values[name].dim()) if other != axis]
            total.index_add_(0, torch.tensor(here), (values[name].sum(others) if others else values[name]).cpu())
    return total


def permuted(network: nn.Module, channels: Channels, cuts: Sequence[Cut], importance: Tensor) -> nn.Module:
    """A copy whose channels of each cut stand in the order of their importance: it computes the same."""
    order: dict[int, int] = {}
    for cut in cuts:
        ranked = sorted(cut.channels, key=lambda channel: -importance[channel].item())
        order.update(zip(cut.channels, ranked, strict=True))
    network = copy.deepcopy(network)
    own = tensors(network)
    for (name, axis), here in channels.sides.items():
        places: dict[int, list[int]] = {}
        for place, channel in enumerate(here):
            places.setdefault(channel, []).append(place)
        left = {channel: iter(found) for channel, found in places.items()}
        index = [next(left[order.get(channel, channel)]) for channel in here]
        if index != list(range(len(here))):
            values = own[name].data
            own[name].data = values.index_select(axis, torch.tensor(index, device=values.device))
    return network


@torch.no_grad()
def cut_into(narrow: nn.Module, network: nn.Module, channels: Channels, cuts: Sequence[Cut]) -> nn.Module:
    """Fill ``narrow`` with the first channels of each cut of ``network``; gives it back.

    Where a layer reads several such groups side by side, each is cut by itself: the prefix of them all, which
    `channel_split` takes, would drop the last ones.
    """
    own, wide = tensors(narrow), tensors(network)
    for name, tensor in own.items():
        kept = wide[name]
        for axis in range(kept.dim()):
            if (name, axis) in channels.sides:
                entries = torch.tensor(_kept(channels, cuts, (name, axis)), device=kept.device)
                kept = kept.index_select(axis, entries)
        tensor.copy_(kept)
    return narrow


def _kept(channels: Channels, cuts: Sequence[Cut], side: Side) -> list[int]:
    """Entries of a dimension that stay."""
    gone = {channel for cut in cuts for channel in cut.channels[cut.keep :]}
    return [place for place, channel in enumerate(channels.sides.get(side, [])) if channel not in gone]

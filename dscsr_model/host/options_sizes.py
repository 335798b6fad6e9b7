"""Sizes of images that the networks of an option file take, found on small ones."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress

import torch
from torch import nn

from dscsr_arch.errors import SizeError
from dscsr_arch.sizes import SizeRequirements, size_requirements
from dscsr_model.host import options_schema as schema
from dscsr_model.host.options_faults import Key
from dscsr_model.host.options_structure import Run
from dscsr_model.training.images import check_patch
from dscsr_model.training.validation import evaluating

_SIDE = 16  # from here on, of the image that is sent through the network


def check_sizes(network: nn.Module, run: Run, at: Key = ("network_g",), role: str = "") -> None:
    """Report a network of our models, at a place in the file, that does not take the images or patches of the training.

    The models check it again, but only once BasicSR has moved the results of an older run away.
    """
    if not run.is_train or run.known_model not in schema.ON_DEVICE:
        return
    try:
        with evaluating(network):
            sizes = size_requirements(network)
            if at == ("network_g",):
                _check_output(network, sizes.fit(_SIDE), run)
    except SizeError as error:
        known = type(network).__name__ in schema.IMAGE_NETWORKS  # of others, some operations need memory
        if known or not any(parameter.is_meta for parameter in network.parameters()):
            run.report.add_error(at, error)
        return
    key = ("datasets", "train", "gt_size")
    known = all(isinstance(value, int) for value in (run.section(*key[:2]).get("gt_size"), run.options.get("scale", 1)))
    if known and not run.report.has(*key) and not run.report.has("scale"):
        try:
            check_patch(run.options, sizes, type(network).__name__ + role)
        except SizeError as error:
            run.report.add_error(key, error)


def _check_output(network: nn.Module, side: int, run: Run) -> None:
    """Channels and scale must be the data's. Where torch stretches one to the other, only a validation would show it.

    Arguments that say so have many names (``in_chans``, ``upscaling_factor``); the network itself is asked.
    """
    scale, of_data = run.options.get("scale"), set(run.channels.values())
    if not isinstance(scale, int) or run.report.has("scale") or len(of_data) != 1:
        return
    (channels,) = of_data
    given, wanted = (channels, side, side), (channels, side * scale, side * scale)
    like = next(network.parameters(), torch.empty(0))
    try:
        with torch.no_grad():
            got = f"{tuple(network(like.new_zeros(1, *given)).shape[1:])}"
    except Exception as error:  # whatever a network raises
        got = str(error).strip().partition("\n")[0] or type(error).__name__
        if like.is_meta and hasattr(network, "size_multiple"):
            return  # it has not been tried before: operations may need memory
    if got != f"{wanted}":
        kind, remedy = type(network).__name__, "Give it the channels and the scale of the data."
        run.report.add(("network_g",), f"images {wanted} from {given}, as the data are", f"{got} from {kind}", remedy)


def common_side(networks: Iterable[nn.Module], least: int) -> int:
    """The smallest side from ``least`` on of images that all networks take; those that take none do not count."""
    common = SizeRequirements()
    for network in networks:
        with evaluating(network), suppress(SizeError):
            found = size_requirements(network)
            multiple = math.lcm(common.multiple_of, found.multiple_of)
            common = SizeRequirements(multiple, max(common.minimum, found.minimum))
    return common.fit(least)

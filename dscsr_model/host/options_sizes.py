"""Sizes of images that the networks of an option file take, found on small ones."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress

from torch import nn

from dscsr_arch.sizes import SizeError, SizeRequirements, size_requirements
from dscsr_model.host import options_schema as schema
from dscsr_model.host.options_faults import Key
from dscsr_model.host.options_structure import Run
from dscsr_model.training.tiling import check_patch
from dscsr_model.training.validation import evaluating


def check_sizes(network: nn.Module, run: Run, at: Key = ("network_g",), role: str = "") -> None:
    """Report a network of our models, at a place in the file, that takes no images, or not the patches of the training.

    The models check it again, but only once BasicSR has moved the results of an older run away.
    """
    if not run.is_train or run.known_model not in schema.ON_DEVICE:
        return
    try:
        with evaluating(network):
            sizes = size_requirements(network)
    except SizeError as error:
        if not any(parameter.is_meta for parameter in network.parameters()):  # some operations need memory
            run.report.add_error(at, error)
        return
    key = ("datasets", "train", "gt_size")
    known = all(isinstance(value, int) for value in (run.section(*key[:2]).get("gt_size"), run.options.get("scale", 1)))
    if known and not run.report.has(*key) and not run.report.has("scale"):
        try:
            check_patch(run.options, sizes, type(network).__name__ + role)
        except SizeError as error:
            run.report.add_error(key, error)


def common_side(networks: Iterable[nn.Module], least: int) -> int:
    """The smallest side from ``least`` on of images that all networks take; those that take none do not count."""
    common = SizeRequirements()
    for network in networks:
        with evaluating(network), suppress(SizeError):
            found = size_requirements(network)
            multiple = math.lcm(common.multiple_of, found.multiple_of)
            common = SizeRequirements(multiple, max(common.minimum, found.minimum))
    return common.fit(least)

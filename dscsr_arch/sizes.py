"""Which sizes of images a network takes, and how it runs on all others: mirrored up to such a size, and cropped again.

SwinIR and HAT cut images into windows, other networks halve them: they fail where a side is no multiple of 8, 16, …
What a network says as ``size_multiple`` is believed. Of any other it is found by trying small images, which takes
milliseconds, or a second for a large network on a CPU. A ``window_size`` says nothing: BasicSR's SwinIR, which fails,
has none, and MambaIRv2, which has one, pads by itself and must stay as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dscsr_arch.errors import SizeError

LARGEST = 64
"""Multiples that are tried."""
_START = 15
"""Images are tried from this side on: a network that takes 15×16 and 16×15 needs no multiple."""


class SizeRequirements(NamedTuple):
    """The sides of images, height and width alike, that a network takes; the words are spandrel's."""

    multiple_of: int = 1
    minimum: int = 1

    def fit(self, side: int) -> int:
        """The smallest side from ``side`` on that is taken."""
        return -(-max(side, self.minimum) // self.multiple_of) * self.multiple_of

    def align(self, tile: int, overlap: int) -> tuple[int, int]:
        """The side of tiles rounded down to one that is taken, and their margin rounded up to a multiple."""
        multiple = self.multiple_of
        return max(self.fit(1), tile // multiple * multiple), -(-overlap // multiple) * multiple


ANY_SIZE = SizeRequirements()


def size_requirements(network: nn.Module) -> SizeRequirements:
    """What ``network``, in eval mode, says in ``size_multiple``, or else what is found by trying it where it is.

    Raises:
        SizeError: It takes no image (1, C, H, W) of sides up to some hundred pixels that are multiples of a number up
            to `LARGEST`, or does not make it a whole number of times larger; or what it says is no such number.
    """
    declared = getattr(network, "size_multiple", None)
    if declared is not None:
        if not isinstance(declared, int) or declared < 1:
            words = f"`size_multiple` of {type(network).__name__} to be a whole number from 1"
            raise SizeError(words, repr(declared), "Correct its class.")
        return SizeRequirements(declared, int(getattr(network, "size_minimum", declared)))
    like = next((each for each in network.parameters() if each.is_floating_point()), torch.empty(0))
    return try_sizes(network, likely_channels(network), type(network).__name__, like)


def likely_channels(network: nn.Module) -> tuple[int, ...]:
    """Channels that the images of ``network`` may have, the most likely first: those of its first convolution."""
    first = next((layer.in_channels for layer in network.modules() if isinstance(layer, nn.Conv2d)), 3)
    return tuple(dict.fromkeys((first, 3, 1, 4)))


@torch.no_grad()
def try_sizes(
    forward: Callable[[Tensor], Tensor],
    channels: Sequence[int],
    name: str,
    like: Tensor,
    remedy: str = "Give another network, or its class a `size_multiple`.",
) -> SizeRequirements:
    """Find what ``forward`` requires by running it on black images; the state of torch's generators stays as it is.

    Args:
        forward: From (1, C, H, W) to (1, C', H·s, W·s); may raise anything for sizes that it does not take.
        channels: Numbers to try as C.
        name: What messages call it.
        like: A tensor of the dtype and on the device of the images.
        remedy: What messages end with.

    Raises:
        SizeError: See `size_requirements`.
    """
    fault = ""

    @cache
    def takes(height: int, width: int) -> bool:
        return any(all(runs(each, *size) for size in ((height, width), (width, height))) for each in channels)

    def runs(number: int, height: int, width: int) -> bool:
        nonlocal fault
        try:
            shape = tuple(forward(like.new_zeros(1, number, height, width)).shape)
            scale = max(1, shape[-1] // width) if shape else 1
            if len(shape) == 4 and (shape[0], *shape[2:]) == (1, height * scale, width * scale):
                return True
            failed = f"{shape} of {(1, number, height, width)}"
        except Exception as error:  # an assertion, a shape, an index: networks fail in many ways
            failed = str(error).strip().partition("\n")[0] or type(error).__name__
        fault = failed if number == channels[0] else fault  # the last one tells most: that of the largest multiple
        return False

    with torch.random.fork_rng(devices=[like.device] if like.device.type == "cuda" else []):
        start, found = 0, (0, _START)
        while found[1] > start:  # up to there, smaller multiples were tried on smaller images than this one
            start = found[1]
            found = _smallest_multiple(takes, start) or (0, 0)
        multiple, side = found
        if multiple:
            sides = range(multiple, side + 1, multiple)
            return SizeRequirements(multiple, next(each for each in sides if takes(each, each + multiple)))
    words = (
        "a network from images (1, C, H, W) to images a whole number of times larger, at least where H and W are "
        f"multiples of some number up to {LARGEST}"
    )
    raise SizeError(words, f"one that gives {fault}", remedy, name)


def padded(forward: Callable[[Tensor], Tensor], x: Tensor, requirements: SizeRequirements) -> Tensor:
    """``forward(x)``, by way of an image that is mirrored at its right and lower end until ``forward`` takes it.

    An image that is taken as it is goes in as it is. Else the padding is that of BasicSR's SwinIRModel (``reflect``),
    and goes on to and fro where the image is shorter than its padding. ``forward``, whose ``requirements`` these are,
    maps (B, C, h, w) to (B, C', h·s, w·s), and so does this.
    """
    height, width = x.shape[-2:]
    rows, columns = requirements.fit(height), requirements.fit(width)
    if (rows, columns) == (height, width):
        return forward(x)
    y = forward(x[..., _mirrored(height, rows, x.device)[:, None], _mirrored(width, columns, x.device)])
    scale = y.shape[-1] // columns
    return y[..., : height * scale, : width * scale]


def _mirrored(length: int, side: int, device: torch.device) -> Tensor:
    """Indices 0 … length − 1 … 0 … length − 1 …, ``side`` of them."""
    period = max(1, 2 * (length - 1))
    steps = torch.arange(side, device=device) % period
    return torch.minimum(steps, period - steps)


def _smallest_multiple(takes: Callable[[int, int], bool], start: int) -> tuple[int, int] | None:
    """The smallest multiple whose images, the first from ``start`` on, are taken, and their shorter side.

    The sides are consecutive multiples, so that they have no larger divisor in common: no larger multiple will do.
    """
    for multiple in range(1, LARGEST + 1):
        side = -(-start // multiple) * multiple
        if takes(side, side + multiple):
            return multiple, side
    return None

"""Images of any size in bounded memory: cut into tiles, and turned into all eight orientations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dscsr_arch.sizes import ANY_SIZE, SizeRequirements, padded

Forward = Callable[[Tensor], Tensor]


class Window(NamedTuple):
    """A part of an image, in pixels of the input."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width."""
        return self.bottom - self.top, self.right - self.left

    @property
    def longest(self) -> int:
        """The longer of the two sides."""
        return max(self.sides)

    def widened(self, margin: int, height: int, width: int) -> Window:
        """With ``margin`` more pixels at each side that is not a border of the image of this height and width."""
        top, left = max(0, self.top - margin), max(0, self.left - margin)
        return Window(top, min(height, self.bottom + margin), left, min(width, self.right + margin))

    def slices(self, scale: int = 1, origin: Window | None = None) -> tuple[slice, slice]:
        """Rows and columns of an image that is ``scale`` times as large; as counted from where ``origin`` begins."""
        top, left = (origin.top, origin.left) if origin else (0, 0)
        rows = slice((self.top - top) * scale, (self.bottom - top) * scale)
        return rows, slice((self.left - left) * scale, (self.right - left) * scale)


def split(window: Window, side: int, multiple: int = 1) -> Iterator[Window]:
    """Cut a window into a grid of nearly equal parts, none longer than ``side``, a multiple of ``multiple``.

    All cuts lie at multiples of it, from where the window begins.
    """
    for top, bottom in _spans(window.top, window.bottom, side // multiple, multiple):
        for left, right in _spans(window.left, window.right, side // multiple, multiple):
            yield Window(top, bottom, left, right)


def tiled(forward: Forward, x: Tensor, tile: int, overlap: int, requirements: SizeRequirements = ANY_SIZE) -> Tensor:
    """Apply ``forward`` to overlapping tiles and put the results together, on the CPU.

    Equal to ``forward(x)`` once ``overlap`` covers the receptive field: each tile sees ``overlap`` more pixels at
    every side that is not a border of the image, and that margin is cut off its result. Windows of a network lie in
    tiles as in the whole image.

    Args:
        forward: From (B, C, h, w) to (B, C', h·s, w·s), with one s for all sizes.
        x: (B, C, H, W), of at least one pixel.
        tile: The longest side of the part of ``x`` that one call is responsible for.
        overlap: Margin around it, in pixels of ``x``.
        requirements: Tiles are rounded down, and margins up, to what a network in ``forward`` takes, so that tiles
            need to be `padded` at the right and the lower border only.

    Returns:
        (B, C', H·s, W·s).
    """
    tile, overlap = requirements.align(tile, overlap)
    height, width = x.shape[-2:]
    output = torch.empty(0)
    for window in split(Window(0, height, 0, width), tile, requirements.multiple_of):
        seen = window.widened(overlap, height, width)
        part = forward(x[(..., *seen.slices())])
        scale = part.shape[-1] // (seen.right - seen.left)
        if not output.numel():
            output = torch.empty(*part.shape[:-2], height * scale, width * scale, dtype=part.dtype)
        output[(..., *window.slices(scale))] = part[(..., *window.slices(scale, seen))]
    return output


def self_ensemble(forward: Forward, x: Tensor, requirements: SizeRequirements = ANY_SIZE) -> Tensor:
    """Mean of ``forward`` over the eight orientations of ``x`` (B, C, H, W), each turned back (the "+" of papers).

    ``x`` is `padded` as required before it is turned, so that windows lie alike in all orientations, and in all tiles.
    """
    return padded(partial(_self_ensemble, forward), x, requirements)


def _self_ensemble(forward: Forward, x: Tensor) -> Tensor:
    total: Any = 0.0
    for mirrored in (False, True):
        for quarters in range(4):
            y = forward(torch.rot90(x.flip(-1) if mirrored else x, quarters, (-2, -1)))
            y = torch.rot90(y, -quarters, (-2, -1))
            total = total + (y.flip(-1) if mirrored else y)
    result: Tensor = total / 8
    return result


def _spans(start: int, end: int, side: int, unit: int) -> Iterator[tuple[int, int]]:
    length = -(-(end - start) // unit)
    count = -(-length // side)
    cuts = [start + index * length // count * unit for index in range(count)]
    return zip(cuts, [*cuts[1:], end], strict=True)

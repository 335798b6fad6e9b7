"""Run a network on an image of any size in bounded memory, and on all eight orientations of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dscsr_arch.errors import SizeError
from dscsr_arch.sizes import ANY_SIZE, SizeRequirements, padded

Forward = Callable[[Tensor], Tensor]


def tiled(forward: Forward, x: Tensor, tile: int, overlap: int, requirements: SizeRequirements = ANY_SIZE) -> Tensor:
    """Apply ``forward`` to overlapping tiles and put the results together, on the CPU.

    Equal to ``forward(x)`` once ``overlap`` covers the receptive field: each tile sees ``overlap`` more pixels at
    every side that is not a border of the image, and that margin is cut off its result. Windows of a network lie in
    tiles as in the whole image.

    Args:
        forward: From (B, C, h, w) to (B, C', h·s, w·s), with one s for all sizes.
        x: (B, C, H, W).
        tile: Side of the part of ``x`` that one call is responsible for.
        overlap: Margin around it, in pixels of ``x``.
        requirements: Tiles are rounded down, and margins up, to what a network in ``forward`` takes, so that tiles
            need to be `padded` at the right and the lower border only.

    Returns:
        (B, C', H·s, W·s).
    """
    tile, overlap = requirements.align(tile, overlap)
    height, width = x.shape[-2:]
    output: Tensor | None = None
    for top, bottom in _spans(height, tile):
        for left, right in _spans(width, tile):
            y0, y1 = max(0, top - overlap), min(height, bottom + overlap)
            x0, x1 = max(0, left - overlap), min(width, right + overlap)
            part = forward(x[..., y0:y1, x0:x1])
            scale = part.shape[-1] // (x1 - x0)
            if output is None:
                output = torch.empty(*part.shape[:-2], height * scale, width * scale, dtype=part.dtype)
            inner = part[..., (top - y0) * scale : (bottom - y0) * scale, (left - x0) * scale : (right - x0) * scale]
            output[..., top * scale : bottom * scale, left * scale : right * scale] = inner
    if output is None:
        raise ValueError(f"Expected an image with at least one pixel, but got shape {tuple(x.shape)}.")
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


def check_patch(opt: Mapping[str, Any], requirements: SizeRequirements, who: str) -> None:
    """Check that the patches of a training are taken as they are.

    Args:
        opt: The options of a run; without ``datasets: train: gt_size`` nothing is known.
        requirements: Those of the network that gets the patches.
        who: What messages call it.

    Raises:
        SizeError: They are not.
    """
    gt_size, scale = opt["datasets"]["train"].get("gt_size"), opt.get("scale", 1)
    patch = gt_size // scale if gt_size else 0
    if patch and (fitting := requirements.fit(patch)) != patch:
        smaller = patch // requirements.multiple_of * requirements.multiple_of
        sides = [side for side in (smaller, fitting) if side >= requirements.minimum]
        raise SizeError(
            f"Expected LQ patches whose sides {who} takes, from {requirements.fit(1)} pixels in steps of "
            f"{requirements.multiple_of}, but got {patch} (`gt_size: {gt_size}`). Write `gt_size: "
            f"{' or '.join(str(side * scale) for side in sides)}`."
        )


def _spans(length: int, tile: int) -> Iterator[tuple[int, int]]:
    for start in range(0, length, tile):
        yield start, min(start + tile, length)

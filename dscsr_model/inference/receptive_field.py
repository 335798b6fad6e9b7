"""What a network needs around a pixel, and of memory: found by running it, whatever it is made of and whoever runs it.

One column of a long, low image becomes NaN: whatever changes in the result can see that column. Then the image is
moved: what does not move along depends on where a pixel lies, as with windows and strides.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dscsr_arch.errors import SizeError
from dscsr_arch.sizes import ANY_SIZE, SizeRequirements, likely_channels

PROBE_SIDE = 32
MARGIN = 32
"""Of tiles of networks that see everything: beyond it, a pixel hardly matters to them."""
RADIUS = "receptive_field"
"""Of the metadata of an ONNX file: the radius, where no NaN can show it."""
_WIDTH, _PIXELS = 1024, 2048
"""Of the long, low image. It shows twice the radius: 36 of EDSR with 16 blocks, 351 of RRDBNet."""
_LONGEST_STEP = 64
_TOLERANCE = 1e-4  # relative to the largest value: far above float32's rounding, below what windows do

Run = Callable[[Tensor], Tensor]


class ReceptiveField(NamedTuple):
    """What a network needs around a pixel and of memory."""

    radius: int
    """Pixels of the input beside a pixel, in every direction, that can change its result; `MARGIN` if not `local`."""
    local: bool
    """Whether nothing farther away can (no attention over the whole image); else tiles are no exact cut."""
    bytes_per_pixel: float
    """Peak memory of a run per pixel of the input, without the weights."""
    sizes: SizeRequirements = ANY_SIZE
    """Sides of the input that it takes."""
    step: int = 1
    """Tiles have to begin at multiples of it, so that windows lie in them as in the whole image."""


@torch.inference_mode()
def receptive_field(
    run: Run, channels: int, sizes: SizeRequirements = ANY_SIZE, bytes_per_pixel: float | None = None
) -> ReceptiveField:
    """Look at a few runs on small images.

    Args:
        run: From (1, channels, H, W), float32 on the CPU, to (1, C, H·s, W·s): a network, an engine, a session.
        channels: Of its input.
        sizes: Of its input that it takes.
        bytes_per_pixel: Of memory; None: measured, which works for PyTorch only.
    """
    if bytes_per_pixel is None:
        bytes_per_pixel = memory_per_pixel(run, channels, sizes)
    everything = ReceptiveField(MARGIN, False, bytes_per_pixel, sizes)
    radius, step = 0, sizes.multiple_of
    strip = _strip(channels, sizes, sizes.fit(_LONGEST_STEP))
    for turned in (False, True):
        found = None
        with suppress(Exception):  # it may take no image of that form
            found = _look_along(partial(_turned, run, turned), strip, sizes)
        if found is None:
            return everything
        radius, step = max(radius, found[0]), math.lcm(step, found[1])
    return ReceptiveField(radius, True, bytes_per_pixel, sizes, step)


def not_less(found: ReceptiveField, told: str | None) -> ReceptiveField:
    """What was found, with the radius that a file tells (`RADIUS`) where that is larger."""
    known = int(told) if told and told.isascii() and told.isdigit() and len(told) < 5 else 0
    return found._replace(radius=max(found.radius, known))


def memory_per_pixel(run: Run, channels: int, sizes: SizeRequirements = ANY_SIZE) -> float:
    """Bytes that a run in PyTorch on the CPU takes at its peak, per pixel of its input."""
    side = sizes.fit(PROBE_SIDE)
    for image in (_strip(channels, sizes), torch.zeros(1, channels, side, side)):
        with suppress(Exception), torch.inference_mode():
            return peak_memory(partial(run, image), torch.device("cpu")) / image[0, 0].numel()
    raise SizeError(f"a network that runs on images of {side}x{side} pixels", "one that fails", "Give another network.")


def peak_memory(call: Callable[[], Any], device: torch.device) -> int:
    """Bytes that ``call`` holds at its peak, beside what is there before: features, scratch room and result.

    On a GPU this is what its caching allocator counts (NTIRE's figure, less what was there before). On the CPU the
    allocations of PyTorch are listed by its profiler, those of oneDNN for its scratch room among them; resident memory
    would tell less, since the heap keeps and reuses what earlier calls gave back. ONNX Runtime allocates by itself
    and is not seen.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or else the profiler writes to the terminal
    with torch.autograd.profiler.profile(use_kineto=True, profile_memory=True) as profile:
        result = call()  # kept until the end: it is part of the peak
    del result
    events = [event for event in profile.kineto_results.events() if event.name() == "[memory]"]
    return peak(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))


def peak(changes: Iterable[int]) -> int:
    """The most that is held, from bytes taken (positive) and given back (negative) in turn; nothing is held at first.

    What is given back without having been taken was there before, and does not count.
    """
    return max(accumulate(changes, lambda held, change: max(0, held + change), initial=0))


@torch.no_grad()
def try_channels(network: nn.Module, side: int) -> tuple[int, tuple[int, ...]]:
    """How many channels a network takes, and the shape that it makes of (1, channels, side, side)."""
    for channels in likely_channels(network):
        with suppress(Exception):  # a network may fail in any way
            return channels, tuple(network(torch.zeros(1, channels, side, side)).shape)
    raise SizeError(
        f"a network that takes an image of 1, 3 or 4 channels and {side}x{side} pixels",
        f"{type(network).__name__}, which takes none",
        "Give another network.",
    )


def _strip(channels: int, sizes: SizeRequirements, extra: int = 0) -> Tensor:
    """A random image (1, C, H, W + extra) as low as the network takes it: its height costs time and tells nothing."""
    height = sizes.fit(1)
    width = sizes.fit(max(2 * MARGIN, min(_WIDTH, _PIXELS // height)))
    return torch.rand(1, channels, height, width + extra, generator=torch.Generator().manual_seed(0))


def _turned(run: Run, turned: bool, x: Tensor) -> Tensor:
    return run(x.mT.contiguous()).mT if turned else run(x.contiguous())


def _look_along(run: Run, strip: Tensor, sizes: SizeRequirements) -> tuple[int, int] | None:
    """Radius and step along the columns of a strip; None if there are none, or it is too short to tell."""
    width = strip.shape[-1] - sizes.fit(_LONGEST_STEP)
    usual = run(strip[..., :width])
    scale = usual.shape[-1] // width
    changed = _changed(run, strip[..., :width], usual).flatten(0, -2).any(0)
    ends = changed[: len(changed) // 2], changed.flip(0)[: len(changed) // 2]
    columns = max(int((end.nonzero().max() + 1) if end.any() else 0) for end in ends)
    if columns == len(ends[0]):  # it may see everything
        return None
    radius = max(0, -(-columns // scale) - 1)
    step = sizes.multiple_of
    while step <= _LONGEST_STEP and 2 * radius + 3 * step < width:
        # The ends are first and last of their windows: within a window, a pixel may see as much farther.
        margin = radius + step - 1
        moved = run(strip[..., step : step + width])[..., margin * scale : (width - margin - step) * scale]
        there = usual[..., (margin + step) * scale : (width - margin) * scale]
        if _close(moved, there, usual):
            # Windows may also depend on how many fit into the image, as in SAFMN, which pools sides to an eighth.
            longer = run(strip[..., : width + sizes.multiple_of])[..., : (width - margin) * scale]
            return (margin, step) if _close(longer, usual[..., : (width - margin) * scale], usual) else None
        step *= 2
    return None


def _close(one: Tensor, other: Tensor, usual: Tensor) -> bool:
    return bool((one - other).abs().max() <= _TOLERANCE * usual.abs().max())


def _changed(run: Run, x: Tensor, usual: Tensor) -> Tensor:
    """Where the result changes when the outermost columns do.

    A NaN goes through everything that depends on it. Where an engine swallows it, or fails, large numbers tell more.
    """
    changed = torch.zeros_like(usual, dtype=torch.bool)
    for value in (math.nan, 1e3):
        damaged = x.clone()
        damaged[..., [0, -1]] = value
        try:
            result = run(damaged)
        except Exception:
            if value == value:
                raise
            continue
        changed |= result != usual
        if changed.any() and bool(result.isnan()[changed].all()):
            break
    return changed

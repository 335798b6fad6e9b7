"""An image of any size through an engine, in pieces that fit into memory, rounded to levels piece by piece."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dscsr_arch.errors import DscsrError
from dscsr_arch.sizes import SizeRequirements
from dscsr_model import stored_values
from dscsr_model.data.memory import free_memory
from dscsr_model.inference.engines import Engine
from dscsr_model.shared_work import ranks_here
from dscsr_model.tiling import Window, self_ensemble, split

LARGEST = {"cpu": 768, "cuda": 2048}
"""Sides of tiles beyond which nothing is gained."""
SMALLEST = 16
_SHARE, _MARGIN = 0.5, 1.25  # of the free memory; for what convolutions take for themselves


class Upscaler:
    """Enlarges images with an engine.

    Args:
        engine: With images of 3 channels or 1. One of 3 is given gray (and alpha) as three equal channels, whose
            mean it is that comes out; one of 1 is given each channel by itself.
        tile: Longest side of a tile; 0: images are never cut; None: from the free memory.
        overlap: Margin of a tile, of pixels that are seen but not made; None: as much as the network sees.
        ensemble: Mean of the results of all eight orientations: slightly better, eight times the work.
        stored: Give int16 as in `stored_values`, overshoots included, in place of levels.
    """

    def __init__(
        self,
        engine: Engine,
        tile: int | None = None,
        overlap: int | None = None,
        *,
        ensemble: bool = False,
        stored: bool = False,
    ) -> None:
        if engine.channels not in (1, 3):
            raise DscsrError("a network for images of 1 or 3 channels", f"one for {engine.channels}", "Choose others.")
        self.engine = engine
        self.tile = tile
        self.ensemble = ensemble
        self.stored = stored
        seen = engine.receptive_field
        self._cuts = SizeRequirements(math.lcm(seen.step, seen.sizes.multiple_of), seen.sizes.minimum)
        _, self.overlap = self._cuts.align(1, seen.radius if overlap is None else overlap)
        self._smallest, _ = self._cuts.align(SMALLEST, 0)
        self._limit = 2**31  # side of the largest tile that is known not to be too large

    def __call__(self, pixels: NDArray, done: Callable[[int], None] = lambda _: None) -> NDArray:
        """Enlarge an image.

        Args:
            pixels: (H, W, C), uint8 or uint16; C of 2 and 4 has alpha as its last channel.
            done: Told how many pixels of the input have been made, after each tile.

        Returns:
            (H·s, W·s, C) of the same type, or `stored`.

        Raises:
            DscsrError: The network fails, gives no numbers, or memory ends at the smallest tile.
        """
        height, width, channels = pixels.shape
        scale = self.engine.scale
        result = np.empty((height * scale, width * scale, channels), np.int16 if self.stored else pixels.dtype)
        if channels in (2, 4) and (pixels[:, :, -1] == pixels[0, 0, -1]).all():
            result[:, :, -1] = pixels[0, 0, -1]  # no work for the network
            self._enlarge(pixels[:, :, :-1], result[:, :, :-1], done)
        else:
            self._enlarge(fill_transparent(pixels) if channels in (2, 4) else pixels, result, done)
        return result

    def _enlarge(self, pixels: NDArray, result: NDArray, done: Callable[[int], None]) -> None:
        height, width, _ = pixels.shape
        cut = partial(self._split, height, width)
        waiting = deque(cut(Window(0, height, 0, width), self.side(pixels.shape, result.nbytes)))
        while waiting:
            window, seen = waiting.popleft()
            if window.longest > self._limit:
                waiting.extendleft(reversed(cut(window, self._limit)))
            elif (fault := self._make(pixels, window, seen, result)) is None:
                done((window.bottom - window.top) * (window.right - window.left))
            elif window.longest <= self._smallest:
                raise DscsrError(f"not enough memory even for a tile of {window.longest} pixels: {fault}")
            else:
                self._limit = max(self._smallest, window.longest // 2)
                if self.engine.device.type == "cuda":
                    torch.cuda.empty_cache()
                waiting.appendleft((window, seen))

    def side(self, shape: tuple[int, ...], spoken_for: int = 0) -> int:
        """Side of the tiles for an image (H, W, C), when ``spoken_for`` bytes of RAM are not free any more."""
        height, width, channels = shape
        if self.tile is not None:
            return self.tile or max(height, width)
        free = free_memory(self.engine.device)
        if self.engine.device.type == "cpu":
            free = (free - spoken_for) // ranks_here()
        batch = len(_images(channels, self.engine.channels))
        fitting = max(0.0, free) * _SHARE / (self.engine.receptive_field.bytes_per_pixel * batch * _MARGIN)
        largest = LARGEST.get(self.engine.device.type, 768)
        if height * width <= min(fitting, largest**2):
            return max(height, width)
        return max(self._smallest, min(largest, math.isqrt(int(fitting)) - 2 * self.overlap))

    def _split(self, height: int, width: int, window: Window, side: int) -> list[tuple[Window, Window]]:
        """Parts of a window, and what each sees of the image: a part of one size, if that is faster."""
        fit = self._cuts.fit
        parts = list(split(window, self._cuts.align(side, 0)[0], self._cuts.multiple_of))
        seen = [part.widened(self.overlap, height, width) for part in parts]
        if self.engine.one_size:
            rows, columns = (fit(max(sides)) for sides in zip(*(each.sides for each in seen), strict=True))
            starts = ((min(each.top, fit(height) - rows), min(each.left, fit(width) - columns)) for each in seen)
            seen = [Window(y, min(height, y + rows), x, min(width, x + columns)) for y, x in starts]
        return list(zip(parts, seen, strict=True))

    def _make(self, pixels: NDArray, window: Window, seen: Window, result: NDArray) -> str | None:
        """Enlarge a window into its place in the result; or say that memory is not enough, and hold none."""
        channels = pixels.shape[2]
        most = np.iinfo(pixels.dtype).max
        images = _images(channels, self.engine.channels)
        try:
            planes = torch.from_numpy(pixels[seen.slices()].astype(np.float32)).permute(2, 0, 1) / most
            batch = planes[torch.tensor(images)]
            sizes = self.engine.receptive_field.sizes
            made = self_ensemble(self.engine, batch, sizes) if self.ensemble else self.engine(batch)
            inner = made[(..., *window.slices(self.engine.scale, seen))]
            values = _joined(inner, images)
            levels = stored_values.as_numbers(values) if self.stored else values.clamp(0, 1).mul(most).round()
            if not torch.isfinite(levels).all():  # infinite ones are clamped, but inf − inf is none
                raise DscsrError("the network gives values that are no numbers: use --precision fp32 or bf16")
            whole = levels.permute(1, 2, 0).to(torch.uint8 if result.dtype == np.uint8 else torch.int32).cpu().numpy()
        except (RuntimeError, MemoryError) as error:
            fault = (str(error) or type(error).__name__).splitlines()[0]
            if _is_out_of_memory(error):
                return fault
            # Such as one side too short for a network's padding.
            raise DscsrError(f"the network fails on this image: {fault}") from error
        result[window.slices(self.engine.scale)] = whole
        return None


def fill_transparent(pixels: NDArray) -> NDArray:
    """Give pixels of alpha 0 the colour of the nearest pixel that can be seen.

    What they have is often black or white, and a network would smear it over the visible edge.

    Args:
        pixels: (H, W, C) with alpha as the last channel; stays as it is.
    """
    hidden = pixels[:, :, -1] == 0
    if not hidden.any() or hidden.all():
        return pixels
    _, nearest = cv2.distanceTransformWithLabels(
        hidden.astype(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
    )
    visible = ~hidden
    colours = np.zeros((nearest.max() + 1, pixels.shape[2] - 1), pixels.dtype)
    colours[nearest[visible]] = pixels[:, :, :-1][visible]
    filled = pixels.copy()
    filled[:, :, :-1][hidden] = colours[nearest[hidden]]
    return filled


def _images(channels: int, of_network: int) -> list[list[int]]:
    """The channels of an image (H, W, C) as images for the network: colours, and alpha after them, each as one."""
    if of_network == 1:
        return [[channel] for channel in range(channels)]
    colours = [0, 1, 2] if channels > 2 else [0, 0, 0]
    return [colours, [channels - 1] * 3] if channels in (2, 4) else [colours]


def _joined(made: Tensor, images: list[list[int]]) -> Tensor:
    """Results (B, C, H, W) of `_images` as (channels, H, W); the mean of what were equal channels."""
    parts = [
        y if len(set(image)) == len(image) else y.mean(0, keepdim=True) for y, image in zip(made, images, strict=True)
    ]
    return torch.cat(parts)


def _is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    words = ("out of memory", "can't alloc", "failed to allocate", "std::bad_alloc", "not enough memory")
    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or any(
        word in str(error).lower() for word in words
    )

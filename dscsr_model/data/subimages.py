"""Where the sub-images of an image lie, on a grid that HR and LR share."""

from __future__ import annotations

from typing import NamedTuple


class Window(NamedTuple):
    """A part of an image, in its pixels."""

    top: int
    left: int
    height: int
    width: int

    def times(self, scale: int) -> Window:
        """The same part of an image that is ``scale`` times as large."""
        return Window(*(scale * value for value in self))


def common_size(hr_size: tuple[int, int], lr_size: tuple[int, int] | None, scale: int) -> tuple[int, int] | None:
    """Height and width of what HR and LR images have in common, in LR pixels.

    An HR side that ``scale`` does not divide loses its last pixels. An LR side made from it may be rounded up or down.

    Args:
        hr_size: Height and width of the HR image.
        lr_size: Those of the LR image, or None if it is still to be made.
        scale: Factor between them.

    Returns:
        None if the two do not fit together.
    """
    floor = (hr_size[0] // scale, hr_size[1] // scale)
    ceil = (-(-hr_size[0] // scale), -(-hr_size[1] // scale))
    if lr_size is not None and any(
        not low <= side <= high for low, side, high in zip(floor, lr_size, ceil, strict=True)
    ):
        return None
    return floor


def starts(length: int, crop: int, step: int, thresh: int = 0) -> list[int]:
    """First pixels of the sub-images along one axis, as BasicSR's ``extract_subimages`` lays them.

    A last one flush with the end is added when more than ``thresh`` pixels would be left over. An axis shorter than
    ``crop``, where BasicSR fails, gives one sub-image, as long as the axis.
    """
    if length <= crop:
        return [0]
    first = list(range(0, length - crop + 1, step))
    if length - (first[-1] + crop) > thresh:
        first.append(length - crop)
    return first


def windows(height: int, width: int, crop: int, step: int, thresh: int = 0) -> list[Window]:
    """All sub-images, row by row; one window over everything when ``crop`` is 0."""
    if crop == 0:
        return [Window(0, 0, height, width)]
    size = min(crop, height), min(crop, width)
    return [
        Window(top, left, *size)
        for top in starts(height, crop, step, thresh)
        for left in starts(width, crop, step, thresh)
    ]

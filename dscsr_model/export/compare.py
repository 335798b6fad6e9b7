"""Whether an exported network does what its source does: the largest difference over images of awkward sizes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dscsr_arch.errors import DscsrError
from dscsr_arch.metadata import describe
from dscsr_arch.quantized_conv import quantized_layers
from dscsr_arch.sizes import padded, size_requirements
from dscsr_model.inference.receptive_field import PROBE_SIDE, try_channels

TOLERANCE = 1e-4
"""Of outputs in [0, 1], in float32: a fortieth of one 8-bit step. Two orders of summing the same float32 numbers differ
by some 2e-6 in the networks here, which work on 255 times their input; a wrong weight, mean or border by far more."""

HALF_TOLERANCE = 2 / 255
"""The same in float16: two 8-bit steps, at the worst pixel of noisy images. Its own steps are 5e-4 below an output
of 1; the released networks differ by 1e-3 with float16 weights, by 3e-3 where sums are in float16 too (torch on a
CPU), and by 6e-3 where each kernel is a product of three rounded ones (spandrel's form)."""

LEVELS_TOLERANCE = 1e-5
"""Of the mean square, 50 dB, of a quantized network: a value near the border of two levels falls on either side, and so
do others after it, wherever sums are ordered in another way. Where float64 differs more from float32, 4 times that. A
wrong scale, or biases rounded to whole numbers, make 45 dB of networks that have 150."""

_SIZES = ((1, 24, 40), (2, 17, 23), (1, 1, 1), (1, 2, 5), (1, 33, 1))
"""(batch, height, width): the traced size, an odd one, images smaller than a kernel and than a network's view."""


_REPORT = (
    "Nothing is kept. No program can be made of code that does other things for other sizes of images (windows, "
    "attention); otherwise please report this with the versions of torch and of the format's packages."
)


class Difference(NamedTuple):
    """Of two networks' images, as parts of the output's range: of 1, or of the largest output where that is more."""

    largest: float
    mean_square: float

    def cost(self, psnr: float) -> float:
        """By how many dB images of ``psnr`` dB get worse, if this is independent of the error that they have."""
        return 10 * math.log10(1 + self.mean_square * 10 ** (psnr / 10))


def input_channels(network: nn.Module) -> int:
    """Of the images of ``network``, as its arguments say, or else as it runs."""
    known: int | None = describe(network).arguments.get("num_in_ch")
    return known or try_channels(network, size_requirements(network).fit(PROBE_SIDE))[0]


def images(channels: int) -> Iterator[Tensor]:
    """Images (B, channels, H, W) of awkward sizes, always the same."""
    generator = torch.Generator().manual_seed(0)
    for batch, height, width in _SIZES:
        yield soft_image((batch, channels, height, width), generator)


def soft_image(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random (B, C, H, W) in [0, 1]: soft shapes with some noise, as photographs have."""
    *_, height, width = shape
    coarse = torch.rand(*shape[:2], max(1, height // 6), max(1, width // 6), generator=generator)
    soft = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    return (soft + 0.05 * torch.randn(shape, generator=generator)).clamp(0, 1)


@torch.no_grad()
def difference(
    source: nn.Module, candidate: Callable[[Tensor], Tensor], *, half: bool = False, by: str = "it"
) -> Difference:
    """The difference of what ``source`` and ``candidate`` make of `images`, `padded` as ``source`` requires.

    Args:
        source: The network, in float32.
        candidate: What was exported, loaded again.
        half: The candidate computes, or keeps its weights, in float16.
        by: What has read the candidate, for messages.

    Raises:
        DscsrError: The difference is beyond the tolerance, the output has another size, or is not finite.
    """
    what = f"the file, read by {by},"
    found = _compared(source, candidate, half, what)
    tolerance = HALF_TOLERANCE if half else TOLERANCE
    if found.largest > tolerance and not _between_levels(source, found):
        raise DscsrError(
            f"{what} to do what the network does, up to {tolerance:.1e}",
            f"a largest difference of {found.largest:.1e}",
            "Export without --fp16." if half else _REPORT,
        )
    return found


def _between_levels(source: nn.Module, found: Difference) -> bool:
    """Whether values that fall between two levels of a quantized network explain what was found."""
    if not quantized_layers(source):
        return False
    precise = copy.deepcopy(source).double()
    rounding = _compared(source, lambda x: precise(x.double()).float(), False, "float64")
    return found.mean_square <= max(LEVELS_TOLERANCE, 4 * rounding.mean_square)


def _compared(source: nn.Module, candidate: Callable[[Tensor], Tensor], half: bool, what: str) -> Difference:
    errors, sizes = [], size_requirements(source)
    for image in images(input_channels(source)):
        wanted, got = padded(source, image, sizes), padded(candidate, image, sizes)
        size = " × ".join(map(str, image.shape))
        if wanted.shape != got.shape:
            raise DscsrError(f"{what} to make {tuple(wanted.shape)} of an image {size}", tuple(got.shape), _REPORT)
        if not got.isfinite().all():
            raise DscsrError(
                f"{what} to give finite numbers for an image {size}",
                f"{int((~got.isfinite()).sum())} of {got.numel()} that are infinite or no number",
                "Some are too large for float16: export without --fp16." if half else "Nothing is kept.",
            )
        errors.append(((got - wanted) / wanted.abs().max().clamp(min=1)).flatten())
    error = torch.cat(errors)
    return Difference(float(error.abs().max()), float(error.square().mean()))

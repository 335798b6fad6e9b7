"""Weights of the official CSD code (EDSR, RCAN, CARN): from its names and its range to ours.

From "Towards Compact Single Image Super-Resolution via Contrastive Self-distillation" (arXiv 2105.11683,
https://github.com/Booooooooooo/CSD). Its networks see images in [0, rgb_range] and hold the mean in frozen 1x1
convolutions ``sub_mean`` and ``add_mean``. Ours see [0, 1] and multiply by ``img_range``, 255 by default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from dscsr_arch.architecture import CSDNames, architectures
from dscsr_arch.constructor import IMG_RANGE, RGB_MEAN
from dscsr_arch.errors import WeightsError

_SHIFTS = ("sub_mean.weight", "sub_mean.bias", "add_mean.weight", "add_mean.bias")


def from_csd(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate weights of the official CSD code; any others come back as they are.

    A network of another range than 255 is rescaled, which is exact: ``head(R·x) = (R/255·head)(255·x)``, and its last
    convolution the other way round. A frozen mean that is not DIV2K's, which our networks could not reproduce, is a
    `WeightsError`.
    """
    known = (each.csd for each in architectures().values() if each.csd is not None)
    csd = next((csd for csd in known if csd.some <= state_dict.keys()), None)
    if csd is None:
        return dict(state_dict)
    factor = _rgb_range(state_dict) / IMG_RANGE
    translated = {_renamed(name, csd): tensor for name, tensor in state_dict.items() if name not in _SHIFTS}
    if factor != 1:
        first, last = csd.ends
        translated[f"{first}.weight"] = translated[f"{first}.weight"] * factor
        for entry in (f"{last}.weight", f"{last}.bias"):
            translated[entry] = translated[entry] / factor
    return translated


def _renamed(name: str, csd: CSDNames) -> str:
    for pattern, new in csd.renamed:
        if re.match(pattern, name):
            return re.sub(f"^{pattern}", new, name)
    # Between two convolutions a Sequential counts a pixel shuffle, which has no weights.
    return re.sub(r"^upsampler\.blocks\.(\d+)\.", lambda found: f"upsample.{2 * int(found[1])}.", name)


def _rgb_range(state_dict: Mapping[str, Tensor]) -> float:
    shifts = [state_dict.get(name) for name in _SHIFTS]
    if all(shift is None for shift in shifts):
        return IMG_RANGE
    weight, bias, _, added = shifts
    if weight is None or bias is None or added is None:
        raise WeightsError(f"all of {', '.join(_SHIFTS)} in weights of the CSD code", "only some")
    mean, eye = torch.tensor(RGB_MEAN, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    whole = bias.shape == added.shape == mean.shape
    rgb_range = round(float(-bias[0].double() / mean[0]), 3) if whole else 0.0
    shifted = rgb_range * mean
    same = whole and all(torch.allclose(shift.double(), shifted, rtol=1e-4) for shift in (-bias, added))
    if not (same and rgb_range > 0 and torch.equal(weight.double(), eye[:, :, None, None])):
        raise WeightsError(
            f"weights of the CSD code to subtract and add its mean {RGB_MEAN} times the range",
            f"{bias.flatten()[:4].tolist()} and {added.flatten()[:4].tolist()}",
            "Load this file with the code that wrote it.",
        )
    return rgb_range

"""Weights of the official CSD code (EDSR, RCAN, CARN): from its names to BasicSR's, and for CARN to ours.

From "Towards Compact Single Image Super-Resolution via Contrastive Self-distillation" (arXiv 2105.11683,
https://github.com/Booooooooooo/CSD). Its networks see images in [0, rgb_range] and hold the mean in frozen 1x1
convolutions ``sub_mean`` and ``add_mean``. BasicSR's see [0, 1] and multiply by ``img_range``, 255 by default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from dscsr_arch.errors import WeightsError

RGB_MEAN = (0.4488, 0.4371, 0.4040)
IMG_RANGE = 255.0
"""Range of the networks that the translated weights are for: BasicSR's default."""

_SHIFTS = ("sub_mean.weight", "sub_mean.bias", "add_mean.weight", "add_mean.bias")
_EDSR = (
    (r"head\.", "conv_first."),
    (r"body_conv\.", "conv_after_body."),
    (r"tail_conv\.", "conv_last."),
)
_RCAN = (
    (r"head_conv\.", "conv_first."),
    (r"body_conv\.", "conv_after_body."),
    (r"tail_conv\.", "conv_last."),
    (r"body\.(\d+)\.body\.(\d+)\.body\.0\.", r"body.\1.residual_group.\2.rcab.0."),
    (r"body\.(\d+)\.body\.(\d+)\.body\.1\.", r"body.\1.residual_group.\2.rcab.2."),
    (r"body\.(\d+)\.body\.(\d+)\.caLayer\.conv_du\.0\.", r"body.\1.residual_group.\2.rcab.3.attention.1."),
    (r"body\.(\d+)\.body\.(\d+)\.caLayer\.conv_du\.1\.", r"body.\1.residual_group.\2.rcab.3.attention.3."),
)
_TAIL = {"tail_conv.weight", "tail_conv.bias", "body_conv.weight"}
_NAMES = {
    "EDSR": {"head.weight", "body.0.conv1.weight", *_TAIL},
    "RCAN": {"head_conv.weight", "body.0.body.0.body.0.weight", *_TAIL},
    "CARN": {"entry.weight", "exit.weight", "exit.bias", "b1.c1.conv.weight", "sub_mean.weight"},
}
"""Some names of each, by which it is recognised."""
_ENDS = {"EDSR": ("conv_first", "conv_last"), "RCAN": ("conv_first", "conv_last"), "CARN": ("entry", "exit")}


def csd_network(names: Mapping[str, Tensor]) -> str | None:
    """Which network of the official CSD code has these names: EDSR, RCAN, CARN, or None."""
    for kind, some in _NAMES.items():
        if some <= names.keys():
            return kind
    return None


def from_csd(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate weights of the official CSD code; any others come back as they are.

    A network of another range than 255 is rescaled, which is exact: ``head(R·x) = (R/255·head)(255·x)``, and its last
    convolution the other way round.

    Args:
        state_dict: Names to tensors.

    Returns:
        The weights under the names of BasicSR's EDSR and RCAN or of our CARN, for ``img_range`` 255.

    Raises:
        WeightsError: The frozen mean is not that of DIV2K, so that the networks could not reproduce it.
    """
    kind = csd_network(state_dict)
    if kind is None:
        return dict(state_dict)
    rgb_range = _rgb_range(state_dict)
    rules = {"EDSR": _EDSR, "RCAN": _RCAN, "CARN": ()}[kind]
    translated = {_rename(name, rules): tensor for name, tensor in state_dict.items() if name not in _SHIFTS}
    if rgb_range != IMG_RANGE:
        first, last = _ENDS[kind]
        translated[f"{first}.weight"] = translated[f"{first}.weight"] * (rgb_range / IMG_RANGE)
        for entry in (f"{last}.weight", f"{last}.bias"):
            translated[entry] = translated[entry] * (IMG_RANGE / rgb_range)
    return translated


def _few(values: Tensor) -> list[float]:
    return [float(value) for value in values.flatten()[:4]]


def _rename(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, new in rules:
        if re.match(pattern, name):
            return re.sub(f"^{pattern}", new, name)
    # Between two convolutions BasicSR's Sequential counts a pixel shuffle, which has no weights.
    return re.sub(r"^upsampler\.blocks\.(\d+)\.", lambda found: f"upsample.{2 * int(found[1])}.", name)


def _rgb_range(state_dict: Mapping[str, Tensor]) -> float:
    shifts = [state_dict.get(name) for name in _SHIFTS]
    if all(shift is None for shift in shifts):
        return IMG_RANGE
    weight, bias, _, added = shifts
    if weight is None or bias is None or added is None:
        raise WeightsError(f"Expected all of {', '.join(_SHIFTS)} in weights of the CSD code, but got only some.")
    mean, eye = torch.tensor(RGB_MEAN, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    whole = bias.shape == added.shape == mean.shape
    rgb_range = round(float(-bias[0].double() / mean[0]), 3) if whole else 0.0
    shifted = rgb_range * mean
    same = whole and all(torch.allclose(shift.double(), shifted, rtol=1e-4) for shift in (-bias, added))
    if not (same and rgb_range > 0 and torch.equal(weight.double(), eye[:, :, None, None])):
        raise WeightsError(
            f"Expected weights of the CSD code to subtract and add its mean {RGB_MEAN} times the range, but got "
            f"{_few(bias)} and {_few(added)}. Load this file with the code that wrote it."
        )
    return rgb_range

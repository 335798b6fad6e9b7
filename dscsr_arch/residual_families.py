"""EDSR, RCAN (BasicSR's) and CARN, known by their weights: recognise them, and read their arguments from the shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

StateDict = Mapping[str, Tensor]

_DEEP = 32
"""EDSR of as many blocks or more is published with res_scale 0.1, smaller ones with 1."""


def is_edsr(state_dict: StateDict) -> bool:
    """Whether these are weights of BasicSR's EDSR."""
    names = {"conv_first.weight", "body.0.conv1.weight", "conv_after_body.weight", "conv_last.weight"}
    return names <= state_dict.keys()


def edsr_arguments(state_dict: StateDict, _: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments of EDSR. Weights do not tell ``res_scale``: it is what was published for the size."""
    blocks = _count(state_dict, r"body\.(\d+)\.")
    return _common(state_dict) | {"num_block": blocks, "res_scale": 0.1 if blocks >= _DEEP else 1}


def is_rcan(state_dict: StateDict) -> bool:
    """Whether these are weights of BasicSR's RCAN."""
    block = "body.0.residual_group.0.rcab"
    ends = {"conv_first.weight", "conv_after_body.weight", "conv_last.weight"}
    names = {f"{block}.0.weight", f"{block}.3.attention.1.weight", *ends}
    return names <= state_dict.keys()


def rcan_arguments(state_dict: StateDict, _: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments of RCAN."""
    squeezed, features = state_dict["body.0.residual_group.0.rcab.3.attention.1.weight"].shape[:2]
    return _common(state_dict) | {
        "num_group": _count(state_dict, r"body\.(\d+)\."),
        "num_block": _count(state_dict, r"body\.0\.residual_group\.(\d+)\."),
        "squeeze_factor": features // squeezed,
    }


def is_carn(state_dict: StateDict) -> bool:
    """Whether these are weights of CARN."""
    return {"entry.weight", "exit.weight", "b1.b1.conv1.weight", "upsample.blocks.0.weight"} <= state_dict.keys()


def carn_arguments(state_dict: StateDict, _: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments of CARN."""
    features, num_in_ch = state_dict["entry.weight"].shape[:2]
    return {
        "num_in_ch": num_in_ch,
        "num_out_ch": state_dict["exit.weight"].shape[0],
        "num_feat": features,
        "upscale": _scale(state_dict, r"upsample\.blocks\.\d+\.weight"),
    }


def _common(state_dict: StateDict) -> dict[str, Any]:
    features, num_in_ch = state_dict["conv_first.weight"].shape[:2]
    return {
        "num_in_ch": num_in_ch,
        "num_out_ch": state_dict["conv_last.weight"].shape[0],
        "num_feat": features,
        "upscale": _scale(state_dict, r"upsample\.\d+\.weight"),
    }


def _count(state_dict: StateDict, pattern: str) -> int:
    """How many layers there are: one more than the highest number in ``pattern``.

    Raises:
        ValueError: More than there are weights: building that many layers could take any time.
    """
    count = 1 + max((int(found[1]) for name in state_dict if (found := re.match(pattern, name))), default=-1)
    if count > len(state_dict):
        raise ValueError(f"Expected as many layers as the file has weights for, but their numbers go up to {count}.")
    return count


def _scale(state_dict: StateDict, pattern: str) -> int:
    """Product of the scales of convolutions (c·r², c, 3, 3) before pixel shuffles of r."""
    scale = 1
    for name, tensor in state_dict.items():
        if re.fullmatch(pattern, name):
            ratio = tensor.shape[0] // max(1, tensor.shape[1])
            if ratio not in (4, 9) or tensor.shape[0] != ratio * tensor.shape[1]:
                raise ValueError(
                    f"Expected {name} to make 4 or 9 times as many channels, but got {tuple(tensor.shape)}. "
                    "This upsampler is none of EDSR, RCAN or CARN."
                )
            scale *= 2 if ratio == 4 else 3
    return scale

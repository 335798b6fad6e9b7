"""Kinds of networks that are known by their weights: recognise them, and read their arguments from the shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from dscsr_arch.carn_arch import CARN
from dscsr_arch.cssr_arch import find_backbone
from dscsr_arch.dsclora_arch import DSCLoRA
from dscsr_arch.low_rank import lora_ranks
from dscsr_arch.residual_families import (
    carn_arguments,
    edsr_arguments,
    is_carn,
    is_edsr,
    is_rcan,
    rcan_arguments,
)
from dscsr_arch.span_arch import SPAN, UPSCALES

StateDict = dict[str, Tensor]


class Family(NamedTuple):
    """How the weights of one kind of network are recognised and read."""

    name: str
    network: Callable[[], type[nn.Module]]
    """The class; looked up when it is needed, since some are BasicSR's."""
    recognise: Callable[[StateDict], bool]
    arguments: Callable[[StateDict, Mapping[str, Any]], dict[str, Any]]
    """Constructor arguments from (weights, overrides); ValueError if shapes make no sense."""
    prepare: Callable[[nn.Module, StateDict], nn.Module] = lambda network, _: network
    """Bring a freshly built network into the form of the file, e.g. fused."""
    hidden: Mapping[str, Callable[[Any], Any]] = {}
    """Arguments that shapes cannot tell, or not always: how to read each off a network. Values are JSON's."""


def _is_span(state_dict: StateDict) -> bool:
    heads = ("conv_1", "block_1.c1_r", "block_6.c3_r", "conv_2")
    forms = (("sk.weight",), ("eval_conv.weight",))
    return {"conv_cat.weight", "upsampler.0.weight"} <= set(state_dict) and any(
        all(f"{head}.{name}" in state_dict for head in heads for name in form) for form in forms
    )


def _span_arguments(state_dict: StateDict, overrides: Mapping[str, Any]) -> dict[str, Any]:
    head = "conv_1.sk" if "conv_1.sk.weight" in state_dict else "conv_1.eval_conv"
    channels, num_in_ch = state_dict[f"{head}.weight"].shape[:2]
    arguments = {
        "num_in_ch": num_in_ch,
        "feature_channels": channels,
        "bias": f"{head}.bias" in state_dict,
        "norm": "no_norm" not in state_dict,
    }
    total = state_dict["upsampler.0.weight"].shape[0]
    return arguments | _output_arguments(total, num_in_ch, overrides)


def _output_arguments(total: int, num_in_ch: int, overrides: Mapping[str, Any]) -> dict[str, int]:
    """Scale r and output channels c from the ``total`` = c·r² channels before a pixel shuffle.

    As many channels go out as come in, unless that leaves no scale, or an override says otherwise.
    """
    for name in ("upscale", "num_out_ch"):
        value = overrides.get(name, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"Expected `{name}` to be a positive integer, but got {value!r}.")
    scales = [overrides["upscale"]] if "upscale" in overrides else list(UPSCALES)
    if "num_out_ch" in overrides:
        channels = [overrides["num_out_ch"]]
    elif "upscale" in overrides:
        channels = [max(1, total // overrides["upscale"] ** 2)]
    else:
        channels = [num_in_ch, 3, 1]
    found = [(c, r) for c in channels for r in scales if c * r**2 == total]
    if not found:
        raise ValueError(
            f"Expected num_out_ch·upscale² channels before the pixel shuffle, with num_out_ch among {channels} and "
            f"upscale among {scales}, but the file has {total}. Give the right `num_out_ch` and `upscale`."
        )
    num_out_ch, upscale = found[0]
    return {"upscale": upscale, "num_out_ch": num_out_ch}


def _prepare_span(network: nn.Module, state_dict: StateDict) -> nn.Module:
    expanded = any(name.endswith(".sk.weight") for name in state_dict)
    return network if expanded or not isinstance(network, SPAN) else network.fuse()


def _is_dsclora(state_dict: StateDict) -> bool:
    return _is_span(state_dict) and any(name.endswith(".lora_A") for name in state_dict)


def _dsclora_arguments(state_dict: StateDict, overrides: Mapping[str, Any]) -> dict[str, Any]:
    return {**_span_arguments(state_dict, overrides), "lora_ranks": lora_ranks(state_dict)}


def rgb_mean(network: Any) -> list[float]:
    """The mean of each channel that ``network`` subtracts, as the short decimals that were given for it."""
    return [float(str(value)) for value in np.atleast_1d(network.mean.detach().cpu().float().squeeze().numpy())]


_RANGE: Mapping[str, Callable[[Any], Any]] = {"img_range": lambda network: network.img_range, "rgb_mean": rgb_mean}

_SPAN: Mapping[str, Callable[[Any], Any]] = {
    "num_out_ch": lambda network: network.upsampler[0].out_channels // network.upscale**2,
    "upscale": lambda network: network.upscale,
    **_RANGE,
    "norm": lambda network: network.norm,
}
_CARN: Mapping[str, Callable[[Any], Any]] = {**_RANGE, "final_relu": lambda network: network.b1.b1.final_relu}
_EDSR: Mapping[str, Callable[[Any], Any]] = {"res_scale": lambda network: network.body[0].res_scale, **_RANGE}
_RCAN: Mapping[str, Callable[[Any], Any]] = {
    "res_scale": lambda network: network.body[0].residual_group[0].res_scale,
    **_RANGE,
}

FAMILIES: tuple[Family, ...] = (
    Family("DSCLoRA", lambda: DSCLoRA, _is_dsclora, _dsclora_arguments, hidden=_SPAN),
    Family("SPAN", lambda: SPAN, _is_span, _span_arguments, _prepare_span, _SPAN),
    Family("CARN", lambda: CARN, is_carn, carn_arguments, hidden=_CARN),
    Family("EDSR", lambda: find_backbone("EDSR"), is_edsr, edsr_arguments, hidden=_EDSR),
    Family("RCAN", lambda: find_backbone("RCAN"), is_rcan, rcan_arguments, hidden=_RCAN),
)
"""Networks that ``load_model`` knows, in the order in which they are tried."""

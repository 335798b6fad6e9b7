"""Inference: SPAN as its authors run it, in float32, against our engines; of single images and by NTIRE's protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import inference
import torch
from torch import Tensor, nn

from dscsr_arch import SPAN, load_model
from dscsr_model.data.image_io import read_rgb
from dscsr_model.inference.engines import Engine, torch_engine
from dscsr_model.profiling.latency import milliseconds
from dscsr_model.profiling.profile import reason
from dscsr_model.weights import SHIPPED
from gpu_steps.plan import Figure, Plan, compared, float32_is_float32, replayed

EAGER: dict[str, dict[str, Any]] = {
    "fp32": {"channels_last": False},
    "fp32, channels_last": {},
    "bf16, channels_last": {"precision": "bf16"},
    "fp16, channels_last": {"precision": "fp16"},
}
COMPILED = {
    f"{way}, compiled": {**EAGER[way], "compile": True} for way in ("fp16, channels_last", "fp32, channels_last")
}


def figures(plan: Plan) -> Iterator[Figure]:
    """All ways at both sizes, those without a compiler first; then the protocol."""
    float32_is_float32()
    torch.manual_seed(0)
    network = SPAN(feature_channels=4 if plan.smoke else 28).eval()
    images = {f"{h}x{w}": inference.image(h, w).to(plan.device) for h, w in _sizes(plan)}
    for size, x in images.items():
        yield from _beside_official(plan, network, f"SPAN-28 x4, {size} LR", x, _engines(EAGER, network, plan))
    yield from _by_protocol(plan)
    engines = _engines(COMPILED, network, plan)
    for size, x in images.items():
        yield from _beside_official(plan, network, f"SPAN-28 x4, {size} LR", x, engines)


def _engines(ways: Mapping[str, dict[str, Any]], network: nn.Module, plan: Plan) -> dict[str, Engine]:
    return {way: torch_engine(network, device=str(plan.device), **settings) for way, settings in ways.items()}


def _sizes(plan: Plan) -> list[tuple[int, int]]:
    return [(16, 16), (12, 20)] if plan.smoke else [(256, 256), (1080, 1920)]


def _recorded(call: Callable[[], Tensor], plan: Plan) -> Callable[[], object]:
    """The call as a CUDA graph, or what raises what came of that."""
    try:
        return replayed(call, plan.device)
    except Exception as error:
        return partial(_raise, RuntimeError(reason(error)))


def _raise(error: Exception) -> None:
    raise error


def _beside_official(
    plan: Plan, network: nn.Module, what: str, x: Tensor, engines: Mapping[str, Engine]
) -> Iterator[Figure]:
    official = inference.as_official(network, x)
    calls: dict[str, Callable[[], Any]] = {"official, fp32": official}
    calls |= {way: partial(engine, x) for way, engine in engines.items()}
    notes = {}
    if engines.keys() == EAGER.keys():
        y = official()
        notes = {
            way: f"{inference.eight_bit_psnr(call(), y):.1f} dB to it"
            for way, call in calls.items()
            if call != official
        }
        recorded = {f"{way}, CUDA graph": _recorded(calls[way], plan) for way in engines if "channels_last" in way}
        calls |= recorded
    yield from compared(plan, what, calls, notes=notes)


def _by_protocol(plan: Plan) -> Iterator[Figure]:
    """Mean milliseconds of an image: events around each, five rounds, after one image that does not count."""
    network = load_model(SHIPPED / "span_x4.safetensors").unfuse()
    images, source = _photographs(plan)
    what = f"SPAN-26 x4, NTIRE's protocol, {len(images)} LR images of {source}"
    calls: dict[str, Callable[[Tensor], Tensor]] = {"official, fp32": inference.official(network).to(plan.device)}
    calls |= _engines(EAGER, network, plan)
    first = None
    for way, call in calls.items():
        with torch.no_grad():
            call(images[0])
            times = [milliseconds(partial(call, x), plan.device) for _ in range(5) for x in images]
        ratio, first = first and first / fmean(times), first or fmean(times)
        note = "mean of five rounds; cudnn.benchmark off"
        yield Figure(what, way, fmean(times), against="official, fp32" if ratio else "", ratio=ratio, note=note)


def _photographs(plan: Plan) -> tuple[list[Tensor], str]:
    folder = None if plan.assets is None else plan.assets / "set5" / "LRbicx4"
    if folder is None or plan.smoke:
        return [inference.image(24, 16).to(plan.device)], "random shapes"
    return [_read(file).to(plan.device) for file in sorted(folder.glob("*.png"))], "Set5"


def _read(file: Path) -> Tensor:
    return torch.from_numpy(read_rgb(file)).permute(2, 0, 1)[None].float() / 255

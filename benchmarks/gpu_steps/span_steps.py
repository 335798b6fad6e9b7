"""A training step of SPAN: the official four convolutions of every layer against merged kernels, in every form."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import span_train_step
import torch

from dscsr_model.profiling.profile import reason
from gpu_steps.plan import Figure, Plan, compared, float32_is_float32, replayed

SIZES = [(26, 16), (48, 64), (26, 64), (48, 16)]
"""Channels and batch, the most telling first."""
SIDE, TINY, TINY_SIDE = 64, [(4, 2)], 8
COMPILED = {"compiled": None, "compiled, reduce-overhead": "reduce-overhead"}


def figures(plan: Plan) -> Iterator[Figure]:
    """First what needs no compiler, in all sizes."""
    float32_is_float32()
    sizes = TINY if plan.smoke else SIZES
    for channels, batch in sizes:
        yield from _guarded(_eager, plan, channels, batch)
        _empty(plan)
    for channels, batch in sizes:
        yield from _guarded(_compiled, plan, channels, batch)
        _empty(plan)


def _guarded(ways: Callable[..., Iterator[Figure]], plan: Plan, channels: int, batch: int) -> Iterator[Figure]:
    """What one size lacks memory for leaves the others alone."""
    what = f"SPAN-{channels} x4, batch {batch}, {_side(plan)}x{_side(plan)}"
    try:
        yield from ways(plan, channels, batch, what)
    except Exception as error:
        yield Figure(what, ways.__name__.strip("_"), note=reason(error))


def _eager(plan: Plan, channels: int, batch: int, what: str) -> Iterator[Figure]:
    networks, images = _start(plan, channels, batch)
    turned = span_train_step.turned_signs(*networks.values(), *images)
    steps = {f"{way}, fp32": _step(plan, network, images) for way, network in networks.items()}
    plain, merged = networks.values()
    for network in (plain, merged):
        span_train_step.make_step(network, *images)()
    difference = span_train_step.gradient_difference(plain, merged)
    notes = {"merged, fp32": f"gradients differ by {difference:.1e}; {turned} turned signs of the loss"}
    last = tuple(image.contiguous(memory_format=torch.channels_last) for image in images)
    for way, network in networks.items():
        bf16: dict[str, Any] = {"dtype": torch.bfloat16}
        steps[f"{way}, bf16"] = _step(plan, network, images, **bf16)
        steps[f"{way}, fp32, CUDA graph"] = replayed(_step(plan, network, images, captured=True), plan.device)
        steps[f"{way}, bf16, channels_last, CUDA graph"] = replayed(
            _step(plan, network, last, captured=True, **bf16), plan.device
        )
    steps["merged, bf16, channels_last"] = _step(plan, merged, last, dtype=torch.bfloat16)
    yield from _timed(plan, what, steps, notes)


def _compiled(plan: Plan, channels: int, batch: int, what: str) -> Iterator[Figure]:
    networks, images = _start(plan, channels, batch)
    images = tuple(image.contiguous(memory_format=torch.channels_last) for image in images)
    torch._dynamo.reset()
    steps: dict[str, Callable[[], object]] = {}
    for form, mode in COMPILED.items():
        for way, network in networks.items():
            own = copy.deepcopy(network)
            forward = torch.compile(own, mode=mode, dynamic=False)
            step = span_train_step.make_step(own, *images, forward=forward, dtype=torch.bfloat16, **_fused(plan))
            steps[f"{way}, bf16, channels_last, {form}"] = _begun(step) if mode else step
    yield from _timed(plan, what, steps, {})


def _begun(step: Callable[[], object]) -> Callable[[], object]:
    def run() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        step()

    return run


def _timed(plan: Plan, what: str, steps: dict[str, Callable[[], object]], notes: dict[str, str]) -> Iterator[Figure]:
    """Ours beside the official way of the same form, and that beside the official one in float32."""
    calls = {way.replace("plain", "official"): _repeated(step, plan.steps) for way, step in steps.items()}
    against = {way: other for way in calls if (other := way.replace("merged", "official")) != way and other in calls}
    against.setdefault("merged, bf16, channels_last", "official, bf16")
    yield from compared(plan, what, calls, against, notes=notes, steps=plan.steps)


def _start(plan: Plan, channels: int, batch: int) -> tuple[dict[str, Any], tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    device = str(plan.device)
    return span_train_step.both("SPAN", channels, device), span_train_step.batch(batch, _side(plan), device)


def _side(plan: Plan) -> int:
    return TINY_SIDE if plan.smoke else SIDE


def _fused(plan: Plan) -> dict[str, Any]:
    return {"fused": True} if plan.device.type == "cuda" else {}


def _step(plan: Plan, network: Any, images: Any, *, captured: bool = False, **settings: Any) -> Callable[[], object]:
    """A step of a copy of the network."""
    capturable = {"capturable": True} if captured and plan.device.type == "cuda" else {}
    return span_train_step.make_step(copy.deepcopy(network), *images, **settings, **_fused(plan), **capturable)


def _repeated(step: Callable[[], object], times: int) -> Callable[[], object]:
    def run() -> None:
        for _ in range(times):
            step()

    return run


def _empty(plan: Plan) -> None:
    if plan.device.type == "cuda":
        torch.cuda.empty_cache()

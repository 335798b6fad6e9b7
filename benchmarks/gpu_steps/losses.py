"""Affinity and contrast against all pairs, value and gradient: what `affinity.py` and `contrastive.py` compare."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator

import affinity
import contrastive

from gpu_steps.plan import Figure, Plan, compared, float32_is_float32


def figures(plan: Plan) -> Iterator[Figure]:
    """Of both losses; the plain way is the first."""
    float32_is_float32()
    device = str(plan.device)
    batch, size, channels = (2, 8, (4, 6)) if plan.smoke else (16, 64, (26, 48))
    pair = affinity.features(Namespace(device=device, channels=channels), batch, size)
    calls = {way: lambda loss=loss: affinity.value_and_gradient(loss, *pair) for way, loss in affinity.WAYS.items()}
    what = f"spatial affinity, batch {batch}, {channels[0]} and {channels[1]} channels, {size}x{size} positions"
    yield from _beside(plan, what, calls)
    batch, negatives, side = (2, 2, 16) if plan.smoke else (16, 10, 192)
    for table, words in (("loss", "contrast, given features"), ("whole", "contrast with VGG-19 (random weights)")):
        calls = contrastive.build(Namespace(device=device), table, batch, negatives, side)
        yield from _beside(plan, f"{words}, batch {batch}, {negatives} negatives, {side}x{side}", calls)


def _beside(plan: Plan, what: str, calls: dict) -> Iterator[Figure]:
    _, ours = calls
    value, gradient = contrastive.differences(*(call() for call in calls.values()))
    note = f"differs by {value:.1e} of the value, {gradient:.1e} of the gradient"
    yield from compared(plan, what, calls, notes={ours: note})

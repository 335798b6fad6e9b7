"""Which of several engines of one network is the fastest here, among those that give the same image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from dscsr_arch.errors import DscsrError
from dscsr_model.inference.engines import Engine
from dscsr_model.profiling import latency
from dscsr_model.profiling.profile import reason

TOLERANCE = 1e-4
"""Of outputs in [0, 1]; what `export` allows between a network and its file, too."""
LEVELS_TOLERANCE = 1e-4
"""Of the mean square, 40 dB, in its place where numbers become whole: each program orders its sums in its own way, and
values near the border of two levels fall on either side."""
SECONDS = 1.0
"""Of measuring, about, for all together."""
_MOST_MS, _SMALLEST = 100.0, 64
"""Of one run: the image is halved until the first engine is as quick, but not to less than this."""


class Choice(NamedTuple):
    """The fastest, and what was found of each."""

    name: str
    engine: Engine
    milliseconds: dict[str, float]
    """By name, the fastest first."""
    faults: dict[str, str]
    """By name: why it was no candidate."""
    size: tuple[int, int]
    """Height and width of the image that was measured."""


@torch.inference_mode()
def fastest(builders: Mapping[str, Callable[[], Engine]], image: Tensor, *, levels: bool = False) -> Choice:
    """Build all engines and time them in turns; one that fails, or gives another image, is named and left out.

    Args:
        builders: By name. The first that can be built is the one that the others are compared with.
        image: (1, 3, H, W) in [0, 1], of which the middle is measured, as much as is made quickly.
        levels: The network is one of 8 bits or the like.

    Raises:
        DscsrError: None gives an image.
    """
    engines: dict[str, Engine] = {}
    faults: dict[str, str] = {}
    expected = None
    for name, build in builders.items():
        try:
            engine = build()
            if expected is None:
                image = _quick(engine, image[:, : engine.channels])
                expected = engine(image).cpu()
            off = (engine(image).cpu() - expected) / expected.abs().max().clamp(min=1)
            same = off.square().mean() <= LEVELS_TOLERANCE if levels else off.abs().max() <= TOLERANCE
        except Exception as error:  # what one backend cannot do is no fault of the others
            faults[name] = reason(error)
            continue
        if same:
            engines[name] = engine
        else:
            faults[name] = f"its image differs by {off.abs().max():.1e} of a range of 1"
    if not engines:
        said = "; ".join(f"{name}: {fault.rstrip('.')}" for name, fault in faults.items())
        raise DscsrError("a backend that runs this network", f"none: {said}")
    calls = {name: partial(engine, image.to(engine.device)) for name, engine in engines.items()}
    gpus = [engine.device for engine in engines.values() if engine.device.type == "cuda"]
    timed = latency.measure(calls, device=(*gpus, torch.device("cpu"))[0], seconds=SECONDS / (2 * len(calls)))
    faults |= {name: reason(time) for name, time in timed.items() if isinstance(time, Exception)}
    medians = {name: time.median_ms for name, time in timed.items() if not isinstance(time, Exception)}
    milliseconds = dict(sorted(medians.items(), key=lambda item: item[1]))
    best = next(iter(milliseconds))
    return Choice(best, engines[best], milliseconds, faults, (image.shape[2], image.shape[3]))


def _quick(engine: Engine, image: Tensor) -> Tensor:
    """The middle of an image, as much of it as an engine makes in `_MOST_MS`."""
    while True:
        x = image.to(engine.device)
        engine(x)
        height, width = image.shape[2:]
        if latency.milliseconds(partial(engine, x), engine.device) <= _MOST_MS or max(height, width) < 2 * _SMALLEST:
            return image
        image = image[:, :, height // 4 : height - height // 4, width // 4 : width - width // 4]

"""Measure networks side by side: what they are, how long they take in every variant, and what score that makes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from dscsr_arch import SPAN
from dscsr_arch.errors import DscsrError, DscsrWarning
from dscsr_model.data.pairing import find_images
from dscsr_model.evaluation.protocol import Quality
from dscsr_model.inference.engines import Engine, find_device
from dscsr_model.inference.peak_memory import peak_memory
from dscsr_model.profiling import latency, machine
from dscsr_model.profiling.complexity import Complexity, check_memory, check_size, count, parameters
from dscsr_model.profiling.folders import evaluate_folders
from dscsr_model.profiling.latency import Latency
from dscsr_model.profiling.variants import ToOnnx, build, check_variants

BASELINE = "SPAN-28 (baseline 2026)"
"""What the baseline is called that is measured beside the networks of the user."""

Pair = tuple[str, str]
"""A network and its variant, by their names."""
Watch = Callable[[Iterable[Any], str], Iterable[Any]]


@dataclass(frozen=True)
class Settings:
    """What to measure, and how."""

    height: int = 256
    width: int = 256
    variants: tuple[str, ...] = ("eager", "channels_last", "bf16")
    """The first of them is what the score and the image are made of."""
    device: str = "auto"
    seconds: float = 2.0
    """For the runs of each variant of each network."""
    flops: bool = True
    baseline: bool = True
    """Measure the baseline of 2026 beside the networks; its weights, which do not matter, are random."""
    images: tuple[Tensor, ...] = ()
    """Images (1, 3, H, W) whose mean time is taken, too, as NTIRE does on its validation images."""
    data: tuple[Path, Path] | None = None
    """Folders of HR and LR images to measure PSNR on."""
    untrained: frozenset[str] = frozenset()
    """Networks of random weights, whose PSNR would mean nothing."""
    to_onnx: ToOnnx | None = None

    def check(self) -> None:
        """Raise a `DscsrError` if it cannot be carried out."""
        check_size(self.height, self.width)
        check_variants(self.variants)
        find_device(self.device)
        for folder in self.data or ():
            find_images(folder)
        if not 0 < self.seconds < 1e6:
            raise DscsrError("seconds above 0 for each variant", self.seconds, "Give such as 2.")


@dataclass
class Run:
    """One variant of a network: figures, or why there are none."""

    latency: Latency | None = None
    memory: int | None = None
    """Bytes at the peak of one run: weights, image, features and result; None where it cannot be counted."""
    images_ms: float | None = None
    """Mean over the images of the settings."""
    fault: str | None = None

    @property
    def ms(self) -> float | None:
        """What a score takes: the mean over images, or else the median of the one size."""
        return self.images_ms or (self.latency and self.latency.median_ms)


@dataclass
class Measured:
    """Everything about one network."""

    complexity: Complexity
    """Only ``parameters`` if FLOPs were not wanted; the rest is then 0."""
    flops_256: int = 0
    """At 256×256, the size that scores are made of."""
    runs: dict[str, Run] = field(default_factory=dict)
    quality: Quality | None = None
    notes: list[str] = field(default_factory=list)


@dataclass
class Profile:
    """The result: networks by name, and where they were measured."""

    networks: dict[str, Measured]
    machine: dict[str, str | int]
    settings: Settings
    baseline: Run | None = None
    """Of SPAN-28, the baseline of 2026, in the first variant."""


def profile(
    networks: Mapping[str, nn.Module], settings: Settings | None = None, watch: Watch = lambda x, _: x
) -> Profile:
    """Measure ``networks``, fused copies of them; they stay as they are.

    Args:
        networks: By the names that the result shall have.
        settings: What to measure.
        watch: Wraps what is gone through, with a word on it, for progress bars.

    Raises:
        DscsrError: This, or a network, cannot be measured at all. A variant that this machine cannot do is no
            error: its `Run` says why.
    """
    settings = settings or Settings()
    settings.check()
    result = Profile({}, machine.describe(find_device(settings.device)), settings)
    for name in watch(list(networks), "counting"):
        result.networks[name] = _count(networks[name], settings)
    if settings.data is not None:
        hr, lr = settings.data
        for name in (name for name in networks if name not in settings.untrained):
            engine = build(networks[name], "eager", settings.device)
            result.networks[name].quality = evaluate_folders(engine, hr, lr, lambda pairs: watch(pairs, "PSNR"))
    pairs = [(name, variant) for name in networks for variant in settings.variants]
    sources = dict(networks)
    if settings.baseline:
        sources[BASELINE] = SPAN(feature_channels=28).eval()
        pairs.append((BASELINE, settings.variants[0]))
    built = {pair: _build(sources[pair[0]], pair[1], settings) for pair in watch(pairs, "building")}
    runs = {pair: Run(fault=engine if isinstance(engine, str) else None) for pair, engine in built.items()}
    engines = {pair: engine for pair, engine in built.items() if not isinstance(engine, str)}
    _time(engines, runs, settings, watch)
    result.baseline = runs.pop((BASELINE, settings.variants[0]), None)
    for (name, variant), run in runs.items():
        result.networks[name].runs[variant] = run
    return result


def reason(error: Exception) -> str:
    """Why something could not be done, in one line."""
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        return "not enough memory"
    words = " ".join(str(error).split())
    words = words if isinstance(error, DscsrError) else f"{type(error).__name__}: {words}"
    return words if len(words) <= 200 else f"{words[:199]}…"


def _count(network: nn.Module, settings: Settings) -> Measured:
    if not settings.flops:
        return Measured(Complexity(parameters(network), 0, 0, 0))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        complexity = count(network, settings.height, settings.width)
        at_256 = complexity if (settings.height, settings.width) == (256, 256) else count(network)
    return Measured(
        complexity,
        at_256.flops,
        notes=list(dict.fromkeys(str(each.message) for each in caught if each.category is DscsrWarning)),
    )


def _build(network: nn.Module, variant: str, settings: Settings) -> Engine | str:
    """An engine, or why there is none: what a machine cannot do is a result, too."""
    try:
        engine = build(network, variant, settings.device, settings.to_onnx)
        device = find_device(settings.device)
        check_memory(engine.receptive_field.bytes_per_pixel, settings.height, settings.width, device)
        return engine
    except Exception as error:
        return reason(error)


def _time(engines: Mapping[Pair, Engine], runs: Mapping[Pair, Run], settings: Settings, watch: Watch) -> None:
    """Fill ``runs`` with latency and memory. All are timed in turns."""
    device = find_device(settings.device)
    calls = {pair: _call(engine, settings, device) for pair, engine in engines.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        times = latency.measure(calls, device=device, seconds=settings.seconds, watch=watch)
    for pair, time in times.items():
        if isinstance(time, Exception):
            runs[pair].fault = reason(time)
            continue
        runs[pair].latency = time
        engine = engines[pair]
        if engine.network is not None:
            kept = sum(tensor.nbytes for tensor in (*engine.network.parameters(), *engine.network.buffers()))
            image = 4 * engine.channels * settings.height * settings.width
            runs[pair].memory = peak_memory(calls[pair], device) + kept + image
    scored = [pair for pair in engines if pair[1] == settings.variants[0] and runs[pair].latency]
    timed = {pair: engines[pair] for pair in scored if engines[pair].channels in (1, 3)}
    for pair, values in _time_images(timed, settings.images, device, watch).items():
        runs[pair].images_ms = fmean(values) if values else None


def _call(engine: Engine, settings: Settings, device: torch.device) -> Callable[[], Tensor]:
    x = torch.rand(1, engine.channels, settings.height, settings.width)
    return partial(engine, x.to(device) if engine.device == device else x)


def _time_images(
    engines: Mapping[Pair, Engine], images: Sequence[Tensor], device: torch.device, watch: Watch
) -> dict[Pair, list[float]]:
    """Milliseconds of each image, run once after a run that does not count."""
    times: dict[Pair, list[float]] = {pair: [] for pair in engines}
    for image in watch(images, "images") if images else ():
        for pair, engine in engines.items():
            call = partial(engine, image[:, : engine.channels].to(engine.device))
            call()
            times[pair].append(latency.milliseconds(call, device))
    return times

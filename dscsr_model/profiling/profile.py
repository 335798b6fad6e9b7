"""Measure networks side by side: what they are, how long they take in every variant, and what score that makes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from dscsr_arch import SPAN
from dscsr_arch.deployable import deployable
from dscsr_arch.errors import DscsrError
from dscsr_arch.quantized_conv import in_words, weight_bytes
from dscsr_model.data.pairing import find_images
from dscsr_model.evaluation.protocol import Quality
from dscsr_model.inference.backends import BACKENDS, Write, open_network
from dscsr_model.inference.engines import Engine, find_device, torch_engine
from dscsr_model.inference.receptive_field import peak_memory
from dscsr_model.profiling import latency, machine
from dscsr_model.profiling.complexity import Complexity, check_memory, count
from dscsr_model.profiling.folders import evaluate_folders
from dscsr_model.profiling.latency import Latency, progress

BASELINE = "SPAN-28 (baseline 2026)"
"""What the baseline is called that is measured beside the networks of the user."""

_TORCH: Mapping[str, Mapping[str, Any]] = {
    "eager": {"channels_last": False},
    "channels_last": {},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "compiled": {"compile": True},
    "compiled_bf16": {"compile": True, "precision": "bf16"},
    "compiled_fp16": {"compile": True, "precision": "fp16"},
}
VARIANTS = (*_TORCH, *BACKENDS)
"""``eager`` is PyTorch as it comes: float32, NCHW. All others of it keep channels last."""

Pair = tuple[str, str]
"""A network and its variant, by their names."""


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
    write: Write | None = None
    """What writes the files of `BACKENDS`."""

    def check(self) -> None:
        """Raise a `DscsrError` if it cannot be carried out."""
        if min(self.height, self.width) < 1:
            raise DscsrError("an image of at least 1×1 pixels", f"{self.height}×{self.width}", "256×256 is usual.")
        check_variants(self.variants)
        find_device(self.device)
        for folder in self.data or ():
            find_images(folder)
        if not 0 < self.seconds < 1e6:
            raise DscsrError("seconds above 0 for each variant", self.seconds, "Give such as 2.")


def check_variants(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once, in their order; ``all`` stands for all of them."""
    wanted = tuple(dict.fromkeys(VARIANTS if "all" in names else names))
    if not wanted or (unknown := [name for name in wanted if name not in VARIANTS]):
        got = ", ".join(unknown) if wanted else "none"
        raise DscsrError(f"variants among {', '.join(VARIANTS)}, all", got, "Choose some of these.")
    return wanted


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
    weight_bytes: int = 0
    """Of the parameters, in the bits that each is used in."""
    quantized: str = ""
    """How many convolutions are quantized, and in how many bits."""

    @property
    def notes(self) -> list[str]:
        """What to know beside the figures."""
        without = ", ".join(self.complexity.uncounted)
        notes = [f"FLOPs are without {without}, which cannot be counted: the true figure is larger."] if without else []
        if self.quantized:
            stored, full = self.weight_bytes / 2**10, 4 * self.complexity.parameters / 2**10
            notes.append(
                f"{self.quantized}: the weights take {stored:,.1f} KiB, in float32 {full:,.1f}. FLOPs and times are of "
                "float32, which computes the levels: only what has whole numbers (export, ONNX) can be faster."
            )
        return notes


@dataclass
class Profile:
    """The result: networks by name, and where they were measured."""

    networks: dict[str, Measured]
    machine: dict[str, str | int]
    settings: Settings
    baseline: Run | None = None
    """Of SPAN-28, the baseline of 2026, in the first variant."""


def profile(networks: Mapping[str, nn.Module], settings: Settings | None = None) -> Profile:
    """Measure fused copies of ``networks``, by name. A variant that this machine cannot do says why, in its `Run`."""
    settings = settings or Settings()
    settings.check()
    result = Profile({}, machine.describe(find_device(settings.device)), settings)
    for name in progress(list(networks), "counting"):
        complexity = count(networks[name], settings.height, settings.width, flops=settings.flops)
        same = (settings.height, settings.width) == (256, 256)
        at_256 = complexity if same else count(networks[name], flops=settings.flops)
        result.networks[name] = measured = Measured(complexity, at_256.flops)
        plain = deployable(networks[name])
        measured.weight_bytes, measured.quantized = weight_bytes(plain), in_words(plain)
    if settings.data:
        for name in networks.keys() - settings.untrained:
            engine = build(networks[name], "eager", settings)
            result.networks[name].quality = evaluate_folders(engine, *settings.data)
    pairs = [(name, variant) for name in networks for variant in settings.variants]
    sources = dict(networks)
    if settings.baseline:
        sources[BASELINE] = SPAN(feature_channels=28).eval()
        pairs.append((BASELINE, settings.variants[0]))
    built = {pair: _build(sources[pair[0]], pair[1], settings) for pair in progress(pairs, "building")}
    runs = {pair: Run(fault=engine if isinstance(engine, str) else None) for pair, engine in built.items()}
    _time({pair: engine for pair, engine in built.items() if not isinstance(engine, str)}, runs, settings)
    result.baseline = runs.pop((BASELINE, settings.variants[0]), None)
    for (name, variant), run in runs.items():
        result.networks[name].runs[variant] = run
    return result


def build(network: nn.Module, variant: str, settings: Settings) -> Engine:
    """A fused copy of the network, made ready to run in one of `VARIANTS`."""
    if variant in _TORCH:
        return torch_engine(network, device=settings.device, **_TORCH[variant])
    if settings.write is None:
        raise DscsrError("`write` to write a file of this network with", "None", "Give one.")
    with tempfile.TemporaryDirectory(prefix="dscsr_profile_") as folder:
        return open_network(BACKENDS[variant], network, Path(folder), settings.write, device=settings.device)


def reason(error: Exception) -> str:
    """Why something could not be done, in one line."""
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        return "not enough memory"
    words = " ".join(str(error).split())
    words = words if isinstance(error, DscsrError) else f"{type(error).__name__}: {words}"
    return words if len(words) <= 200 else f"{words[:199]}…"


def _build(network: nn.Module, variant: str, settings: Settings) -> Engine | str:
    """An engine, or why there is none: what a machine cannot do is a result, too."""
    try:
        engine = build(network, variant, settings)
        device = find_device(settings.device)
        check_memory(engine.receptive_field.bytes_per_pixel, settings.height, settings.width, device)
        return engine
    except Exception as error:
        return reason(error)


def _time(engines: Mapping[Pair, Engine], runs: Mapping[Pair, Run], settings: Settings) -> None:
    """Fill ``runs`` with latency and memory. All are timed in turns."""
    device = find_device(settings.device)
    calls = {pair: _call(engine, settings, device) for pair, engine in engines.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        times = latency.measure(calls, device=device, seconds=settings.seconds)
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
    for pair, values in _time_images(timed, settings.images, device).items():
        runs[pair].images_ms = fmean(values) if values else None


def _call(engine: Engine, settings: Settings, device: torch.device) -> Callable[[], Tensor]:
    x = torch.rand(1, engine.channels, settings.height, settings.width)
    return partial(engine, x.to(device) if engine.device == device else x)


def _time_images(
    engines: Mapping[Pair, Engine], images: Sequence[Tensor], device: torch.device
) -> dict[Pair, list[float]]:
    """Milliseconds of each image, run once after a run that does not count."""
    times: dict[Pair, list[float]] = {pair: [] for pair in engines}
    for image in progress(images, "images") if images else ():
        for pair, engine in engines.items():
            call = partial(engine, image[:, : engine.channels].to(engine.device))
            call()
            times[pair].append(latency.milliseconds(call, device))
    return times

"""Engines: a network made ready to run, behind one call, in PyTorch or ONNX Runtime."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dscsr_arch.deployable import deployable
from dscsr_arch.errors import DscsrError, UnavailableError
from dscsr_arch.sizes import SizeRequirements, padded, size_requirements
from dscsr_arch.words import many
from dscsr_model.inference.receptive_field import (
    PROBE_SIDE,
    RADIUS,
    ReceptiveField,
    not_less,
    receptive_field,
    try_channels,
)
from dscsr_model.shared_work import started_together

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Engine:
    """From images (B, channels, H, W), float32, [0, 1], to (B, channels, H·scale, W·scale), float32, not clamped.

    Images may be of any size: they are `padded` as the network requires. They may come on any device; the result lies
    on the engine's.
    """

    run: Callable[[Tensor], Tensor]
    """The same for sizes that the network takes."""
    scale: int
    channels: int
    receptive_field: ReceptiveField
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - it is immutable
    """Where results lie. ONNX Runtime may compute elsewhere."""
    network: nn.Module | None = None
    """What runs, in PyTorch."""
    one_size: bool = False
    """Whether images of one size are faster than as many pixels of several sizes."""

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> Tensor:
        """Super-resolve ``x``."""
        return padded(self.run, x.to(self.device, torch.float32), self.receptive_field.sizes)


def torch_engine(
    network: nn.Module,
    *,
    device: str = "auto",
    precision: str = "fp32",
    channels_last: bool = True,
    compile: bool = False,  # noqa: A002 - as the option is called
) -> Engine:
    """A fused copy of ``network`` on a device; the network itself stays as it is.

    Args:
        network: From (B, C, H, W) in [0, 1] to (B, C, H·s, W·s).
        device: ``auto`` (the GPU if there is one), ``cpu``, ``cuda``, ``cuda:1``, …
        precision: Of weights and features, ``fp32``, ``bf16`` or ``fp16``. The image enters in float32, and the first
            convolution computes so: less than float32 has no room for 256 levels.
        channels_last: Keep the channels of a pixel together, which is faster nearly everywhere.
        compile: Let ``torch.compile`` translate it at the first call, which takes a minute.

    Raises:
        DscsrError: No such device or precision; or the network is of another kind than described.
        SizeError: It takes no images of any size that was tried.
    """
    where = find_device(device)
    if precision not in PRECISIONS:
        raise DscsrError(f"a precision among {', '.join(PRECISIONS)}", repr(precision), "Choose one.")
    fused = deployable(network)
    sizes = size_requirements(fused)
    side = sizes.fit(PROBE_SIDE)
    channels, shape = try_channels(fused, side)
    scale = scale_of(shape, channels, side, type(network).__name__)
    seen = receptive_field(fused, channels, sizes)
    if precision != "fp32":
        _lower(fused, PRECISIONS[precision])
        seen = seen._replace(bytes_per_pixel=seen.bytes_per_pixel * 0.6)  # half, but for the ends of the network
    layout = torch.channels_last if channels_last else torch.contiguous_format
    fused.to(where).to(memory_format=layout)  # type: ignore[call-overload]
    engine = Engine(partial(_run_network, fused, layout), scale, channels, seen, where, fused)
    try:
        engine(torch.zeros(1, channels, PROBE_SIDE, PROBE_SIDE))
    except torch.cuda.OutOfMemoryError:
        pass  # another process has the memory now; tiles will be small
    except RuntimeError as error:
        raise DscsrError(
            f"{type(network).__name__} to run in {precision} on {where}",
            str(error).splitlines()[0],
            "Choose --precision fp32, or another device.",
        ) from error
    if compile:
        fused.compile(dynamic=True)
    return engine


def averaged(engines: Sequence[Engine]) -> Engine:
    """The mean of what several engines say, as one; the first one itself if it is alone.

    Raises:
        DscsrError: They are for other images than the first one, or of another scale.
    """
    first, *others = engines
    for other in others:
        if (other.scale, other.channels) != (first.scale, first.channels):
            one, another = (f"scale {each.scale} and {many(each.channels, 'channel')}" for each in (first, other))
            raise DscsrError(f"networks of one kind, {one} as the first one has", f"one of {another}", "Take another.")
    seen = [engine.receptive_field for engine in engines]
    field = ReceptiveField(
        max(one.radius for one in seen),
        all(one.local for one in seen),
        max(one.bytes_per_pixel for one in seen),
        SizeRequirements(math.lcm(*(one.sizes.multiple_of for one in seen)), max(one.sizes.minimum for one in seen)),
        math.lcm(*(one.step for one in seen)),
    )
    run = lambda x: torch.stack([engine(x) for engine in engines]).mean(0)  # noqa: E731
    return replace(first, run=run, receptive_field=field, network=None) if others else first


def onnx_engine(path: str | Path, *, device: str = "auto", threads: int | None = None) -> Engine:
    """A network in an ONNX file, run by ONNX Runtime.

    Args:
        path: A file with one input (B, C, H, W) of float32 or float16 and one such output.
        device: As for `torch_engine`; a GPU needs the package onnxruntime-gpu.
        threads: On the CPU; None: as many as PyTorch uses.

    Raises:
        DscsrError: The file cannot be read, is of another kind, or the device cannot be had; or a package is missing.
        SizeError: Its network takes no images of any size that was tried.
    """
    from dscsr_model.inference.onnx_file import CPU, find_providers, open_session, rehearse, require_onnx

    require_onnx()
    providers = find_providers(device)
    path, threads = Path(path), threads or torch.get_num_threads()
    half, channels, sizes, shape, memory = rehearse(path)
    scale = scale_of(shape, channels, sizes.fit(PROBE_SIDE), str(path))
    session = open_session(path, CPU, threads)
    seen = receptive_field(partial(run_session, session, half), channels, sizes, memory)
    seen = not_less(seen, session.get_modelmeta().custom_metadata_map.get(RADIUS))
    if providers != CPU:
        session = open_session(path, providers, threads)
    return Engine(partial(run_session, session, half), scale, channels, seen)


def find_device(name: str) -> torch.device:
    """The device of this name; ``auto`` is the first GPU, or else the CPU.

    Raises:
        DscsrError: There is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise DscsrError("a device among auto, cpu, cuda, cuda:1, …", repr(name), "Choose one.")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        remedy = "Choose another, or --device cpu."
        raise UnavailableError(f"a GPU for --device {name}", f"{count or 'none'} that PyTorch sees", remedy)
    return device


def device_of_rank(name: str) -> str:
    """Each rank's own GPU in place of ``auto`` and ``cuda``; anything else, and alone, as it is."""
    count = torch.cuda.device_count() if started_together() and name in ("auto", "cuda") else 0
    return f"cuda:{int(os.environ['LOCAL_RANK']) % count}" if count else name


def scale_of(shape: tuple[int, ...], channels: int, side: int, what: str) -> int:
    """The scale of a network by the shape that it makes of (1, channels, side, side); DscsrError if it has none."""
    scale = shape[-1] // side if shape else 0
    if scale < 1 or shape != (1, channels, side * scale, side * scale):
        raise DscsrError(
            "a network that makes images a whole number of times larger and keeps their channels",
            f"{what}, which makes {tuple(shape)} of {(1, channels, side, side)}",
            "Give another network.",
        )
    return scale


def _lower(network: nn.Module, dtype: torch.dtype) -> None:
    """Give all layers but the first convolution weights of ``dtype``, and every one the input that it can take.

    Buffers, such as the mean of the colours, stay in float32: what is done to the image itself is done in float32.
    """
    layers = [layer for layer in network.modules() if layer._parameters]
    first = next((layer for layer in layers if isinstance(layer, nn.Conv2d)), None)
    for layer in layers:
        if layer is not first:
            for parameter in layer.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
            layer.register_forward_pre_hook(lambda _, args: (args[0].to(dtype), *args[1:]))
    if first is not None:
        first.register_forward_hook(lambda _, __, result: result.to(dtype))


def _run_network(network: nn.Module, layout: torch.memory_format, x: Tensor) -> Tensor:
    # Float32 is float32: for convolutions, cuDNN would use TF32, of ten bits.
    exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False) if x.is_cuda else nullcontext()
    with exact:
        result: Tensor = network(x.contiguous(memory_format=layout)).float()
    return result


def run_session(session: Any, half: bool, x: Tensor) -> Tensor:
    """What an ONNX file makes of images (B, C, H, W), which it takes in float16 or not; RuntimeError if it fails."""
    images = x.to(torch.float16 if half else torch.float32).contiguous().numpy()
    try:
        return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images})[0]).float()
    except Exception as error:  # ONNX Runtime's have no other common base
        raise RuntimeError(f"ONNX Runtime: {error}") from error

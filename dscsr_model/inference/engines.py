"""Engines: a network made ready to run, behind one call, in PyTorch or ONNX Runtime."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dscsr_arch.deployable import deployable
from dscsr_arch.errors import DscsrError, UnavailableError
from dscsr_arch.sizes import padded, size_requirements
from dscsr_model.inference.in_place import work_in_place
from dscsr_model.inference.receptive_field import PROBE_SIDE, ReceptiveField, receptive_field, try_channels

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Engine(Protocol):
    """From images (B, channels, H, W), float32, [0, 1], to (B, channels, H·scale, W·scale), float32, not clamped.

    Images may be of any size: they are `padded` as the network requires. They may come on any device; the result lies
    on the engine's.
    """

    scale: int
    channels: int
    receptive_field: ReceptiveField
    device: torch.device

    def __call__(self, x: Tensor) -> Tensor:
        """Super-resolve ``x``; see the class."""


class TorchEngine:
    """A network in PyTorch; made by `torch_engine`."""

    def __init__(
        self,
        network: nn.Module,
        scale: int,
        channels: int,
        seen: ReceptiveField,
        device: torch.device,
        channels_last: bool,
    ) -> None:
        self.network = network
        self.scale = scale
        self.channels = channels
        self.receptive_field = seen
        self.device = device
        self._layout = torch.channels_last if channels_last else torch.contiguous_format

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> Tensor:
        """Super-resolve ``x``; see `Engine`."""
        with _exact_convolutions(self.device):
            return padded(self._forward, x.to(self.device, torch.float32), self.receptive_field.sizes)

    def _forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.network(x.contiguous(memory_format=self._layout)).float()
        return result


class OnnxEngine:
    """A file in ONNX Runtime; made by `onnx_engine`."""

    def __init__(self, session: Any, scale: int, channels: int, seen: ReceptiveField, half: bool) -> None:
        self.scale = scale
        self.channels = channels
        self.receptive_field = seen
        self.device = torch.device("cpu")  # where images come from and go to; the session may compute elsewhere
        self._session = session
        self._half = half

    def __call__(self, x: Tensor) -> Tensor:
        """Super-resolve ``x``; see `Engine`."""
        try:
            return padded(partial(_run, self._session, half=self._half), x, self.receptive_field.sizes)
        except Exception as error:  # ONNX Runtime's have no other common base
            raise RuntimeError(f"ONNX Runtime: {error}") from error


def torch_engine(
    network: nn.Module,
    *,
    device: str = "auto",
    precision: str = "fp32",
    channels_last: bool = True,
    compile: bool = False,  # noqa: A002 - as the option is called
) -> TorchEngine:
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
    if not compile:  # which finds that out by itself
        work_in_place(fused)
    sizes = size_requirements(fused)
    side = sizes.fit(PROBE_SIDE)
    channels, shape = try_channels(fused, side)
    scale = _scale_of(shape, channels, side, type(network).__name__)
    seen = receptive_field(fused, channels, sizes)
    dtype = PRECISIONS[precision]
    if dtype != torch.float32:
        _lower(fused, dtype)
        seen = seen._replace(bytes_per_pixel=seen.bytes_per_pixel * 0.6)  # half, but for the ends of the network
    fused.to(where)
    if channels_last:
        fused.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    engine = TorchEngine(fused, scale, channels, seen, where, channels_last)
    _check_runs(engine, network, precision)
    if compile:
        fused.compile(dynamic=True)
    return engine


def onnx_engine(path: str | Path, *, device: str = "auto", threads: int | None = None) -> OnnxEngine:
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
    scale = _scale_of(shape, channels, sizes.fit(PROBE_SIDE), str(path))
    session = open_session(path, CPU, threads)
    seen = receptive_field(partial(_run, session, half=half), channels, sizes, memory)
    if providers != CPU:
        session = open_session(path, providers, threads)
    return OnnxEngine(session, scale, channels, seen, half)


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
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type not in ("cpu", "cuda"):
        raise DscsrError("a device among auto, cpu, cuda, cuda:1, …", repr(name), "Choose one.")
    if device.type == "cuda" and (device.index or 0) >= count:
        remedy = "Choose another, or --device cpu."
        raise UnavailableError(f"a GPU for --device {name}", f"{count or 'none'} that PyTorch sees", remedy)
    return device


def _check_runs(engine: TorchEngine, network: nn.Module, precision: str) -> None:
    """Raise DscsrError if a network that runs in float32 on the CPU does not run as asked for."""
    try:
        engine(torch.zeros(1, engine.channels, PROBE_SIDE, PROBE_SIDE))
    except torch.cuda.OutOfMemoryError:
        pass  # another process has the memory now; tiles will be small
    except RuntimeError as error:
        raise DscsrError(
            f"{type(network).__name__} to run in {precision} on {engine.device}",
            str(error).splitlines()[0],
            "Choose --precision fp32, or another device.",
        ) from error


def _scale_of(shape: tuple[int, ...], channels: int, side: int, what: str) -> int:
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


def _exact_convolutions(device: torch.device) -> Any:
    """Float32 is float32: cuDNN would use TF32, of ten bits, for convolutions."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False) if device.type == "cuda" else nullcontext()


def _run(session: Any, x: Tensor, half: bool) -> Tensor:
    images = x.to("cpu", torch.float16 if half else torch.float32).contiguous().numpy()
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images})[0]).float()

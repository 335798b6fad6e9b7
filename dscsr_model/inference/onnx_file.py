"""ONNX files as ONNX Runtime opens them, and how far their convolutions reach."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dscsr_arch.sizes import LARGEST, SizeRequirements, try_sizes
from dscsr_model.data.memory import resident
from dscsr_model.inference.engines import EngineError, find_device
from dscsr_model.inference.footprint import Footprint

_LOCAL_NAMES = """
    Add Cast Clip Concat Constant ConstantOfShape DepthToSpace Div Elu Equal Erf Exp Expand Gather Gelu Greater
    HardSigmoid HardSwish Identity LeakyRelu Less Max Min Mul Neg PRelu Pad Pow Reciprocal Relu Reshape Shape
    Sigmoid Slice Softplus Split Sqrt Squeeze Sub Sum Swish Tanh Transpose Unsqueeze Where
"""
_LOCAL = frozenset(_LOCAL_NAMES.split())
"""Operations of ONNX that see one pixel only, or (Pad) what convolutions see anyway."""
_TYPES = {"tensor(float)": False, "tensor(float16)": True}
_SIDE = 192


def open_session(path: Path, device: str, threads: int) -> tuple[Any, bool, int]:
    """Open a file.

    Returns:
        The session, whether it computes in float16, and the channels of its pictures.

    Raises:
        EngineError: See `onnx_engine`.
    """
    runtime = _import_onnxruntime()
    if not path.is_file():
        raise EngineError(f"Expected an ONNX file at {path}, but there is none. Check the path.")
    providers = _providers(runtime, device)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are raised
    try:
        session = runtime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # its exceptions have no common base but this one
        raise EngineError(
            f"Expected a whole ONNX file at {path}, but ONNX Runtime cannot open it: {_first_line(error)}. "
            "Export it again (dscsr export --format onnx)."
        ) from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    given = inputs[0] if len(inputs) == 1 and len(outputs) == 1 else None
    channels = given.shape[1] if given is not None and len(given.shape) == 4 else None
    if given is None or given.type not in _TYPES or not isinstance(channels, int):
        described = "; ".join(f"{each.name}: {each.type} {each.shape}" for each in (*inputs, *outputs))
        raise EngineError(
            f"Expected one input (batch, channels, height, width) of float32 or float16 and one output in {path}, but "
            f"got {described}. Export it again (dscsr export --format onnx)."
        )
    return session, _TYPES[given.type], channels


def read_sizes(session: Any, run: Callable[[Tensor], Tensor], channels: int, name: str) -> SizeRequirements:
    """The sizes that a file takes: what it says as ``size_multiple``, or what is found by trying.

    Raises:
        SizeError: It takes none that was tried.
    """
    said = session.get_modelmeta().custom_metadata_map.get("size_multiple")
    for multiple in range(1, LARGEST + 1):
        if said == str(multiple):
            return SizeRequirements(multiple, multiple)
    remedy = "Export it again with dynamic height and width."
    return try_sizes(run, (channels,), name, torch.empty(0), remedy)


def read_footprint(path: Path, session: Any, channels: int, half: bool, sizes: SizeRequirements) -> Footprint:
    """How far the convolutions of a file reach together, and the memory of a run as the process grows by it."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    kernels = {item.name: list(item.dims) for item in graph.initializer}
    radius, local = 0, True
    for node in graph.node:
        if node.op_type != "Conv":
            local &= node.op_type in _LOCAL
            continue
        attributes = {item.name: list(item.ints) for item in node.attribute}
        sides = attributes.get("kernel_shape") or kernels.get(node.input[1], [])[2:]
        gaps = attributes.get("dilations") or [1] * len(sides)
        radius += max(((side - 1) * gap + 1 for side, gap in zip(sides, gaps, strict=True)), default=0) // 2
        local &= bool(sides) and max(attributes.get("strides", [1])) == 1  # kernels that are computed tell no size
    before = resident()
    name = session.get_inputs()[0].name
    side = sizes.fit(_SIDE)
    session.run(None, {name: np.zeros((1, channels, side, side), np.float16 if half else np.float32)})
    # The arena of ONNX Runtime keeps what a run took. The heap may have had some to spare: never less than 4 KiB.
    return Footprint(radius, local, max(4096.0, (resident() - before) / side**2), sizes)


def _providers(runtime: Any, device: str) -> list[Any]:
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        if "CUDAExecutionProvider" in runtime.get_available_providers():
            index = find_device("cuda" if device == "auto" else device).index or 0
            return [("CUDAExecutionProvider", {"device_id": index}), "CPUExecutionProvider"]
        if device != "auto":
            raise EngineError(
                f"Expected ONNX Runtime for GPUs for --device {device}, but got that for CPUs. Run `pip install "
                "onnxruntime-gpu` in place of onnxruntime, or choose --device cpu, or --backend torch."
            )
    else:
        find_device(device)
    return ["CPUExecutionProvider"]


def _import_onnxruntime() -> Any:
    try:
        import onnx  # noqa: F401 - read_footprint needs it
        import onnxruntime
    except ModuleNotFoundError as error:
        raise EngineError(
            f"Expected ONNX Runtime, but {error.name} is not installed. Run `pip install 'dscsr[onnx]'`, or choose "
            "--backend torch."
        ) from error
    return onnxruntime


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300].rstrip(".")

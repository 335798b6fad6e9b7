"""ONNX files as ONNX Runtime opens them, and how far their convolutions reach."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Timer
from typing import Any

import torch
from torch import Tensor

from dscsr_arch.errors import DscsrError
from dscsr_arch.sizes import LARGEST, SizeRequirements, try_sizes
from dscsr_model.inference import onnx_rehearsal
from dscsr_model.inference.engines import find_device
from dscsr_model.inference.receptive_field import PROBE_SIDE

_LOCAL_NAMES = """
    Add Cast Clip Concat Constant ConstantOfShape DepthToSpace Div Elu Equal Erf Exp Expand Gather Gelu Greater
    HardSigmoid HardSwish Identity LeakyRelu Less Max Min Mul Neg PRelu Pad Pow Reciprocal Relu Reshape Shape
    Sigmoid Slice Softplus Split Sqrt Squeeze Sub Sum Swish Tanh Transpose Unsqueeze Where
"""
_LOCAL = frozenset(_LOCAL_NAMES.split())
"""Operations of ONNX that see one pixel only, or (Pad) what convolutions see anyway."""
_SIDES = (192, 96)
"""Of images to measure memory on; the first one whose run can be waited for."""
_MOST_BYTES, _MOST_SECONDS, _PATIENCE = 2 * 2**30, 8, 60
"""What opening a file and all runs to get to know it may take: memory beyond the file's size, seconds of one core, and
seconds in all, however busy the machine is."""


class Rehearsal:
    """A file under trial in a process of its own; see `onnx_rehearsal`. Leaving it as a context ends the process."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise DscsrError(f"Expected an ONNX file at {path}, but there is none. Check the path.")
        self._path = path
        self._grown = 0
        most = _MOST_BYTES + 4 * path.stat().st_size
        self._process = subprocess.Popen(
            [sys.executable, onnx_rehearsal.__file__, str(path.resolve()), str(most), str(_MOST_SECONDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        self._timer = Timer(_PATIENCE, self._process.kill)
        self._timer.start()
        self.ended: DscsrError | None = None

    def __enter__(self) -> Rehearsal:
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._process.kill()
        self._process.communicate()

    def inspect(self) -> tuple[bool, int, Mapping[str, str]]:
        """Whether the file computes in float16, the channels of its images, and its metadata.

        Raises:
            DscsrError: It cannot be opened, is of another kind, or may never come to an end.
        """
        found = self._answer()
        if "fault" in found:
            raise DscsrError(
                f"Expected a whole ONNX file at {self._path}, but ONNX Runtime cannot open it: {found['fault']}. "
                "Export it again (dscsr export --format onnx)."
            )
        inputs, outputs = found["inputs"], found["outputs"]
        _, kind, shape = inputs[0] if len(inputs) == len(outputs) == 1 else ("", "", [])
        if kind not in onnx_rehearsal.TYPES or len(shape) != 4 or not isinstance(shape[1], int):
            described = "; ".join(f"{name}: {kind} {shape}" for name, kind, shape in (*inputs, *outputs))
            raise DscsrError(
                f"Expected one input (batch, channels, height, width) of float32 or float16 and one output in "
                f"{self._path}, but got {described[:300]}. Export it again (dscsr export --format onnx)."
            )
        return onnx_rehearsal.TYPES[kind] == "float16", shape[1], found["metadata"]

    def __call__(self, x: Tensor) -> Tensor:
        """Run the file on zeros: the result is a shape without numbers. Raises RuntimeError if it fails."""
        return torch.empty(self._run(x.shape)["shape"], device="meta")

    def measure(self, channels: int, sizes: SizeRequirements) -> float:
        """Bytes of memory that a run takes per pixel. Raises RuntimeError if it fails."""
        side = sizes.fit(PROBE_SIDE)
        found = self._run((1, channels, side, side))
        for wanted in map(sizes.fit, _SIDES):
            if found["seconds"] * (wanted / side) ** 2 < _MOST_SECONDS / 4:
                side, found = wanted, self._run((1, channels, wanted, wanted))
                break
        return max(4096.0, self._grown / side**2)  # the heap may have some to spare

    def _run(self, shape: Sequence[int]) -> dict[str, Any]:
        if self.ended is None:
            with suppress(OSError):  # then there is no answer
                print(list(shape), file=self._process.stdin, flush=True)
        found = self._answer()
        if "fault" in found:
            raise RuntimeError(found["fault"])
        self._grown += found["grown"]
        return found

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout and self.ended is None else ""
        if not line:
            self.ended = DscsrError(
                f"Expected an ONNX network that runs on small images in {_MOST_SECONDS} s and 2 GiB in {self._path}, "
                "but it took more. Do not use it: it is damaged, or made to do harm."
            )
            raise self.ended
        found: dict[str, Any] = json.loads(line)
        return found


def open_session(path: Path, device: str, threads: int) -> Any:
    """Open a file that passed its `Rehearsal`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are raised
    providers = _providers(onnxruntime, device)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # its exceptions have no common base but this one
        raise DscsrError(f"Expected ONNX Runtime to open {path} on {device}, but got: {error}. Try cpu.") from error


def read_sizes(
    metadata: Mapping[str, str], run: Callable[[Tensor], Tensor], channels: int, name: str
) -> SizeRequirements:
    """The sizes that a file takes: what it says as ``size_multiple``, or what is found by trying.

    Raises:
        SizeError: It takes none that was tried.
    """
    said = metadata.get("size_multiple")
    for multiple in range(1, LARGEST + 1):
        if said == str(multiple):
            return SizeRequirements(multiple, multiple)
    remedy = "Export it again with dynamic height and width."
    return try_sizes(run, (channels,), name, torch.empty(0), remedy)


def read_reach(path: Path) -> tuple[int, bool]:
    """How far the convolutions of a file reach together, and whether nothing in it looks farther.

    Raises:
        DscsrError: What it does depends on the image: nobody knows when it ends.
    """
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    for node in (*model.graph.node, *(node for function in model.functions for node in function.node)):
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise DscsrError(
                f"Expected an ONNX network without branches and loops, which may never end, in {path}, but got "
                f"{node.op_type}. Export it again by tracing it."
            )
    kernels = {item.name: list(item.dims) for item in model.graph.initializer}
    radius, local = 0, True
    for node in model.graph.node:
        if node.op_type != "Conv":
            local &= node.op_type in _LOCAL
            continue
        attributes = {item.name: list(item.ints) for item in node.attribute}
        sides = attributes.get("kernel_shape") or kernels.get(node.input[1], [])[2:]
        gaps = attributes.get("dilations") or [1] * len(sides)
        radius += max(((side - 1) * gap + 1 for side, gap in zip(sides, gaps, strict=True)), default=0) // 2
        local &= bool(sides) and max(attributes.get("strides", [1])) == 1  # kernels that are computed tell no size
    return radius, local


def _providers(runtime: Any, device: str) -> list[Any]:
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        if "CUDAExecutionProvider" in runtime.get_available_providers():
            index = find_device("cuda" if device == "auto" else device).index or 0
            return [("CUDAExecutionProvider", {"device_id": index}), "CPUExecutionProvider"]
        if device != "auto":
            raise DscsrError(
                f"Expected ONNX Runtime for GPUs for --device {device}, but got that for CPUs. Run `pip install "
                "onnxruntime-gpu` in place of onnxruntime, or choose --device cpu, or --backend torch."
            )
    else:
        find_device(device)
    return ["CPUExecutionProvider"]


def require_onnx() -> None:
    """Raise DscsrError, with the remedy, unless ONNX files can be read and run."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ModuleNotFoundError as error:
        raise DscsrError(
            f"Expected ONNX Runtime, but {error.name} is not installed. Run `pip install 'dscsr[onnx]'`, or choose "
            "--backend torch."
        ) from error

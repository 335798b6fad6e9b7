"""ONNX files as ONNX Runtime opens them, after a rehearsal in a process where they can do no harm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Timer
from typing import Any, NamedTuple

import torch

from dscsr_arch.errors import DscsrError, SizeError, UnavailableError
from dscsr_arch.sizes import LARGEST, SizeRequirements, try_sizes
from dscsr_model.inference import onnx_rehearsal
from dscsr_model.inference.engines import find_device
from dscsr_model.inference.receptive_field import PROBE_SIDE

_SIDES = (192, 96)
"""Of images to measure memory on; the first one whose run can be waited for."""
_MOST_BYTES, _MOST_SECONDS, _PATIENCE = 2 * 2**30, 8, 60
"""What opening a file and all runs to get to know it may take: memory beyond the file's size, seconds of one core, and
seconds in all, however busy the machine is."""
CPU = ["CPUExecutionProvider"]
_AGAIN = "Export it again (dscsr export --format onnx)."
_ANY_SIZE = "Export it again with dynamic height and width."

Ask = Callable[[Sequence[int] | None], dict[str, Any]]
"""Has the file run on zeros of a shape; raises RuntimeError if that fails. None: what it takes and gives."""


class Learned(NamedTuple):
    """What a rehearsal tells of a file."""

    half: bool
    """Whether it computes in float16."""
    channels: int
    sizes: SizeRequirements
    shape: tuple[int, ...]
    """Of the result for an image of `PROBE_SIDE`."""
    bytes_per_pixel: float


def rehearse(path: Path) -> Learned:
    """Get to know a file by running it on small images in a process of its own; see `onnx_rehearsal`."""
    if not path.is_file():
        raise DscsrError("an ONNX file", "none", "Check the path.", path)
    with _process(path) as (process, ask):
        half, channels, said = _inspect(path, ask)
        _check_straight(path)
        try:
            sizes = next((SizeRequirements(n, n) for n in range(1, LARGEST + 1) if said == str(n)), None)
            if sizes is None:

                def run(x: torch.Tensor) -> torch.Tensor:
                    return torch.empty(ask(x.shape)["shape"], device="meta")

                sizes = try_sizes(run, (channels,), str(path), torch.empty(0), _ANY_SIZE)
            side = sizes.fit(PROBE_SIDE)
            found = ask((1, channels, side, side))
            shape = tuple(found["shape"])
            for wanted in map(sizes.fit, _SIDES):
                if found["seconds"] * (wanted / side) ** 2 < _MOST_SECONDS / 4:
                    side, found = wanted, ask((1, channels, wanted, wanted))
                    break
        except (RuntimeError, SizeError) as error:
            if process.poll() is not None:
                raise _too_much(path) from None
            if isinstance(error, SizeError):
                raise
            got = f"one that fails: {error}"
            raise DscsrError("an ONNX network that takes images of any size", got, _ANY_SIZE, path) from error
    memory = max(4096.0, found["grown"] / side**2)  # the heap may have some to spare
    return Learned(half, channels, sizes, shape, memory)


@contextmanager
def _process(path: Path) -> Iterator[tuple[subprocess.Popen[str], Ask]]:
    most = _MOST_BYTES + 4 * path.stat().st_size
    process = subprocess.Popen(
        [sys.executable, onnx_rehearsal.__file__, str(path.resolve()), str(most), str(_MOST_SECONDS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )

    def ask(shape: Sequence[int] | None) -> dict[str, Any]:
        if shape is not None:
            with suppress(OSError):  # then there is no answer
                print(list(shape), file=process.stdin, flush=True)
        if process.stdout is None or not (line := process.stdout.readline()):
            process.wait()
            raise _too_much(path)
        answer: dict[str, Any] = json.loads(line)
        if "fault" in answer:
            raise RuntimeError(answer["fault"])
        return answer

    timer = Timer(_PATIENCE, process.kill)
    timer.start()
    try:
        yield process, ask
    finally:
        timer.cancel()
        process.kill()
        process.communicate()


def _inspect(path: Path, ask: Ask) -> tuple[bool, int, str | None]:
    """Whether the file computes in float16, the channels of its images, and the multiple that it says."""
    try:
        found = ask(None)
    except RuntimeError as error:
        got = f"one that ONNX Runtime cannot open: {error}"
        raise DscsrError("a whole ONNX file", got, _AGAIN, path) from error
    inputs, outputs = found["inputs"], found["outputs"]
    _, kind, shape = inputs[0] if len(inputs) == len(outputs) == 1 else ("", "", [])
    if kind not in onnx_rehearsal.TYPES or len(shape) != 4 or not isinstance(shape[1], int):
        raise DscsrError(
            "one input (batch, channels, height, width) of float32 or float16 and one output",
            "; ".join(f"{name}: {kind} {shape}" for name, kind, shape in (*inputs, *outputs))[:300],
            _AGAIN,
            path,
        )
    return onnx_rehearsal.TYPES[kind] == "float16", shape[1], found["metadata"].get("size_multiple")


def _too_much(path: Path) -> DscsrError:
    return DscsrError(
        f"an ONNX network that runs on small images in {_MOST_SECONDS} s and 2 GiB",
        "one that takes more",
        "Do not use it: it is damaged, or made to do harm.",
        path,
    )


def _check_straight(path: Path) -> None:
    """Raise DscsrError if what the file does depends on the image: nobody would know when it ends."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    for node in (*model.graph.node, *(node for function in model.functions for node in function.node)):
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise DscsrError(
                "an ONNX network without branches and loops, which may never end",
                node.op_type,
                "Export it again by tracing it.",
                path,
            )


def open_session(path: Path, providers: list[Any], threads: int) -> Any:
    """Open a file of ours, or one that passed its rehearsal; 0 threads are as many as there are cores."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are raised
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # its exceptions have no common base but this one
        raise DscsrError("ONNX Runtime to open it", f"this from it: {error}", "Try --device cpu.", path) from error


def find_providers(device: str) -> list[Any]:
    """What ONNX Runtime computes with on a device of this name; `find_device` knows the names."""
    import onnxruntime

    for_gpus = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if device.startswith("cuda") and not for_gpus:
        raise UnavailableError(
            f"ONNX Runtime for GPUs for --device {device}",
            "that for CPUs",
            "Run `pip install onnxruntime-gpu` in place of onnxruntime; or choose --device cpu or --backend torch.",
        )
    found = find_device(device)
    gpu = found.type == "cuda" and for_gpus
    return [("CUDAExecutionProvider", {"device_id": found.index or 0}), *CPU] if gpu else CPU


def require_onnx() -> None:
    """Raise UnavailableError, with the remedy, unless ONNX files can be read and run."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ModuleNotFoundError as error:
        raise UnavailableError(
            "ONNX Runtime",
            f"no {error.name}",
            "Run `pip install 'dscsr[onnx]'`; upscale also runs with --backend torch.",
        ) from error

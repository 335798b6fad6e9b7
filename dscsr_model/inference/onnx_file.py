"""ONNX files as ONNX Runtime opens them, after a rehearsal in a process where they can do no harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dscsr_arch.errors import DscsrError, UnavailableError, why_not_imported
from dscsr_model.inference import rehearsal
from dscsr_model.inference.engines import find_device
from dscsr_model.inference.no_telemetry import import_onnxruntime
from dscsr_model.inference.rehearsal import Ask, Learned, Said
from dscsr_model.inference.rehearsal_process import TYPES

CPU = ["CPUExecutionProvider"]
_AGAIN = "Export it again (dscsr export --format onnx)."


def rehearse(path: Path) -> Learned:
    """Get to know a file by running it on small images in a process of its own."""
    if not path.is_file():
        raise DscsrError("an ONNX file", "none", "Check the path.", path)
    return rehearsal.rehearse(path, "onnx", _inspect)


def _inspect(path: Path, ask: Ask) -> Said:
    try:
        found = ask(None)
    except RuntimeError as error:
        got = f"one that ONNX Runtime cannot open: {error}"
        raise DscsrError("a whole ONNX file", got, _AGAIN, path) from error
    inputs, outputs = found["inputs"], found["outputs"]
    _, kind, shape = inputs[0] if len(inputs) == len(outputs) == 1 else ("", "", [])
    if kind not in TYPES or len(shape) != 4 or not isinstance(shape[1], int):
        raise DscsrError(
            "one input (batch, channels, height, width) of float32 or float16 and one output",
            "; ".join(f"{name}: {kind} {shape}" for name, kind, shape in (*inputs, *outputs))[:300],
            _AGAIN,
            path,
        )
    _check_straight(path)
    return Said(TYPES[kind] == "float16", shape[1], found["metadata"].get("size_multiple"))


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


def has_levels(path: Path) -> bool:
    """Whether numbers become whole in the file; not in one that cannot be read: what opens it says what is wrong."""
    import onnx

    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception:  # the parser's own has no base but this one
        return False
    return any(node.op_type == "QuantizeLinear" for node in graph.node)


def open_session(path: Path, providers: list[Any], threads: int) -> Any:
    """Open a file of ours, or one that passed its rehearsal; 0 threads are as many as there are cores."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are raised
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # its exceptions have no common base but this one
        raise DscsrError("ONNX Runtime to open it", f"this from it: {error}", "Try --device cpu.", path) from error


def find_providers(device: str) -> list[Any]:
    """What ONNX Runtime computes with on a device of this name; `find_device` knows the names."""
    for_gpus = "CUDAExecutionProvider" in import_onnxruntime().get_available_providers()
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
        from onnx import load  # noqa: F401  # which a folder of that name has not

        import_onnxruntime().InferenceSession  # noqa: B018
    except Exception as error:
        remedy = "Run `pip install 'dscsr[onnx]'`."
        raise UnavailableError("the packages onnx and onnxruntime", why_not_imported(error), remedy) from error

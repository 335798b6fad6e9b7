"""Where figures were measured: they mean nothing without it."""

from __future__ import annotations

import contextlib
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from dscsr_arch.words import many
from dscsr_model.inference.no_telemetry import import_onnxruntime


def describe(device: torch.device) -> dict[str, str | int]:
    """Processor or GPU, threads, and the versions that matter, as ``{"device": …, "threads": …, "torch": …}``."""
    metadata: dict[str, str | int] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "cpu": processor(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "system": platform.system(),
    }
    if device.type == "cuda":
        metadata["cuda"] = str(torch.version.cuda)
        metadata["cudnn"] = str(torch.backends.cudnn.version())
    with contextlib.suppress(Exception):  # a broken one is told where it is to run
        metadata["onnxruntime"] = str(import_onnxruntime().__version__)
    for name in ("openvino", "ncnn"):
        with contextlib.suppress(ImportError):
            metadata[name] = version(name)
    return metadata


def in_words(metadata: dict[str, str | int]) -> str:
    """The same as a line for people."""
    where = str(metadata["cpu"]) if metadata["device"] == "CPU" else f"{metadata['device']} (host: {metadata['cpu']})"
    programs = ("torch", "cuda", "onnxruntime", "openvino", "ncnn", "python")
    versions = [f"{name} {metadata[name]}" for name in programs if name in metadata]
    return f"{where}, {many(int(metadata['threads']), 'thread')}; {', '.join(versions)}"


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Name of the processor, as its maker writes it; the kind of machine where the system does not tell."""
    try:
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()

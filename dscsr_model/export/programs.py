"""Programs of torch itself: ``torch.export`` and TorchScript, which run without the Python code of the network."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from dscsr_arch.deployable import deployable
from dscsr_arch.errors import DscsrError
from dscsr_arch.metadata import describe, to_metadata
from dscsr_model.export.half import HalfInside
from dscsr_model.export.onnx import quiet

FACTS = "dscsr.json"
"""Name of the metadata among a program's extra files."""


def to_torch_export(network: nn.Module, path: str | os.PathLike[str], *, half: bool = False) -> None:
    """Write ``network`` for ``torch.export.load(path).module()``, for any batch, height and width; see `to_onnx`.

    Raises:
        DscsrError: torch cannot translate the network.
    """
    shipped, example, metadata = _prepared(network, half)
    buffer = io.BytesIO()
    sizes = {axis: torch.export.Dim(name) for axis, name in {0: "batch", 2: "height", 3: "width"}.items()}
    try:
        with quiet():
            program = torch.export.export(shipped, (example,), dynamic_shapes=(sizes,))
            torch.export.save(program, buffer, extra_files={FACTS: metadata})
    except Exception as error:  # anything in torch's exporter, which has many classes of its own
        raise DscsrError(f"Expected torch.export to translate the network, but it says: {_first(error)}") from error
    Path(path).write_bytes(buffer.getbuffer())


def to_torchscript(network: nn.Module, path: str | os.PathLike[str], *, half: bool = False) -> None:
    """Write ``network`` for ``torch.jit.load(path)``, for any batch, height and width; see `to_onnx`.

    Traced, since nothing in the networks here depends on the size of an image.

    Raises:
        DscsrError: torch cannot translate the network.
    """
    shipped, example, metadata = _prepared(network, half)
    buffer = io.BytesIO()  # on a full disk torch's own writer ends the process
    try:
        with quiet(), torch.no_grad():
            program = torch.jit.freeze(torch.jit.trace(shipped, example, check_trace=False))
            torch.jit.save(program, buffer, _extra_files={FACTS: metadata})
    except Exception as error:
        raise DscsrError(f"Expected TorchScript to trace the network, but it says: {_first(error)}") from error
    Path(path).write_bytes(buffer.getbuffer())


def run_torch_export(path: str | os.PathLike[str]) -> Callable[[Tensor], Tensor]:
    """The program at ``path`` as a function of images."""
    with quiet():
        program: Callable[[Tensor], Tensor] = torch.export.load(path).module()
    return program


def run_torchscript(path: str | os.PathLike[str]) -> Callable[[Tensor], Tensor]:
    """The program at ``path`` as a function of images."""
    with quiet():
        program: Callable[[Tensor], Tensor] = torch.jit.load(os.fspath(path), map_location="cpu")
    return program


def _prepared(network: nn.Module, half: bool) -> tuple[nn.Module, Tensor, str]:
    """What is translated, an image to trace it with, and the metadata as JSON."""
    shipped = deployable(network)
    metadata = describe(shipped)
    example = torch.rand(2, metadata.arguments["num_in_ch"], 24, 40)
    return HalfInside(shipped).eval() if half else shipped, example, json.dumps(to_metadata(metadata))


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]

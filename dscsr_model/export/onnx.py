"""ONNX models: one file, any batch, height and width, checked against torch with ONNX Runtime."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from dscsr_arch.errors import DscsrError
from dscsr_arch.quantized_conv import quantized_layers
from dscsr_arch.sizes import size_requirements
from dscsr_model.export.programs import prepared, translating
from dscsr_model.export.qdq import to_qdq
from dscsr_model.inference.engines import run_session
from dscsr_model.inference.onnx_file import CPU, open_session, require_onnx
from dscsr_model.inference.receptive_field import RADIUS, receptive_field

OPSETS = range(17, 21)
"""What can be written. 17, with IR 8, is what ONNX Runtime 1.15 to 1.32 opens; no network here needs more."""


def to_onnx(network: nn.Module, path: str | os.PathLike[str], *, half: bool = False, opset: int = OPSETS[0]) -> None:
    """Write ``network`` as an ONNX model that maps ``input`` (batch, C, height, width) to ``output``, in [0, 1].

    The model holds plain convolutions (see `deployable`; of a quantized network see `qdq`), its weights and the
    network's metadata in ``metadata_props``. A quantized one says there how far a pixel sees, too: a NaN, by which that
    is found, is lost where numbers become whole.
    One whose height and width must be multiples (of a window) says of what there, as ``size_multiple``.
    Input and output are float32 also with ``half``: a cast at either end costs nothing, and every program can run it.

    Args:
        network: Any that `load_model` gives; it stays as it is.
        path: The file; an existing one is replaced.
        half: Compute in float16 with float16 weights. Half the size; faster on GPUs, not on CPUs.
        opset: Version of the operators, of `OPSETS`; the version of the file (IR) is the lowest that has it.

    Raises:
        DscsrError: No such opset, packages are missing, torch cannot translate the network, or the model is faulty.
    """
    if opset not in OPSETS:
        raise DscsrError(f"--opset to be one of {', '.join(map(str, OPSETS))}", opset, "Choose one.")
    require_onnx()
    import onnx

    network, example, metadata = prepared(network, half)
    if quantized_layers(network):
        seen = receptive_field(network, example.shape[1], size_requirements(network), 0)
        metadata |= {RADIUS: str(seen.radius)} if seen.local else {}
    model = onnx.load_from_string(_translate(to_qdq(network), example, opset))
    model.ir_version = onnx.helper.find_min_ir_version_for(model.opset_import)
    _strip(model)
    onnx.helper.set_model_props(model, metadata)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # ONNX has several classes, one per stage
        raise DscsrError("a valid ONNX model", f"this from onnx's checker: {error}") from error
    Path(path).write_bytes(model.SerializeToString())


def run_onnx(path: str | os.PathLike[str]) -> Callable[[Tensor], Tensor]:
    """The model at ``path`` as a function of images, run by ONNX Runtime on the CPU."""
    session = open_session(Path(path), CPU, threads=0)

    def run(x: Tensor) -> Tensor:
        try:
            return run_session(session, False, x)
        except RuntimeError as error:
            what = f"a model that takes an image {tuple(x.shape)}"
            said = f"this from {' '.join(str(error).split())[:200]}"
            raise DscsrError(what, said, "Code that does other things for other sizes cannot be translated.") from error

    return run


def _translate(network: nn.Module, example: Tensor, opset: int) -> bytes:
    """By torch's older exporter: the newer one begins at opset 18, which ONNX's converter cannot take back for RCAN."""
    if "dynamo" not in inspect.signature(torch.onnx.export).parameters:
        raise DscsrError("torch 2.5 or newer for ONNX", torch.__version__, "Update it.")
    model = BytesIO()
    silent = mock.patch.object(torch._C, "_jit_onnx_log", create=True)
    with translating("torch's exporter to ONNX"), silent:  # or else C++ prints the graph of what fails; no switch works
        torch.onnx.export(
            network,
            (example,),
            model,  # type: ignore[arg-type]  # a file is as good as a path
            input_names=["input"],
            output_names=["output"],
            dynamic_axes={
                "input": {0: "batch", 2: "height", 3: "width"},
                "output": {0: "batch", 2: "height_out", 3: "width_out"},
            },
            opset_version=opset,
            dynamo=False,
        )
    return model.getvalue()


def _strip(model: Any) -> None:
    """Take out what torch notes for its developers: names of source files on this machine, for every node."""
    graph = model.graph
    del graph.metadata_props[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""

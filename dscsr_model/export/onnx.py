"""ONNX models: one file, any batch, height and width, checked against torch with ONNX Runtime."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dscsr_arch.deployable import deployable
from dscsr_arch.errors import DscsrError
from dscsr_arch.metadata import describe, to_metadata
from dscsr_arch.sizes import SizeRequirements, size_requirements
from dscsr_model.export.compare import difference
from dscsr_model.export.half import HalfInside

PACKAGES = ("onnx", "onnxruntime")
OPSETS = range(17, 21)
"""What can be written. 17, with IR 8, is what ONNX Runtime 1.15 to 1.32 opens; no network here needs more."""


def to_onnx(network: nn.Module, path: str | os.PathLike[str], *, half: bool = False, opset: int = OPSETS[0]) -> None:
    """Write ``network`` as an ONNX model that maps ``input`` (batch, C, height, width) to ``output``, in [0, 1].

    The model holds plain convolutions (see `deployable`), its weights and the network's metadata in ``metadata_props``.
    One whose height and width must be multiples (of a window) says of what there, as ``size_multiple``.
    Input and output are float32 also with ``half``: a cast at either end costs nothing, and every program can run it.

    Args:
        network: A network that `load_model` knows; it stays as it is.
        path: The file; an existing one is replaced.
        half: Compute in float16 with float16 weights. Half the size; faster on GPUs, not on CPUs.
        opset: Version of the operators, of `OPSETS`; the version of the file (IR) is the lowest that has it.

    Raises:
        DscsrError: No such opset, packages are missing, torch cannot translate the network, or the model is faulty.
    """
    if opset not in OPSETS:
        raise DscsrError(f"Expected --opset to be one of {', '.join(map(str, OPSETS))}, but got {opset}. Choose one.")
    require(*PACKAGES)
    import onnx

    shipped = deployable(network)
    metadata, sizes = describe(shipped), size_requirements(shipped)
    with quiet():
        text = _translate(HalfInside(shipped) if half else shipped, metadata.arguments["num_in_ch"], sizes, opset)
    model = onnx.load_from_string(text)
    model.ir_version = onnx.helper.find_min_ir_version_for(model.opset_import)
    _strip(model)
    onnx.helper.set_model_props(model, to_metadata(metadata) | {"size_multiple": str(sizes.multiple_of)})
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # ONNX has several classes, one per stage
        raise DscsrError(f"Expected a valid ONNX model, but onnx's checker says: {error}") from error
    Path(path).write_bytes(model.SerializeToString())


def compare(network: nn.Module, path: str | os.PathLike[str]) -> float:
    """Run the model at ``path`` in ONNX Runtime on the CPU, on several sizes, and compare it with ``network``.

    Returns:
        The largest difference, as `difference` measures it.

    Raises:
        DscsrError: The difference is beyond the tolerance of the model's precision, or the model does not run.
    """
    require("onnxruntime", "onnx")
    import onnx

    half = any(weight.data_type == onnx.TensorProto.FLOAT16 for weight in onnx.load(path).graph.initializer)
    channels = describe(network).arguments["num_in_ch"]
    return difference(deployable(network), runner(path), channels, half=half, what="the ONNX model")


def runner(path: str | os.PathLike[str]) -> Callable[[Tensor], Tensor]:
    """The model at ``path`` as a function of images, run by ONNX Runtime on the CPU."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base
        raise DscsrError(f"Expected ONNX Runtime to load the model, but it says: {error}") from error

    def run(x: Tensor) -> Tensor:
        try:
            return torch.from_numpy(session.run(None, {"input": x.numpy()})[0])
        except Exception as error:
            raise DscsrError(
                f"Expected ONNX Runtime to run the model on an image {tuple(x.shape)}, but it says: {error}"
            ) from error

    return run


def require(*packages: str) -> None:
    """Raise DscsrError, with the remedy, unless all of ``packages`` can be imported."""
    try:
        for package in packages:
            importlib.import_module(package)
    except ImportError as error:
        raise DscsrError(
            f"Expected the packages {', '.join(packages)} for ONNX, but one cannot be imported ({error}). "
            "Install them: pip install 'dscsr[onnx]'."
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what the exporters of torch print, log and warn of from the user, who can do nothing about it."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _translate(network: nn.Module, channels: int, sizes: SizeRequirements, opset: int) -> bytes:
    """By torch's older exporter: the newer one begins at opset 18, which ONNX's converter cannot take back for RCAN."""
    if "dynamo" not in inspect.signature(torch.onnx.export).parameters:
        raise DscsrError(f"Expected torch 2.5 or newer for ONNX, but got {torch.__version__}. Update it.")
    model, height = BytesIO(), sizes.fit(24)
    try:
        torch.onnx.export(
            network,
            (torch.rand(2, channels, height, sizes.fit(height + 16)),),
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
    except Exception as error:  # anything in torch's exporter, which has many classes of its own
        first = str(error).strip().partition("\n")[0]
        raise DscsrError(f"Expected torch to translate the network to ONNX, but it says: {first}") from error
    return model.getvalue()


def _strip(model: Any) -> None:
    """Take out what torch notes for its developers: names of source files on this machine, for every node."""
    graph = model.graph
    del graph.metadata_props[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""

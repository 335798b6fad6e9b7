"""Programs of torch itself: ``torch.export`` and TorchScript, which run without the Python code of the network."""

from __future__ import annotations

import copy
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from torch import Tensor, nn

from dscsr_arch.deployable import deployable
from dscsr_arch.errors import DscsrError
from dscsr_arch.metadata import describe, to_metadata
from dscsr_arch.sizes import size_requirements
from dscsr_model.export.compare import input_channels

METADATA_FILE = "dscsr.json"
"""Name of the metadata among a program's extra files."""


class HalfInside(nn.Module):
    """``network`` computing in float16 between a float32 image and a float32 result.

    Programs that feed a model without asking what it takes feed float32; so one file serves all of them.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).half()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) as the network does."""
        out: Tensor = self.network(x.to(torch.float16))
        return out.to(torch.float32)


def prepared(network: nn.Module, half: bool) -> tuple[nn.Module, Tensor, dict[str, str]]:
    """What becomes a program of ``network``, which stays as it is.

    Returns:
        Plain convolutions from float32 to float32, with ``half`` in float16 inside; an image to trace them with; and
        the network's metadata, with the multiple that the sides of images must be of.
    """
    shipped = deployable(network)
    sizes = size_requirements(shipped)
    height = sizes.fit(24)
    example = torch.rand(2, input_channels(shipped), height, sizes.fit(height + 16))
    metadata = to_metadata(describe(shipped)) | {"size_multiple": str(sizes.multiple_of)}
    return HalfInside(shipped).eval() if half else shipped, example, metadata


@contextmanager
def translating(what: str) -> Iterator[None]:
    """Keep what torch's exporters print, log and warn of from the user, and tell in one message what they raise.

    Raises:
        DscsrError: For anything that the block raises: the exporters have many classes of their own.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        first = str(error).strip().partition("\n")[0].partition("  [Caused by the value")[0]
        raise DscsrError(f"{what} to translate the network", f"this from it: {first}") from error
    finally:
        logging.disable(before)


def to_torch_export(network: nn.Module, path: str | os.PathLike[str], *, half: bool = False) -> None:
    """Write ``network`` for ``torch.export.load(path).module()``, for any batch, height and width; see `to_onnx`.

    Raises:
        DscsrError: torch cannot translate the network.
    """
    network, example, metadata = prepared(network, half)
    buffer = io.BytesIO()
    axes = {axis: torch.export.Dim(name) for axis, name in {0: "batch", 2: "height", 3: "width"}.items()}
    with translating("torch.export"):
        program = torch.export.export(network, (example,), dynamic_shapes=(axes,))
        torch.export.save(program, buffer, extra_files={METADATA_FILE: json.dumps(metadata)})
    Path(path).write_bytes(buffer.getbuffer())


def to_torchscript(network: nn.Module, path: str | os.PathLike[str], *, half: bool = False) -> None:
    """Write ``network``, traced and frozen, for ``torch.jit.load(path)``, for any batch, height and width.

    Raises:
        DscsrError: torch cannot translate the network.
    """
    network, example, metadata = prepared(network, half)
    buffer = io.BytesIO()  # on a full disk torch's own writer ends the process
    with translating("TorchScript"), torch.no_grad():
        program = torch.jit.freeze(torch.jit.trace(network, example, check_trace=False))
        torch.jit.save(program, buffer, _extra_files={METADATA_FILE: json.dumps(metadata)})
    Path(path).write_bytes(buffer.getbuffer())


def run_torch_export(path: str | os.PathLike[str]) -> Callable[[Tensor], Tensor]:
    """The program at ``path`` as a function of images."""
    with translating("torch.export"):
        program: Callable[[Tensor], Tensor] = torch.export.load(path).module()
    return program


def run_torchscript(path: str | os.PathLike[str]) -> Callable[[Tensor], Tensor]:
    """The program at ``path`` as a function of images."""
    with translating("TorchScript"):
        program: Callable[[Tensor], Tensor] = torch.jit.load(os.fspath(path), map_location="cpu")
    return program

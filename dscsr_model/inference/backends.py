"""What can run a network: PyTorch and other programs, in one table. Nothing heavy is imported before one is used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from dscsr_arch.errors import DscsrError

if TYPE_CHECKING:
    from torch import nn

    from dscsr_model.inference.engines import Engine


class Open(Protocol):
    """Makes the engine of a file."""

    def __call__(self, path: Path, *, device: str, precision: str) -> Engine:
        """Raise DscsrError if it cannot, or not on this device or in this precision."""


class Backend(NamedTuple):
    """One program. A new one is one more of these."""

    name: str
    label: str
    """For people."""
    package: str
    form: str
    """The format of ``dscsr export`` that it opens."""
    suffixes: tuple[str, ...]
    """Of the files that it opens, the usual one first."""
    precisions: tuple[str, ...]
    open: Open
    require: Callable[[], None]
    """Raises `UnavailableError`, with the remedy, if it is not installed."""


Write = Callable[[str, "nn.Module", Path, bool], None]
"""Write a network as a file of a format: (format, network, path, half)."""


def _open_onnx(path: Path, *, device: str, precision: str) -> Engine:
    from dscsr_model.inference.engines import onnx_engine

    return onnx_engine(path, device=device)  # the file decides on the precision


def _require_onnx() -> None:
    from dscsr_model.inference.onnx_file import require_onnx

    require_onnx()


def _open_openvino(path: Path, *, device: str, precision: str) -> Engine:
    from dscsr_model.inference.openvino_engine import openvino_engine

    return openvino_engine(path, device=device, precision=precision)


def _require_openvino() -> None:
    from dscsr_model.inference.openvino_engine import require_openvino

    require_openvino()


def _open_ncnn(path: Path, *, device: str, precision: str) -> Engine:
    from dscsr_model.inference.ncnn_engine import ncnn_engine

    return ncnn_engine(path, device=device, precision=precision)


def _require_ncnn() -> None:
    from dscsr_model.inference.ncnn_engine import require_ncnn

    require_ncnn()


TORCH = "torch"
BACKENDS = {
    each.name: each
    for each in (
        Backend("onnx", "ONNX Runtime", "onnxruntime", "onnx", (".onnx",), ("fp32", "fp16"), _open_onnx, _require_onnx),
        Backend(
            "openvino", "OpenVINO", "openvino", "onnx", (".onnx",), ("fp32", "bf16"), _open_openvino, _require_openvino
        ),
        Backend("ncnn", "ncnn", "ncnn", "ncnn", (".param",), ("fp32",), _open_ncnn, _require_ncnn),
    )
}
"""By name, all but PyTorch. Of two that open the same files, the first does where none is named."""
NAMES = (TORCH, *BACKENDS)


def openers(path: Path) -> tuple[str, ...]:
    """The names of those that open a file of this name; it may be one of weights, for PyTorch."""
    return tuple(name for name, each in BACKENDS.items() if path.suffix.lower() in each.suffixes) or NAMES


def open_network(
    backend: Backend, network: nn.Module, folder: Path, write: Write, *, device: str = "auto", precision: str = "fp32"
) -> Engine:
    """The engine of a network by any of `BACKENDS`, through a file in ``folder``.

    Args:
        backend: What is to run it.
        network: A network as `load_model` gives it; it stays as it is.
        folder: Where the file is written, unless one of the same network, format and precision is there already.
        write: What writes it.
        device: As for the engine.
        precision: One of ``backend.precisions``.

    Raises:
        DscsrError: The backend is not installed, or cannot do it.
    """
    backend.require()
    if precision not in backend.precisions:
        expected = f"a precision among {', '.join(backend.precisions)} for {backend.label}"
        raise DscsrError(expected, repr(precision), "Choose one, or --backend torch.")
    half = precision == "fp16"
    place = folder / (f"{backend.form}_half" if half else backend.form)
    path = place / f"network{backend.suffixes[0]}"
    if not path.exists():
        place.mkdir(exist_ok=True)
        write(backend.form, network, path, half)
    return backend.open(path, device=device, precision=precision)

"""The formats that ``dscsr export`` writes: their names, how each is written, and how it is read to be checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from dscsr_arch.errors import DscsrError, UnavailableError

Run = Callable[[Tensor], Tensor]


class Check(NamedTuple):
    """A reading of the file, as its users will read it."""

    by: str
    run: Run | None
    why_not: str = ""
    """Why it cannot be asked here, if it is not."""


class Format(NamedTuple):
    """One format."""

    name: str
    suffixes: tuple[str, ...]
    """Of its files, the usual one first."""
    label: str
    """What the name of a file says when it is made from its source's."""
    write: Callable[[nn.Module, Path, bool], None]
    """Write (network, path, half)."""
    checks: Callable[[Path, str], Sequence[Check]]
    """How to read the file at a path, of the network of a name."""
    says: str
    """What the format is, for people."""


def choose(
    out: str | os.PathLike[str], wanted: str | None, source: str | os.PathLike[str], half: bool
) -> tuple[Path, Format]:
    """Find format and path of the output.

    Args:
        out: A file, or a folder (one that exists, or a name that ends in a slash), in which the file is named after
            the source: ``net_g_latest.pth`` becomes ``net_g_latest.onnx``, ``net_g_latest_fused.pth``, …
        wanted: Name of a format; None takes that of the suffix of ``out``.
        source: The weight file.
        half: float16, which the name made from the source's tells.

    Raises:
        DscsrError: The format is unknown, or the suffix is none of its.
    """
    path = Path(out)
    if wanted is not None and wanted not in FORMATS:
        raise DscsrError(f"Expected a format among {', '.join(FORMATS)}, but got {wanted!r}. Choose one.")
    if path.is_dir() or os.fspath(out).endswith(("/", os.sep)):
        if wanted is None:
            raise DscsrError(
                f"Expected a file or a format, but got the folder {path} alone. Add --format {'|'.join(FORMATS)}."
            )
        form = FORMATS[wanted]
        stem = Path(source).stem
        ends = [end for end in (form.label, "_fp16" if half else "") if end and not stem.endswith(end)]
        return path / f"{stem}{''.join(ends)}{form.suffixes[0]}", form
    suffix = path.suffix.lower()
    if wanted is None:
        form = next((form for form in FORMATS.values() if suffix in form.suffixes), None)  # type: ignore[assignment]
        if form is None:
            known = ", ".join(dict.fromkeys(suffix for form in FORMATS.values() for suffix in form.suffixes))
            raise DscsrError(
                f"Expected the output to end in one of {known}, or --format, but got {path.name!r}. Name it so."
            )
        return path, form
    if suffix not in FORMATS[wanted].suffixes:
        raise DscsrError(
            f"Expected a file of the format {wanted} to end in {' or '.join(FORMATS[wanted].suffixes)}, but got "
            f"{path.name!r}. Change one of the two."
        )
    return path, FORMATS[wanted]


def with_opset(form: Format, opset: int) -> Format:
    """``form`` of ONNX, with operators of this version; see `onnx.to_onnx`.

    Raises:
        DscsrError: ``form`` is another.
    """
    if form.name != "onnx":
        raise DscsrError(f"Expected the format onnx for --opset, but got {form.name}. Leave --opset out.")

    def write(network: nn.Module, path: Path, half: bool) -> None:
        from dscsr_model.export.onnx import to_onnx

        to_onnx(network, path, half=half, opset=opset)

    return form._replace(write=write)


def _write_weights(network: nn.Module, path: Path, half: bool) -> None:
    from dscsr_arch.deployable import deployable
    from dscsr_model.export.weights import to_weights

    to_weights(deployable(network), path, half=half)


def _write_spandrel(network: nn.Module, path: Path, half: bool) -> None:
    from dscsr_model.export.spandrel_form import to_spandrel_form
    from dscsr_model.export.weights import to_weights

    to_weights(to_spandrel_form(network), path, half=half)


def _write_onnx(network: nn.Module, path: Path, half: bool) -> None:
    from dscsr_model.export.onnx import to_onnx

    to_onnx(network, path, half=half)


def _write_torch_export(network: nn.Module, path: Path, half: bool) -> None:
    from dscsr_model.export.programs import to_torch_export

    to_torch_export(network, path, half=half)


def _write_torchscript(network: nn.Module, path: Path, half: bool) -> None:
    from dscsr_model.export.programs import to_torchscript

    to_torchscript(network, path, half=half)


def _load_weights(path: Path, _: str) -> list[Check]:
    from dscsr_arch import load_model

    return [Check("dscsr's load_model", load_model(path))]


def _load_spandrel(path: Path, name: str) -> list[Check]:
    from dscsr_model.export.spandrel_form import run_spandrel

    try:
        check = Check("spandrel", run_spandrel(path, name))
    except UnavailableError as error:
        check = Check("spandrel", None, str(error))
    return [*_load_weights(path, name), check]


def _load_onnx(path: Path, _: str) -> list[Check]:
    from dscsr_model.export.onnx import runner

    return [Check("ONNX Runtime", runner(path))]


def _load_torch_export(path: Path, _: str) -> list[Check]:
    from dscsr_model.export.programs import run_torch_export

    return [Check("torch.export.load", run_torch_export(path))]


def _load_torchscript(path: Path, _: str) -> list[Check]:
    from dscsr_model.export.programs import run_torchscript

    return [Check("torch.jit.load", run_torchscript(path))]


FORMATS = {
    form.name: form
    for form in (
        Format("pth", (".pth",), "_fused", _write_weights, _load_weights, "fused weights of torch.save"),
        Format("safetensors", (".safetensors",), "_fused", _write_weights, _load_weights, "fused weights, safetensors"),
        Format(
            "spandrel",
            (".pth", ".safetensors"),
            "_spandrel",
            _write_spandrel,
            _load_spandrel,
            "weights under the names that spandrel and chaiNNer read",
        ),
        Format("onnx", (".onnx",), "", _write_onnx, _load_onnx, "ONNX, any batch, height and width"),
        Format(
            "torch-export",
            (".pt2",),
            "",
            _write_torch_export,
            _load_torch_export,
            "torch.export, any batch, height and width",
        ),
        Format(
            "torchscript",
            (".pt",),
            "",
            _write_torchscript,
            _load_torchscript,
            "TorchScript, any batch, height and width",
        ),
    )
}
"""By name. Of two with one suffix, the first is what the suffix alone means."""

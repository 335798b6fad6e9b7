"""The formats that ``dscsr export`` writes: their names, how each is written, and how it is read to be checked."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dscsr_arch import load_model
from dscsr_arch.architecture import recognise
from dscsr_arch.checkpoint import read_state_dict, save_state_dict
from dscsr_arch.deployable import deployable
from dscsr_arch.errors import DscsrError
from dscsr_arch.metadata import describe, to_metadata
from dscsr_arch.weight_files import METADATA
from dscsr_model.export.ncnn import run_ncnn, to_ncnn
from dscsr_model.export.onnx import run_onnx, to_onnx
from dscsr_model.export.programs import run_torch_export, run_torchscript, to_torch_export, to_torchscript
from dscsr_model.export.spandrel_support import run_spandrel, to_spandrel_form

Run = Callable[[Tensor], Tensor]


class Format(NamedTuple):
    """One format. A new one is one more of these."""

    name: str
    suffixes: tuple[str, ...]
    """Of its files, the usual one first."""
    label: str
    """What the name of a file says when it is made from its source's."""
    write: Callable[..., None]
    """Write (network, path, half=…)."""
    readers: Mapping[str, Callable[[Path, nn.Module], Run]]
    """By name: what reads the file of a network, in float32, as its users do. One that is not here raises
    `UnavailableError`."""
    says: str
    """What the format is, for people."""
    beside: tuple[str, ...] = ()
    """Suffixes of further files, which ``write`` makes beside the first."""

    def files(self, path: Path) -> list[Path]:
        """All files of a network at ``path``."""
        return [path, *map(path.with_suffix, self.beside)]


def to_weights(
    network: nn.Module, path: str | os.PathLike[str], *, half: bool = False, form: Callable[[nn.Module], nn.Module]
) -> None:
    """Write the weights of a network, with its metadata.

    Args:
        network: Any that `load_model` gives; it stays as it is.
        path: ``*.safetensors``, or any other name for a file of torch.save, ``{params: …, metadata: …}``, which
            BasicSR, spandrel and `load_model` read. An existing file is replaced.
        half: Round the weights to float16. Readers compute in the precision that they choose.
        form: Gives a copy in the form that is written.
    """
    path, network = Path(path), form(network)
    metadata, dtype = to_metadata(describe(network)), torch.float16 if half else torch.float32
    weights = {name: tensor.to(dtype).contiguous() for name, tensor in network.state_dict().items()}
    if path.suffix.lower() == ".safetensors":
        from safetensors.torch import save

        path.write_bytes(save(weights, metadata))  # its save_file would let nobody else read the file
    else:
        save_state_dict({"params": weights, METADATA: metadata}, path)


def _load(path: Path, network: nn.Module) -> Run:
    weights = read_state_dict(path)
    if recognise(weights) is not None:
        return load_model(path)
    read = copy.deepcopy(network)  # by whatever else knows it: the option file of its training, spandrel
    read.load_state_dict(weights)
    return read


def _by(name: str, run: Callable[[Any], Run]) -> dict[str, Callable[[Path, nn.Module], Run]]:
    return {name: lambda path, _: run(path)}


_FUSED, _FOR_SPANDREL = partial(to_weights, form=deployable), partial(to_weights, form=to_spandrel_form)
_DSCSR, _SPANDREL = {"dscsr's load_model": _load}, _by("spandrel", run_spandrel)
_RUNTIME, _SCRIPT = _by("ONNX Runtime", run_onnx), _by("torch.jit.load", run_torchscript)
_EXPORT, _NCNN = _by("torch.export.load", run_torch_export), _by("ncnn, computing in float32", run_ncnn)
_SIZES = "any batch, height and width"
_NAMES = "weights under the names that spandrel and chaiNNer read"

FORMATS = {
    form.name: form
    for form in (
        Format("pth", (".pth",), "_fused", _FUSED, _DSCSR, "fused weights of torch.save"),
        Format("safetensors", (".safetensors",), "_fused", _FUSED, _DSCSR, "fused weights, safetensors"),
        Format("spandrel", (".pth", ".safetensors"), "_spandrel", _FOR_SPANDREL, {**_DSCSR, **_SPANDREL}, _NAMES),
        Format("onnx", (".onnx",), "", to_onnx, _RUNTIME, f"ONNX, {_SIZES}"),
        Format("torch-export", (".pt2",), "", to_torch_export, _EXPORT, f"torch.export, {_SIZES}"),
        Format("torchscript", (".pt",), "", to_torchscript, _SCRIPT, f"TorchScript, {_SIZES}"),
        Format("ncnn", (".param",), "", to_ncnn, _NCNN, "with its .bin: ncnn, any height and width", (".bin",)),
    )
}
"""By name. Of two with one suffix, the first is what the suffix alone means."""


def choose(
    out: str | os.PathLike[str],
    wanted: str | None,
    source: str | os.PathLike[str],
    half: bool,
    opset: int | None = None,
) -> tuple[Path, Format]:
    """Find format and path of the output.

    Args:
        out: A file, or a folder (one that exists, or a name that ends in a slash), in which the file is named after
            the source: ``net_g_latest.pth`` becomes ``net_g_latest.onnx``, ``net_g_latest_fused.pth``, …
        wanted: Name of a format; None takes that of the suffix of ``out``.
        source: The weight file.
        half: float16, which the name made from the source's tells.
        opset: Of ONNX, see `onnx.to_onnx`.

    Raises:
        DscsrError: The format is unknown, or the suffix is none of its.
    """
    path = Path(out)
    suffix = path.suffix.lower()
    is_folder = path.is_dir() or os.fspath(out).endswith(("/", os.sep))
    if wanted is None and is_folder:
        raise DscsrError("a file or a format", f"the folder {path} alone", f"Add --format {'|'.join(FORMATS)}.")
    name = wanted or next((form.name for form in FORMATS.values() if suffix in form.suffixes), None)
    if name is None:
        known = ", ".join(dict.fromkeys(suffix for form in FORMATS.values() for suffix in form.suffixes))
        raise DscsrError(f"the output to end in one of {known}, or --format", repr(path.name), "Name it so.")
    if name not in FORMATS:
        raise DscsrError(f"a format among {', '.join(FORMATS)}", repr(name), "Choose one.")
    form = FORMATS[name]
    if opset is not None:
        if form.name != "onnx":
            raise DscsrError("the format onnx for --opset", form.name, "Leave --opset out.")
        form = form._replace(write=partial(to_onnx, opset=opset))
    if is_folder:
        stem = Path(source).stem
        ends = [end for end in (form.label, "_fp16" if half else "") if end and not stem.endswith(end)]
        return path / f"{stem}{''.join(ends)}{form.suffixes[0]}", form
    if suffix not in form.suffixes:
        raise DscsrError(
            f"a file of the format {name} to end in {' or '.join(form.suffixes)}",
            repr(path.name),
            "Change one of the two.",
        )
    return path, form

"""Ways of running one network, by the names that the command line has for them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from dscsr_arch.errors import DscsrError
from dscsr_model.inference.engines import Engine, onnx_engine, torch_engine

ToOnnx = Callable[[nn.Module, Path], None]

_TORCH: Mapping[str, Mapping[str, Any]] = {
    "eager": {"channels_last": False},
    "channels_last": {},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "compiled": {"compile": True},
    "compiled_bf16": {"compile": True, "precision": "bf16"},
    "compiled_fp16": {"compile": True, "precision": "fp16"},
}
VARIANTS = (*_TORCH, "onnx")
"""``eager`` is PyTorch as it comes: float32, NCHW. All others but ``onnx`` keep channels last."""


def check_variants(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once, in their order; ``all`` stands for all of them.

    Raises:
        DscsrError: There is none of that name, or no name at all.
    """
    wanted = tuple(dict.fromkeys(VARIANTS if "all" in names else names))
    if not wanted or (unknown := [name for name in wanted if name not in VARIANTS]):
        got = ", ".join(unknown) if wanted else "none"
        raise DscsrError(f"variants among {', '.join(VARIANTS)}, all", got, "Choose some of these.")
    return wanted


def build(network: nn.Module, variant: str, device: str, to_onnx: ToOnnx | None = None) -> Engine:
    """The network, fused, made ready to run in one of `VARIANTS`.

    Args:
        network: Stays as it is.
        variant: Its name.
        device: As `torch_engine` takes it.
        to_onnx: Writes a network as an ONNX file; needed for ``onnx`` only.

    Raises:
        DscsrError: It cannot be had here; the message says why.
    """
    if variant != "onnx":
        return torch_engine(network, device=device, **_TORCH[variant])
    if to_onnx is None:
        raise DscsrError("`to_onnx` to write the ONNX file of this network with", "None", "Give one.")
    with tempfile.TemporaryDirectory(prefix="dscsr_profile_") as folder:
        path = Path(folder, "network.onnx")
        to_onnx(network, path)
        return onnx_engine(path, device=device)  # reads all of the file

"""Networks that option files describe, with random weights. Imports PyTorch: for use inside commands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from dscsr_arch import CSSRNet
from dscsr_arch.cssr_arch import find_backbone
from dscsr_arch.errors import DscsrError
from dscsr_model.cli.weights import read_overrides
from dscsr_model.data.memory import free_memory
from dscsr_model.host import user_code


def networks_of_options(file: Path, overrides: list[str], width: float | None = None) -> dict[str, nn.Module]:
    """The networks that ``network_g`` of an option file describes, by what their width adds to a name.

    Args:
        file: The option file.
        overrides: Arguments in place of those in the file, as `weights.read_overrides` takes them.
        width: One student instead of a CSSR-Net at all its widths, or in place of any other network.

    Raises:
        DscsrError: The file cannot be read, has no such section, what it says to import cannot be imported, or the
            network cannot be built.
    """
    section = {**read_network_section(file), **read_overrides(overrides)}
    user_code.import_user_code(user_code.names(_content(file).get("import")), file)
    section.pop("lora", None)  # adapters that training injects: what is measured is fused
    kind = section.pop("type").removesuffix("_dscsr")
    try:
        if width is not None and kind != "CSSRNet":
            section = {"backbone": {"type": kind, **section}}
        if width is not None:
            return {f" at {width:g}": CSSRNet(**{**section, "widths": (width,)}).student(width).eval()}
        network_class = CSSRNet if kind == "CSSRNet" else find_backbone(kind)
        if network_class is not CSSRNet:
            _check_memory(network_class, section)
        network = network_class(**section).eval()
        if isinstance(network, CSSRNet):
            return {f" at {width:g}": network.student(width).eval() for width in (1.0, *network.widths)}
        return {"": network}
    except (TypeError, ValueError, ArithmeticError, AssertionError) as error:
        raise DscsrError(f"Expected network_g of {file} to describe a network, but: {error}") from error
    except (MemoryError, RuntimeError) as error:  # torch's, of memory and of sizes beyond what it can count
        reason = " ".join(str(error).split())[:200]
        raise DscsrError(f"Expected network_g of {file} to fit into memory, but: {reason}. Make it smaller.") from error


def _check_memory(network_class: type[nn.Module], arguments: Mapping[str, Any]) -> None:
    """Raise `MemoryError` before a mistyped width takes all there is: shapes alone cost nothing."""
    try:
        with torch.device("meta"):
            weights = [*network_class(**arguments).parameters()]
    except RuntimeError as error:
        if "meta tensors" in str(error):
            return  # a constructor that reads values, such as SwinIR's: it must be built to see
        raise
    needs, free = sum(weight.numel() * weight.element_size() for weight in weights), free_memory(torch.device("cpu"))
    if needs > free:
        raise MemoryError(f"its weights take {needs / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free")


def read_network_section(file: Path) -> dict[str, Any]:
    """``network_g`` of an option file.

    Raises:
        DscsrError: The file cannot be read or has no such section with a type.
    """
    content = _content(file)
    section = content.get("network_g") if isinstance(content, dict) else None
    if not (isinstance(section, dict) and isinstance(section.get("type"), str)):
        raise DscsrError(
            f"Expected a section `network_g` with a `type` in {file}, but got "
            f"{'one without' if isinstance(section, dict) else 'none'}. Give a training or test option file."
        )
    return {str(name): value for name, value in section.items()}


def _content(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DscsrError(
            f"Expected an option file (YAML) at {file}, but it cannot be read: {' '.join(str(error).split())[:200]}. "
            "Check the path; weight files are given without -opt."
        ) from error

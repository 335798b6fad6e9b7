"""Adapters for PEFT: written in its layout, read back by PEFT itself and by us, compared, and only then there."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from torch import nn

from dscsr_arch.conv_lora import load_lora_state_dict, lora_layers
from dscsr_arch.deployable import fused
from dscsr_arch.errors import DscsrError, UnavailableError
from dscsr_arch.foreign import import_extra
from dscsr_arch.lora_base import to_metadata
from dscsr_arch.peft_layout import CONFIG, MODEL, to_peft
from dscsr_arch.weight_files import read_state_dict
from dscsr_model.export.compare import Difference, difference
from dscsr_model.files import atomic_folder, disk_errors


def write_adapters(
    network: nn.Module, out: Path, *, force: bool = False
) -> tuple[dict[str, Difference], dict[str, str]]:
    """Write the LoRA of a network into a folder as PEFT has it.

    Args:
        network: As `load_model` gives it; it stays as it is.
        out: The folder; made if it is missing.
        force: Replace files of these names in it.

    Returns:
        By what read them on the base: the largest difference of its images from those of ``network``; and what was not
        asked: why not.

    Raises:
        DscsrError: The network has no LoRA, or some that PEFT cannot have; files are there already, or cannot be
            written; or what was written is not what it should be. Nothing of it is kept.
    """
    from safetensors.torch import save

    if not lora_layers(network):
        remedy = "Name adapters with --base, or a checkpoint of a training with `lora:`."
        raise DscsrError("a network with LoRA for PEFT", "one without", remedy)
    tensors, config = to_peft(lora_layers(network))
    base = copy.deepcopy(network)
    for layer in lora_layers(base).values():
        layer.unmerge().reset()
    base = fused(base)
    differences: dict[str, Difference] = {}
    not_asked: dict[str, str] = {}
    with disk_errors(out), atomic_folder(out, [MODEL, CONFIG], replace=force) as folder:
        (folder / MODEL).write_bytes(save(tensors, {"format": "pt", **to_metadata(network)}))
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for by, read in {"dscsr": _by_us, "PEFT": _by_peft}.items():
            try:
                differences[by] = difference(network, read(copy.deepcopy(base), folder), by=by)
            except UnavailableError as error:  # noqa: PERF203 - of two readers
                not_asked[by] = str(error)
    return differences, not_asked


def _by_us(base: nn.Module, folder: Path) -> Any:
    return load_lora_state_dict(base, read_state_dict(folder / MODEL)).eval()


def _by_peft(base: nn.Module, folder: Path) -> Any:
    return import_extra("peft").PeftModel.from_pretrained(base, str(folder)).eval()

"""Adapters in the layout of PEFT (https://github.com/huggingface/peft): a folder of tensors and settings.

Entries are ``base_model.model.<layer>.lora_A.weight`` and so on. A linear layer's factors are ours. Of a convolution,
``lora_A`` is (r, in, kh, kw), ``lora_B`` (out, r, 1, 1), and the update their product over r; ours are other matrices
(`low_rank`). Either says exactly what the other does: theirs is ours of the same rank, with ``lora_B ⊗ 1``; ours is
theirs of up to kh·kw times the rank, with ``lora_A`` as kh diagonal blocks. DoRA's magnitudes are the same.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dscsr_arch.errors import LoRAError, WeightsError
from dscsr_arch.lora_layer import LoRALayer
from dscsr_arch.low_rank import Adapter, at_most_full, is_number, named_entries

MODEL, CONFIG = "adapter_model.safetensors", "adapter_config.json"
"""Names of the files; the tensors come with the settings beside them."""

_PREFIX = "base_model.model."
_NAME = re.compile(rf"{re.escape(_PREFIX)}(.+)\.(lora_A|lora_B|lora_magnitude)(?:\.weight|_vector|_vector\.weight)")
_VARIANTS = (
    *("fan_in_fan_out", "lora_bias", "layer_replication", "target_parameters", "alora_invocation_tokens"),
    *("arrow_config", "kasa_config", "monteclora_config", "velora_config"),
)
"""Settings that make something else of the tensors; those that begin with ``use_`` do, too, but for two."""
_INITS = (None, True, False, "gaussian", "orthogonal", "eva")
"""Ways to begin that leave the base as it is."""
_LARGEST_KERNEL, _MOST_BYTES = 31, 2**20


def to_peft(layers: Mapping[str, LoRALayer]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and settings of the layers of a network, as `lora_layers` gives them.

    Raises:
        LoRAError: PEFT has no LoRA for a layer: groups, dilation, borders other than zeros; or there is DoRA in some.
    """
    tensors: dict[str, Tensor] = {}
    settings = {}
    for name, layer in layers.items():
        if isinstance(layer, nn.Conv2d) and (layer.groups, layer.dilation, layer.padding_mode) != (1, (1, 1), "zeros"):
            got = f"{name!r} with groups {layer.groups}, dilation {layer.dilation}, padding_mode {layer.padding_mode!r}"
            raise LoRAError("layers that PEFT has LoRA for: groups 1, dilation 1, borders of zeros", got)
        out, *inner = layer.weight.shape
        ones = [1] * (len(inner) - 1)
        height = inner[1] if ones else 1
        a = torch.block_diag(*[layer.lora_A.detach().cpu().double()] * height)
        a, b = at_most_full(a, layer.lora_B.detach().cpu().double().reshape(out, -1))
        alpha = layer.alpha / layer.rank * a.shape[0]
        settings[name] = (a.shape[0], int(alpha) if alpha == int(alpha) else alpha)
        own = {"lora_A.weight": a.reshape(-1, *inner), "lora_B.weight": b.reshape(out, -1, *ones)}
        if layer.lora_magnitude is not None:
            magnitude = layer.lora_magnitude.detach().cpu()
            own["lora_magnitude_vector"] = magnitude.reshape(1, -1, *ones) if ones else magnitude
        tensors |= {f"{_PREFIX}{name}.{entry}": each.to(layer.lora_A.dtype).contiguous() for entry, each in own.items()}
    dora = {layer.dora for layer in layers.values()}
    if len(dora) > 1:
        remedy = "Export the fused network."
        raise LoRAError("LoRA or DoRA in all layers, as PEFT has it", "DoRA in some of them", remedy)
    return tensors, _settings(settings, dora.pop())


def _settings(settings: Mapping[str, tuple[int, float]], dora: bool) -> dict[str, Any]:
    rank, alpha = next(iter(settings.values()))
    # Patterns, since PEFT takes plain names for ends of names; it looks for ranks and alphas behind any start but `^`.
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": "|".join(map(re.escape, settings)),
        "rank_pattern": {f"^{re.escape(name)}": r for name, (r, _) in settings.items() if r != rank},
        "alpha_pattern": {f"^{re.escape(name)}": a for name, (_, a) in settings.items() if a != alpha},
        "use_dora": dora,
        "use_rslora": False,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
    }


def is_peft(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are PEFT's."""
    return all(name.startswith(_PREFIX) for name in state)


def from_peft(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Our adapters of the tensors in the file ``path``, beside which its settings are.

    Raises:
        WeightsError: The settings are missing or damaged, or they or the tensors are of something other than LoRA.
    """
    config = _read_config(path.with_name(CONFIG))
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if (found := _NAME.fullmatch(name)) is None:
            remedy = "Other parts that PEFT trains (bias, modules_to_save, embeddings) have no place in adapters."
            raise WeightsError("LoRA of linear layers and convolutions", f"{name[:100]!r}", remedy, path)
        layers.setdefault(found[1], {})[found[2]] = tensor
    return named_entries({name: _adapter(name, entries, config, path) for name, entries in layers.items()})


def _adapter(name: str, entries: Mapping[str, Tensor], config: Mapping[str, Any], path: Path) -> Adapter:
    a, b, magnitude = (entries.get(entry) for entry in ("lora_A", "lora_B", "lora_magnitude"))
    shapes = [None if each is None else tuple(each.shape) for each in (a, b)]
    if a is None or b is None or a.ndim not in (2, 4) or 0 in a.shape or b.shape[1:] != (len(a), *[1] * (a.ndim - 2)):
        words = f"lora_A (r, in, …) and lora_B (out, r, …) of layer {name!r}"
        raise WeightsError(words, " and ".join(map(str, shapes)), "Ask for a whole file.", path)
    if (magnitude is not None) != bool(config.get("use_dora")):
        words = f"lora_magnitude of layer {name!r} if, and only if, `use_dora` of {CONFIG} is true"
        got = "none" if magnitude is None else "one, and it is not"
        raise WeightsError(words, got, "Ask for a whole file.", path)
    rank, out, (_, inp, height, width) = a.shape[0], b.shape[0], (*a.shape, 1, 1)[:4]
    if max(height, width) > _LARGEST_KERNEL:
        raise WeightsError(f"kernels of at most {_LARGEST_KERNEL} pixels", f"{height}×{width} in {name!r}", "", path)
    alpha = _setting(name, config, "lora_alpha", "alpha_pattern", path)
    scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    ours_b = torch.kron(b.reshape(out, rank), torch.eye(height, dtype=b.dtype))
    ours_a, ours_b = at_most_full(a.reshape(rank * height, inp * width), ours_b)
    ours_rank = ours_a.shape[0] // math.gcd(height, width)
    return Adapter(
        ours_a, ours_b, torch.tensor(float(scaling * ours_rank)), None if magnitude is None else magnitude.flatten()
    )


def _setting(name: str, config: Mapping[str, Any], key: str, patterns: str, path: Path) -> float:
    """The value of a layer: of the first pattern that is its name or the end of it. Nothing is run as a pattern."""
    value = config.get(key)
    for pattern, own in (config.get(patterns) or {}).items():
        plain = str(pattern).replace("\\", "")
        if re.search(r"[*+?\[\](){}|$]", plain):
            remedy = "Write the names of layers there."
            raise WeightsError(f"names in `{patterns}` of {CONFIG}", f"{plain[:60]!r}", remedy, path)
        if name == plain.removeprefix("^") or name.endswith(f".{plain}"):
            value = own
            break
    if not is_number(value) or value <= 0:  # type: ignore[operator]
        raise WeightsError(f"a positive number as `{key}` of {CONFIG}", repr(value)[:60], "Ask for a whole file.", path)
    return float(value)  # type: ignore[arg-type]


def _read_config(path: Path) -> dict[str, Any]:
    remedy = "Copy both files of the adapter."
    if not path.is_file() or path.stat().st_size > _MOST_BYTES:
        raise WeightsError(f"the settings of the adapter, {CONFIG}, beside its tensors", "none", remedy, path.parent)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError):
        config = None
    if not isinstance(config, dict) or not isinstance(config.get("alpha_pattern") or {}, dict):
        raise WeightsError("names and values as JSON", "something else", remedy, path)
    kind, begin = config.get("peft_type"), config.get("init_lora_weights")
    used = [
        key
        for key, value in config.items()
        if value and (key in _VARIANTS or (key.startswith("use_") and key not in ("use_dora", "use_rslora")))
    ]
    if kind != "LORA" or begin not in _INITS or used:
        got = f"{str(kind)[:40]} with {', '.join(used) or f'init_lora_weights {str(begin)[:40]!r}'}"
        raise WeightsError(
            "LoRA or DoRA without variants", got, "Merge it with PEFT, and take the whole network.", path
        )
    return config

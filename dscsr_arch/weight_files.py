"""Weight files: open every dialect of them safely, say why they do not fit, and write them.

Nothing here ever runs code from a file, whatever it claims to be (see `torch_files`), or takes much more memory than
the file has bytes: tensors that claim more numbers than are there are refused.
"""

from __future__ import annotations

import copy
import io
import os
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor, nn

from dscsr_arch.architecture import by_our_names
from dscsr_arch.csd_names import from_csd
from dscsr_arch.errors import WeightsError
from dscsr_arch.peft_layout import from_peft, is_peft
from dscsr_arch.torch_files import MOST_BYTES, NUMBERS, RefusedError, read_torch_file

FilePath = str | os.PathLike[str]

WRAPPERS = ("params_ema", "params", "model_state_dict", "state_dict")
"""Keys under which files hold their weights, the preferred one first: BasicSR's, CSD's, and the common one."""

METADATA = "metadata"
"""Key under which a ``.pth`` file of dscsr holds what a ``.safetensors`` file has in its header (see `metadata`)."""

PREFERRED = "preferred"
"""Of the metadata: which of the ``WRAPPERS`` to take first, where a training has compared two."""

_SHARED = 4
"""How many times over the numbers in a file may be used: layers can share theirs."""


class WeightFile(NamedTuple):
    """What a file holds."""

    weights: dict[str, Tensor]
    metadata: Mapping[str, Any]
    """As they are in the file: anything."""


def read_state_dict(path: FilePath, param_key: str | None = None) -> dict[str, Tensor]:
    """Read the weights out of a ``.pth`` or ``.safetensors`` file, whatever they are wrapped in.

    Args:
        path: The file.
        param_key: Key of the wrapped weights, e.g. ``params``. None takes those that the file says are the better
            ones, else the first that is there of ``WRAPPERS``, or the file itself if it holds the weights unwrapped.

    Returns:
        Names (without ``module.`` of DistributedDataParallel and ``_orig_mod.`` of torch.compile, and BasicSR's or
        our own in place of those of the official CSD code and of released SPANF and SPANV2) to tensors on the CPU.

    Raises:
        WeightsError: The file is missing, damaged, holds no weights, or has no ``param_key``.
    """
    return read_weight_file(path, param_key).weights


def read_weight_file(path: FilePath, param_key: str | None = None, *, as_named: bool = False) -> WeightFile:
    """As `read_state_dict`, with the metadata beside the weights; ``as_named`` keeps the names of others' networks."""
    path = Path(path)
    content, metadata = _content(path)
    if param_key is None:
        param_key = next(iter(_weight_sets(content, metadata)), None)
    weights = content if param_key is None else _unwrap(content, param_key, path)
    if not _is_state_dict(weights):
        remedy = "Give a file of network weights, such as net_g_latest.pth (not a training state)."
        raise WeightsError(f"a state dict (names to tensors) in {path}", _describe(weights), remedy)
    # Detached, they are plain tensors: a pickle can hang anything onto a Parameter, also in place of its methods.
    weights = {
        name.removeprefix("module.").removeprefix("_orig_mod."): Tensor.detach(tensor)
        for name, tensor in weights.items()
    }
    _check_tensors(weights, path)
    if as_named:
        return WeightFile(weights, {})
    if is_peft(weights):
        weights = from_peft(weights, path)
    try:
        weights = dict(by_our_names(from_csd(weights)))
    except WeightsError as error:
        raise WeightsError(error.expected, error.got, error.remedy, where=path) from error
    return WeightFile(weights, metadata if isinstance(metadata, Mapping) else {})


def weight_sets(path: FilePath) -> list[str]:
    """The ``WRAPPERS`` under which a file has weights, the preferred first; none if they are not wrapped."""
    content, metadata = _content(Path(path))
    return _weight_sets(content, metadata)


def _weight_sets(content: Any, metadata: Any) -> list[str]:
    held = [key for key in WRAPPERS if isinstance(content, Mapping) and isinstance(content.get(key), Mapping)]
    preferred = metadata.get(PREFERRED) if isinstance(metadata, Mapping) else None
    return sorted(held, key=lambda key: not (isinstance(preferred, str) and key == preferred))


def check_finite(state_dict: Mapping[str, Tensor], path: FilePath) -> None:
    """Raise `WeightsError` if there are weights that make every image black."""
    for name, tensor in state_dict.items():
        if not tensor.isfinite().all():
            odd = int((~tensor.isfinite()).sum())
            got = f"{odd} of {tensor.numel()} in {name} that are infinite or no number: a training diverged"
            raise WeightsError("finite weights", got, "Take an earlier checkpoint.", path)


def state_dict_diff(network: nn.Module, state_dict: Mapping[str, Tensor]) -> str | None:
    """What keeps ``state_dict`` from loading strictly into ``network``, in lines; None if nothing does."""
    expected = network.state_dict()
    shapes = [
        f"{name}: expected {tuple(expected[name].shape)}, but the file has {tuple(tensor.shape)}"
        for name, tensor in state_dict.items()
        if name in expected and expected[name].shape != tensor.shape
    ]
    if shapes:
        return _listed("differently shaped", shapes)
    # Only names and shapes matter: on the meta device nothing is copied and no fused kernel is re-expanded.
    given = {name: tensor.to("meta") for name, tensor in state_dict.items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they come when the weights are loaded; torch's, that meta copies nothing
            missing, unexpected = copy.deepcopy(network).to("meta").load_state_dict(given, strict=False)
    except RuntimeError as error:
        return str(error)
    lines = [_listed("missing in the file", missing), _listed("unexpected in the file", unexpected)]
    return "\n".join(line for line in lines if line) or None


def _listed(what: str, names: Sequence[str], most: int = 8) -> str:
    rest = f" (+{len(names) - most} more)" if len(names) > most else ""
    return f"  {what}: {'; '.join(names[:most])}{rest}" if names else ""


def save_state_dict(state_dict: Mapping[str, Any], file: FilePath | IO[bytes]) -> None:
    """Write a ``.pth`` file of anything that ``torch.save`` takes, e.g. ``{"params": network.state_dict()}``.

    Only into a stream of `dscsr_model.files.atomic` it is whole or not there. A full disk, or a file that cannot be
    written, is an OSError.
    """
    # Not by torch into the file: on a full disk its writer raises what nobody could tell from a fault of our own.
    buffer = io.BytesIO()
    torch.save(state_dict, buffer)
    if isinstance(file, (str, os.PathLike)):
        Path(file).write_bytes(buffer.getbuffer())
    else:
        file.write(buffer.getbuffer())


def read_pickle(path: Path) -> Any:
    """What a file of ``torch.save`` holds, its mappings as dicts, on the CPU; no code from it ever runs.

    Raises:
        WeightsError: The file is damaged, holds Python objects, or unpacks to more than it has bytes.
    """
    try:
        return read_torch_file(path)
    except RefusedError as error:
        raise WeightsError(
            f"plain weights in {path}",
            f"{error}, which is never loaded: more than tensors, numbers and texts could run code from the file, or "
            "fill your memory",
            "Ask for a file of the network's state_dict() alone, in float32 or float16.",
        ) from error
    except Exception as error:  # a damaged file raises anything: IndexError, EOFError, KeyError, RuntimeError, ...
        if not isinstance(error, OSError) and _is_safetensors(path):
            raise _misnamed(path, "a file of torch.save", "a safetensors file", ".safetensors") from error
        raise _damaged(path, error) from error


def _content(path: Path) -> tuple[Any, Any]:
    """What is in a file, and its metadata, both unchecked."""
    if path.is_dir():
        raise WeightsError(f"a weight file at {path}", "a folder", "Name a file in it, such as *.pth or *.safetensors.")
    if not path.is_file():
        raise WeightsError(f"a weight file at {path}", "none", "Check the path.")
    if (program := {".onnx": "an ONNX model", ".param": "a graph of ncnn"}.get(path.suffix.lower())) is not None:
        raise WeightsError(f"weights in {path}", program, "Give the file that it was made from.")
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    content = read_pickle(path)
    return content, content.get(METADATA) if isinstance(content, Mapping) else None


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str] | None]:
    from safetensors import safe_open

    try:
        with path.open("rb") as opened:
            header = int.from_bytes(opened.read(8), "little")
        if header > MOST_BYTES:  # the library takes 100 MB of it, some gigabytes as Python's objects
            raise ValueError(f"Expected at most {MOST_BYTES} bytes of names and shapes, but got {header}.")
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118 - no mapping
    except Exception as error:  # SafetensorError, and whatever torch says of sizes and kinds of numbers
        if zipfile.is_zipfile(path):
            raise _misnamed(path, "a safetensors file", "one of torch.save", ".pth") from error
        raise _damaged(path, error) from error


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def _misnamed(path: Path, expected: str, got: str, suffix: str) -> WeightsError:
    return WeightsError(f"{expected} at {path}", got, f"Rename it to {path.with_suffix(suffix).name}.")


def _damaged(path: Path, error: Exception) -> WeightsError:
    if isinstance(error, OSError):
        return WeightsError(f"to read {path}", error.strerror or error, "Check who may read it, and the disk.")
    found = f"{path.stat().st_size:,} bytes; {type(error).__name__}"
    got = f"one that cannot be read: it is truncated or of another kind ({found})"
    return WeightsError(f"a whole weight file at {path}", got, "Copy or download it again.")


def _check_tensors(weights: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors whose numbers are not in the file: a network of their shapes could take any amount of memory."""
    for name, tensor in weights.items():
        if tensor.dtype not in NUMBERS:
            remedy = "Save the network's state_dict() in float32 or float16."
            raise WeightsError(f"real numbers in {path}", f"{tensor.dtype} for {short(name)}", remedy)
    claimed, size = sum(tensor.numel() * tensor.element_size() for tensor in weights.values()), path.stat().st_size
    if claimed > _SHARED * size:
        largest = max(weights, key=lambda name: weights[name].numel())
        such = f"{short(largest)} of {tuple(weights[largest].shape)}"
        got = f"tensors that claim {claimed:,} bytes (such as {such}) in a file of {size:,}"
        remedy = "Do not use it: it is damaged, or made to fill your memory."
        raise WeightsError("weights that are in the file", got, remedy, where=path)


def _unwrap(content: Any, param_key: str, path: Path) -> Any:
    if not isinstance(content, Mapping):
        return content
    if not isinstance(content.get(param_key), Mapping):
        keys = [short(key) for key, value in content.items() if isinstance(value, Mapping) and key != METADATA]
        got = f"the keys {', '.join(keys[:6])}" if keys else "unwrapped weights (param_key: ~)"
        remedy = "Name one of them." if keys else ""
        raise WeightsError(f"weights under the key '{param_key}' in {path}", got, remedy)
    return content[param_key]


def _is_state_dict(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
        and all(map(str.isprintable, content))  # messages show names on a terminal
    )


def _describe(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"an object of type {type(content).__name__}"
    return f"a mapping with the keys {', '.join(map(short, list(content)[:6]))}" if content else "an empty mapping"


def short(value: object) -> str:
    """A value of a file for a message: texts, numbers, the kind of others, since to print them may take for ever."""
    if not isinstance(value, (str, int, float, type(None))):
        return f"({type(value).__name__})"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"

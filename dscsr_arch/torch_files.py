"""Files of ``torch.save``, read without torch's unpickler: what is checked is what is read.

Measured with torch 2.13, ``torch.load(weights_only=True, mmap=True)`` behind a check of the archive's list and of the
pickle's instructions: it runs no code of a file, but a nested tuple as a key takes it for ever; it reads damaged
numbers without a word (it looks at no checksum); of 0.4 MB it makes 1.1 GB if only the pickle is compressed, and it
finds another list of contents than Python where there are two, so that no check of ours holds for what it reads.
"""

from __future__ import annotations

import io
import math
import pickletools
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

NUMBERS = (
    *(torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool),
)
"""What tensors may be made of: what torch can turn into float32."""

MOST_BYTES = 8 * 2**20
"""Of pickles, and of the lists of contents of archives and safetensors files; as Python objects ten times as much."""
_MOST_STEPS = 1_000_000
"""Of a pickle. The training state of a network of 500 layers has 50,000."""
_LONGEST_KEY = 1000
_MOST_AXES = 16
_MOST_ARGUMENTS = 8
_CHUNK = 2**20
_TAKEN = {
    "TUPLE": 0, "APPENDS": 0, "SETITEMS": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2,
    "REDUCE": 2, "BUILD": 1, "BINPERSID": 1,
}  # fmt: skip
"""How many objects instructions of a pickle take from its stack; 0 means all since the mark."""
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
"""How files of torch before 1.6 begin."""

Storage = Callable[[torch.dtype, str, int], Tensor]
"""Gives the numbers (type, key, how many) that a tensor is a view of."""


class RefusedError(Exception):
    """A file that holds something else than weights; the message is a noun."""


def read_torch_file(path: Path) -> Any:
    """The content of a file of ``torch.save``, its mappings as dicts, on the CPU.

    Raises:
        RefusedError: It holds more than plain containers of numbers, texts and dense tensors.
        Exception: Anything else, if it is damaged or of another kind.
    """
    with _Bounded(path.open("rb", buffering=0)) as file:
        return _read_archive(file, path.stat().st_size) if file.peek(4)[:4] == b"PK\x03\x04" else _read_stream(file)


class _Bounded(io.BufferedReader):
    """A file of which no piece is read at once that would take hundreds of megabytes as Python's objects."""

    def read(self, size: int | None = -1, /) -> bytes:
        """As usual, up to the limit."""
        piece = super().read(MOST_BYTES + 1 if size is None or size < 0 else min(size, MOST_BYTES + 1))
        if len(piece) > MOST_BYTES:
            raise RefusedError("a piece of Python of more than 8 MiB")
        return piece


def _read_archive(file: BinaryIO, size: int) -> Any:
    """Of torch since 1.6: the pickle and each storage is a member, none compressed."""
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
        if "constants.pkl" in entries or "archive_format" in entries:
            raise RefusedError("a program of TorchScript or torch.export")
        unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise RefusedError(f"a compressed archive of {size:,} bytes that would unpack to {unpacked:,}")
        if "byteorder" in entries and archive.read(entries["byteorder"]) != sys.byteorder.encode():
            raise RefusedError("numbers in the byte order of another machine")
        storages: dict[str, Tensor] = {}

        def storage(dtype: torch.dtype, key: str, count: int) -> Tensor:
            if key not in storages:
                entry = entries[f"data/{key}"]
                with archive.open(entry) as member:
                    storages[key] = _fill(_empty(dtype, count, most=entry.file_size), member)
            return storages[key].view(dtype)

        if entries["data.pkl"].file_size > MOST_BYTES:
            raise RefusedError("a pickle of more than 8 MiB")
        return _unpickle(io.BytesIO(archive.read(entries["data.pkl"])), storage)


def _read_stream(file: BinaryIO) -> Any:
    """Of torch before 1.6: five pickles one after another, then the storages."""
    left = file.seek(0, io.SEEK_END)
    file.seek(0)
    pickles = io.BytesIO(file.read(MOST_BYTES))
    storages: dict[str, Tensor] = {}

    def storage(dtype: torch.dtype, key: str, count: int) -> Tensor:
        nonlocal left
        if key not in storages:
            storages[key] = _empty(dtype, count, most=left)
            left -= storages[key].numel()
        return storages[key].view(dtype)

    magic, protocol, _sizes_of_c, content, keys = (_unpickle(pickles, storage) for _ in range(5))
    if (magic, protocol) != (_MAGIC, _PROTOCOL) or {_the(str, key) for key in _the(list, keys)} != storages.keys():
        raise ValueError("Expected a file of torch.save with the keys of all storages, but got another one.")
    file.seek(pickles.tell())
    for key in keys:
        file.read(8)  # how many numbers; known
        _fill(storages[key], file)
    return content


def _empty(dtype: torch.dtype, count: int, most: int) -> Tensor:
    """Room for ``count`` numbers, in bytes."""
    size = count * dtype.itemsize
    if not 0 <= size <= most:
        raise ValueError(f"Expected at most {most} bytes for a storage, but got {size}.")
    return torch.empty(size, dtype=torch.uint8)


def _fill(storage: Tensor, file: Any) -> Tensor:
    """Read the bytes of a storage; to its end, where a member of an archive checks its sum."""
    view, at = storage.numpy().data, 0
    while read := file.readinto(view[at : at + _CHUNK]):
        at += read
    if at < len(view):
        raise EOFError("Expected more bytes.")
    return storage


def _unpickle(file: BinaryIO, storage: Storage) -> Any:
    """What the next pickle of ``file`` builds, of the instructions that ``torch.save`` writes (protocol 2).

    Nothing here hashes, compares, prints or calls what the file brings along, but short texts and numbers as keys.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    given: Any
    for count, (opcode, given, _) in enumerate(pickletools.genops(file)):
        if count > _MOST_STEPS:
            raise RefusedError("more objects than the weights of any network")
        if (count == 0) != (opcode.name == "PROTO"):
            raise ValueError("Expected a pickle, but got something else.")
        if opcode.name in _TAKEN:
            start = len(stack) - _TAKEN[opcode.name] if _TAKEN[opcode.name] else marks.pop()
            items = stack[start:]
            del stack[start:]
        match opcode.name:
            case "PROTO":
                pass
            case "BINPUT" | "LONG_BINPUT":
                memo[given] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[given])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINSTRING":
                stack.append(given)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                stack.append({"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}[opcode.name]())
            case "MARK":
                marks.append(len(stack))
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(items))
            case "APPEND" | "APPENDS":
                _the(list, stack[-1]).extend(items)
            case "SETITEM" | "SETITEMS":
                _set(_the(dict, stack[-1]), items)
            case "GLOBAL":
                if given not in _BUILDERS:
                    raise RefusedError(f"an object of Python ({given.replace(' ', '.')[:60]!r})")
                stack.append(_BUILDERS[given])
            case "REDUCE":
                function, arguments = items  # one of _BUILDERS: nothing else on the stack can be called
                stack.append(function(*_few(arguments)))
            case "BUILD":
                _the(dict, stack[-1])  # attributes of a state dict: the versions of its layers
            case "BINPERSID":
                _, dtype, key, _, number, *_ = _few(items[0])
                stack.append(storage(_the(torch.dtype, dtype), _the(str, key), _the(int, number)))
            case "STOP":
                return stack.pop()
            case _:
                raise RefusedError(f"an object of Python (by {opcode.name})")
    raise EOFError("Expected the end of a pickle.")


def _the(kind: type, given: Any) -> Any:
    """``given``, if it is of just this type."""
    if type(given) is not kind:
        raise TypeError(f"Expected {kind.__name__}, but got {type(given).__name__}.")
    return given


def _few(given: Any) -> Any:
    """``given``, if it is a tuple as short as those that functions are called with: every call copies it."""
    if len(_the(tuple, given)) > _MOST_ARGUMENTS:
        raise RefusedError(f"a call with {len(given)} arguments")
    return given


def _set(mapping: dict[Any, Any], items: list[Any]) -> None:
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Other types, longer texts and integers that share a hash can take any time in a dict.
        if not ((type(key) is str and len(key) <= _LONGEST_KEY) or (type(key) is int and -(2**31) <= key < 2**31)):
            raise RefusedError(f"a mapping with a key that is no short name or number ({type(key).__name__})")
        mapping[key] = value


def _tensor(storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    """A view of the numbers; torch sees to it that it stays within them."""
    if len(_the(tuple, size)) > _MOST_AXES or not math.prod(map(abs, size)) < 2**60:  # torch would count round
        raise ValueError(f"Expected the sizes of a tensor, but got {len(size)} of them, or huge ones.")
    return torch.as_strided(storage, size, stride, offset)


def _first(value: Any, *_: Any) -> Any:
    return value


def _mapping(content: Any = None) -> dict[Any, Any]:
    return {} if content is None else _the(dict, content)  # not copied: a file could ask for any number of copies


_STORAGES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool,
}  # fmt: skip
_BUILDERS: Mapping[str, Any] = {
    "collections OrderedDict": _mapping,
    "collections Counter": _mapping,
    "torch Size": _first,
    "torch._utils _rebuild_tensor": _tensor,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_tensor_v3": lambda storage, *rest: _tensor(storage.view(rest[5]), *rest[:3]),
    "torch._utils _rebuild_parameter": _first,
    "torch._utils _rebuild_parameter_with_state": _first,
    "torch.storage UntypedStorage": torch.uint8,
    **{f"torch {name}Storage": dtype for name, dtype in _STORAGES.items()},
    **{str(dtype).replace(".", " "): dtype for dtype in NUMBERS},
}
"""What stands for the few names that a file of weights needs; torch's own is never called."""

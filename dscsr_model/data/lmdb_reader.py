"""Reading the LMDBs of `lmdb_store`, and BasicSR's: one environment per file and process, no copy of bare pixels."""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
from numpy.typing import NDArray

from dscsr_arch.errors import DataError
from dscsr_model.data.image_io import decode_as_basicsr
from dscsr_model.data.lmdb_pages import value_places
from dscsr_model.data.lmdb_store import Shape

_LINE = re.compile(r"(?P<key>[^.\s][^.]*)\.\S+ \((?P<h>\d+), ?(?P<w>\d+), ?(?P<c>\d+)\)(?: (?P<level>\d+))?")


class LmdbReader:
    """Reads one LMDB, ours or BasicSR's. Images are numbered in the order of their sorted keys.

    Bare pixels are read from a mapping of the file. For encoded images it is opened by LMDB, at the first read, once
    per process however many readers there are (LMDB allows no second time), and again in a forked or spawned process.
    A reader can be pickled at any time.

    Args:
        path: The LMDB's folder.

    Raises:
        DataError: Files are missing, or the list cannot be understood.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        entries = sorted(read_meta(self.path).items())
        # One block of memory each: millions of Python objects would be copied into every forked worker bit by bit.
        self._keys = np.array([key.encode() for key, _ in entries], dtype=np.bytes_)
        self._shapes = np.array([shape for _, (shape, _) in entries], dtype=np.int32).reshape(-1, 3)
        self._levels = np.array([level for _, (_, level) in entries], dtype=np.uint8)
        self._offsets = self._bare_offsets()
        self._environment = shared_environment(self.path)
        self._mapped: mmap.mmap | None = None

    def _bare_offsets(self) -> NDArray[np.int64]:
        """First byte in the file of every image of bare pixels; -1 of any other, and where it is unknown."""
        offsets = np.full(len(self._keys), -1, np.int64)
        if (self._levels == 0).any():
            places = value_places(self.path)
            for index, key in enumerate(self._keys):
                place = places.get(bytes(key))
                if place and is_bare(place.length, self._shapes[index], self._levels[index]):
                    offsets[index] = place.offset
        return offsets

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def keys(self) -> list[str]:
        """All keys, sorted."""
        return [key.decode() for key in self._keys]

    @property
    def shapes(self) -> NDArray[np.int32]:
        """(images, 3): height, width, channels, as listed."""
        return self._shapes

    def key(self, index: int) -> str:
        """Key of one image."""
        return str(self._keys[index].decode())

    def expect(self, index: int, first_row: int, rows: int) -> None:
        """Have the system fetch some rows of bare pixels that will be read next, all at once and in the background."""
        if self._offsets[index] >= 0 and hasattr(mmap, "MADV_WILLNEED"):
            row = int(self._shapes[index, 1]) * int(self._shapes[index, 2])
            first = int(self._offsets[index]) + first_row * row
            start = first // mmap.PAGESIZE * mmap.PAGESIZE
            self._map().madvise(mmap.MADV_WILLNEED, start, first + rows * row - start)

    @contextlib.contextmanager
    def pixels(self, index: int) -> Iterator[NDArray[np.uint8]]:
        """One image, (H, W, 3) RGB or, if it is listed with one channel, (H, W, 1) gray; uint8, read-only.

        Bare pixels are not copied: the array lies in the mapped file and may be used inside the ``with`` block only.

        Raises:
            DataError: It is missing, or cannot be decoded.
        """
        height, width, channels = (int(number) for number in self._shapes[index])
        offset = int(self._offsets[index])
        if offset >= 0:
            bare = np.frombuffer(self._map(), np.uint8, height * width * channels, offset)
            yield bare.reshape(height, width, channels)
            return
        with self._environment.begin() as transaction:
            value = transaction.get(bytes(self._keys[index]))
            if value is None:
                raise DataError(
                    f"Expected `{self.key(index)}` in {self.path}, but it is only in its list. Prepare it again."
                )
            if is_bare(len(value), (height, width, channels), self._levels[index]):
                yield np.frombuffer(value, np.uint8).reshape(height, width, channels)
            else:
                yield self._decode(value, index)

    def _map(self) -> mmap.mmap:
        if self._mapped is None:
            with open(self.path / "data.mdb", "rb") as file:
                self._mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            if hasattr(mmap, "MADV_RANDOM"):
                self._mapped.madvise(mmap.MADV_RANDOM)  # crops lie anywhere; `expect` says where
        return self._mapped

    def _decode(self, value: memoryview, index: int) -> NDArray[np.uint8]:
        gray = self._shapes[index, 2] == 1
        data = np.frombuffer(value, np.uint8)
        image = decode_as_basicsr(data, cv2.IMREAD_GRAYSCALE if gray else cv2.IMREAD_COLOR)
        if image is None:
            raise DataError(
                f"Expected an encoded image or {self._shapes[index].prod()} bare bytes as `{self.key(index)}` in "
                f"{self.path}, but got {len(value)} bytes that do not decode. `dscsr prepare --verify` finds all such."
            )
        return image[:, :, None] if gray else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_environment", "_mapped")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._environment, self._mapped = shared_environment(self.path), None


class Environment:
    """An LMDB environment that opens itself when it is needed, anew in every process. See `shared_environment`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._process = -1
        self._environment: Any = None
        self._lock = threading.Lock()

    def begin(self) -> Any:
        """A read transaction whose values are views of the mapped file."""
        if self._process != os.getpid():
            with self._lock:  # of several threads, one opens
                if self._process != os.getpid():
                    self._reopen()
        return self._environment.begin(buffers=True)

    def _reopen(self) -> None:
        if self._environment is not None:
            self._environment.close()  # inherited by a fork; LMDB forbids using it, and opening a second one beside it
        try:
            self._environment = lmdb.open(str(self._path), readonly=True, lock=False, readahead=False, meminit=False)
        except lmdb.Error as error:
            raise DataError(
                f"Expected an LMDB that opens, but got: {error} ({self._path}). If other code of this process has it "
                "open (BasicSR's own datasets open it for themselves), use PairedCropDataset for both; else prepare it "
                "again."
            ) from error
        size, info = (self._path / "data.mdb").stat().st_size, self._environment.info()
        if size < (info["last_pgno"] + 1) * self._environment.stat()["psize"]:
            self._environment.close()
            raise DataError(  # reading on would kill the process
                f"Expected a whole LMDB, but {self._path / 'data.mdb'} is truncated at {size:,} bytes. Copy or prepare "
                "it again."
            )
        self._process = os.getpid()


_environments: weakref.WeakValueDictionary[str, Environment] = weakref.WeakValueDictionary()


def shared_environment(path: Path) -> Environment:
    """The environment of ``path``, the same for all who ask for it in this process; closed when nobody holds it."""
    place = os.path.realpath(path)
    environment = _environments.get(place)
    if environment is None:
        environment = _environments[place] = Environment(Path(place))
    return environment


def read_meta(path: str | Path) -> dict[str, tuple[Shape, int]]:
    """Shape and compression level of every image of an LMDB, by key, from its ``meta_info.txt``.

    Raises:
        DataError: It is not there; a line is not understood; a key comes twice.
    """
    file = Path(path) / "meta_info.txt"
    if not file.is_file() or not (file.parent / "data.mdb").is_file():
        raise DataError(
            f"Expected an LMDB with data.mdb and meta_info.txt, but {path} has not both. Make it by `dscsr prepare`."
        )
    entries: dict[str, tuple[Shape, int]] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        match = _LINE.fullmatch(line)
        if match is None or match["key"] in entries:
            fault = "which is not understood"
            if match:
                fault = f"which names `{match['key']}` for the second time (BasicSR cuts names at the first dot)"
            raise DataError(
                f"Expected lines like `0001_s001.png (480,480,3) 1` in {file}, each with its own key, but got "
                f"{line[:80]!r} in line {number}, {fault}. Prepare it again."
            )
        entries[match["key"]] = (int(match["h"]), int(match["w"]), int(match["c"])), int(match["level"] or 0)
    return entries


def is_bare(length: int, shape: Sequence[int], level: int) -> bool:
    """Whether a value of so many bytes is the bare pixels of an image, not an encoded one.

    An encoded image of compression level 0 is longer than its pixels.
    """
    return level == 0 and shape[2] in (1, 3) and length == int(shape[0]) * int(shape[1]) * int(shape[2])

"""Images in LMDB, laid out as BasicSR lays them out.

::

    GT.lmdb/
    ├── data.mdb
    ├── lock.mdb
    └── meta_info.txt        one line per image, such as `0001_s001.png (480,480,3) 1`

A key is the name up to the first dot. The value is either an encoded image (format png; BasicSR's own datasets read
it), or the raw pixels, (height, width, 3) RGB or (height, width, 1) gray, uint8 row by row (format raw; level 0 in the
list). Nothing is decoded to read a crop from raw pixels: LMDB maps the file into memory, and a crop is a view of it.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import lmdb
import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from dscsr_arch.errors import DataError
from dscsr_model.data.image_io import decode_as_basicsr
from dscsr_model.files import disk_errors

_FIRST_MAP_SIZE = 64 * 2**20
_LINE = re.compile(r"(?P<key>[^.\s][^.]*)\.\S+ \((?P<h>\d+), ?(?P<w>\d+), ?(?P<c>\d+)\)(?: (?P<level>\d+))?")

Shape = tuple[int, int, int]


class Entry(NamedTuple):
    """One image on its way into an LMDB: its key, encoded value, (height, width, channels), and compression level."""

    key: str
    value: bytes
    shape: Shape
    level: int


def encode(key: str, image: NDArray[np.uint8], image_format: str = "raw", level: int = 1) -> Entry:
    """The entry of an image (H, W, 3) RGB or (H, W, 1) gray, uint8; of PNG with a compression of 0 to 9."""
    if image_format == "raw":
        return Entry(key, image.tobytes(), image.shape, 0)
    _, value = cv2.imencode(".png", image[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, level])
    return Entry(key, value.tobytes(), image.shape, level)


class LmdbWriter:
    """Writes an LMDB whose folder does not exist; used in a ``with`` block, inside of one of `atomic_folder`."""

    def __init__(self, path: Path, *, map_size: int = _FIRST_MAP_SIZE) -> None:
        self.path = path
        with disk_errors(path, lmdb.Error), contextlib.ExitStack() as opened:
            path.mkdir(parents=True)
            self._list = opened.enter_context(open(path / "meta_info.txt", "w", encoding="ascii"))
            # No sync while it is written; no writemap, which turns a full disk into a fatal signal.
            self._environment = lmdb.open(str(path), map_size=map_size, sync=False)
            opened.callback(self._environment.close)
            self._opened = opened.pop_all()

    def add(self, entries: Sequence[Entry]) -> None:
        """Add entries, all or none; raises `DataError` for a key that is there already."""
        with disk_errors(self.path, lmdb.Error):
            while not self._try_to_add(entries):
                self._environment.set_mapsize(2 * self._environment.info()["map_size"])
            for key, _, (height, width, channels), level in entries:
                self._list.write(f"{key}.png ({height},{width},{channels}) {level}\n")

    def _try_to_add(self, entries: Sequence[Entry]) -> bool:
        try:
            with self._environment.begin(write=True) as transaction:
                for entry in entries:
                    if not transaction.put(entry.key.encode("ascii"), entry.value, overwrite=False):
                        raise DataError("every key once", f"`{entry.key}` again", "Rename the image.", self.path)
        except lmdb.MapFullError:
            return False
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with disk_errors(self.path, lmdb.Error) if kind is None else contextlib.suppress(OSError):
            self._opened.close()  # on a full disk the list's last lines find no room


class LmdbReader:
    """Reads one LMDB, ours or BasicSR's. Images are numbered in the order of their sorted keys.

    It is opened at the first read, and a reader can be pickled at any time; see `environment` and `read_meta`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        entries = sorted(read_meta(self.path).items())
        # One block of memory each: millions of Python objects would be copied into every forked worker bit by bit.
        self._keys = np.array([key.encode() for key, _ in entries], dtype=np.bytes_)
        self._shapes = np.array([shape for _, (shape, _) in entries], dtype=np.int32).reshape(-1, 3)
        self._levels = np.array([level for _, (_, level) in entries], dtype=np.uint8)
        self._environment = environment(self.path)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def keys(self) -> list[str]:
        """All keys, sorted."""
        return [key.decode() for key in self._keys]

    def shapes(self) -> NDArray[np.int32]:
        """(images, 3): height, width, channels, as listed."""
        return self._shapes

    def name(self, index: int) -> str:
        """Key of one image."""
        return str(self._keys[index].decode())

    @contextlib.contextmanager
    def value(self, index: int) -> Iterator[memoryview]:
        """What is stored of one image, inside the ``with`` block; `DataError` if that is nothing."""
        with self._environment.begin() as transaction:
            value = transaction.get(bytes(self._keys[index]))
            if value is None:
                raise DataError(
                    f"an image `{self.name(index)}`", "its line in the list only", "Prepare it again.", self.path
                )
            yield value

    @contextlib.contextmanager
    def pixels(self, index: int) -> Iterator[NDArray[np.uint8]]:
        """One image, (H, W, 3) RGB or, if it is listed with one channel, (H, W, 1) gray; uint8, read-only.

        Raw pixels are not copied: the array lies in the mapped file and may be used inside the ``with`` block only.

        Raises:
            DataError: It is missing, or cannot be decoded.
        """
        shape, level = self._shapes[index].tolist(), self._levels[index]
        with self.value(index) as value:
            if is_raw(len(value), shape, level):
                yield np.frombuffer(value, np.uint8).reshape(shape)
                return
            gray = shape[2] == 1
            flags = cv2.IMREAD_GRAYSCALE if gray else cv2.IMREAD_COLOR
            image = decode_as_basicsr(np.frombuffer(value, np.uint8), flags)
        if image is None:
            expected = f"an encoded image or raw pixels of {tuple(shape)} as `{self.name(index)}`"
            remedy = "`dscsr prepare --verify` finds all such."
            raise DataError(expected, f"{len(value)} bytes that are neither", remedy, self.path)
        yield image[:, :, None] if gray else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


class Environment:
    """An LMDB that opens itself when it is needed, anew in every process. See `environment`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._process = -1
        self._opened: Any = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return environment, (self._path,)

    @contextlib.contextmanager
    def begin(self) -> Iterator[Any]:
        """A read transaction, whose values are views of the mapped file; `DataError` for a file that is not whole."""
        if self._process != os.getpid():
            with self._lock:  # of several threads, one opens
                if self._process != os.getpid():
                    self._open()
        with self._opened.begin(buffers=True) as transaction:
            yield transaction

    def _open(self) -> None:
        if self._opened is not None:
            self._opened.close()  # inherited by a fork; LMDB forbids using it, and opening a second one beside it
        try:
            self._opened = lmdb.open(str(self._path), readonly=True, lock=False)
        except lmdb.Error as error:
            raise DataError(
                "an LMDB that opens",
                error,
                "If other code of this process has it open (BasicSR's own datasets open it for themselves), use "
                "PairedCropDataset for both; else prepare it again.",
                self._path,
            ) from error
        size = (self._path / "data.mdb").stat().st_size
        whole = (self._opened.info()["last_pgno"] + 1) * self._opened.stat()["psize"]
        if size < whole:  # reading on would kill the process
            self._opened.close()
            self._opened = None
            got = f"a data.mdb that is truncated at {size:,}"
            raise DataError(f"a whole LMDB of {whole:,} bytes", got, "Copy or prepare it again.", self._path)
        self._process = os.getpid()


_environments: weakref.WeakValueDictionary[str, Environment] = weakref.WeakValueDictionary()


def environment(path: Path) -> Environment:
    """What reads ``path``, the same for all who ask in this process, since LMDB opens no file a second time.

    It is closed when nobody holds it, and opens itself anew in a forked or spawned process.
    """
    place = os.path.realpath(path)
    if (found := _environments.get(place)) is None:
        found = _environments[place] = Environment(Path(place))
    return found


def read_meta(path: str | Path) -> dict[str, tuple[Shape, int]]:
    """Shape and compression level of every image of an LMDB, by key, from its ``meta_info.txt``.

    Raises:
        DataError: Files are missing; a line is not understood; a key comes twice.
    """
    file = Path(path) / "meta_info.txt"
    if lost := [name for name in ("data.mdb", file.name) if not file.with_name(name).is_file()]:
        got = f"no {' and no '.join(lost)}"
        raise DataError("an LMDB with data.mdb and meta_info.txt", got, "Make it by `dscsr prepare`.", path)
    entries: dict[str, tuple[Shape, int]] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        match = _LINE.fullmatch(line)
        if match is None or match["key"] in entries:
            fault = "which is not understood"
            if match:
                fault = f"which names `{match['key']}` for the second time (BasicSR cuts names at the first dot)"
            expected = "lines like `0001_s001.png (480,480,3) 1`, each with its own key"
            raise DataError(expected, f"{line[:80]!r} in line {number}, {fault}", "Prepare it again.", file)
        entries[match["key"]] = (int(match["h"]), int(match["w"]), int(match["c"])), int(match["level"] or 0)
    return entries


def is_raw(length: int, shape: Sequence[int], level: int) -> bool:
    """Whether a value is raw pixels: an encoded image of compression level 0 is longer than those."""
    return level == 0 and shape[2] in (1, 3) and length == shape[0] * shape[1] * shape[2]

"""Images in LMDB, laid out as BasicSR lays them out.

::

    GT.lmdb/
    ├── data.mdb
    ├── lock.mdb
    └── meta_info.txt        one line per image, such as `0001_s001.png (480,480,3) 1`

A key is the name up to the first dot. The value is either an encoded image (format png; BasicSR's own datasets read
it), or the bare pixels, (height, width, 3) RGB or (height, width, 1) gray, uint8 row by row (format raw; level 0 in the
list). Nothing is decoded
to read a crop from bare pixels: `lmdb_reader` maps the file into memory, and only the rows of the crop are touched.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import lmdb
import numpy as np
from numpy.typing import NDArray

from dscsr_arch.errors import DataError
from dscsr_model.files import disk_errors

FORMATS = ("raw", "png")
_FIRST_MAP_SIZE = 64 * 2**20
_LONGEST_KEY = 511  # bytes, a limit of LMDB
_KEY = re.compile(r"[^\x00-\x1f./\x7f-\U0010ffff]+")

Shape = tuple[int, int, int]


class Entry(NamedTuple):
    """One image on its way into an LMDB: its key, encoded value, (height, width, channels), and compression level."""

    key: str
    value: bytes
    shape: Shape
    level: int


def encode(key: str, image: NDArray[np.uint8], image_format: str = "raw", level: int = 1) -> Entry:
    """Make the entry of an image.

    Args:
        key: Printable ASCII without dots and slashes, at most 511 characters; see `LmdbWriter.add`.
        image: (H, W, 3) RGB or (H, W, 1) gray, uint8.
        image_format: ``raw`` or ``png``.
        level: PNG compression, 0 to 9.

    Raises:
        ValueError: Another format, or no such image.
    """
    if image_format not in FORMATS:
        raise ValueError(f"Expected `image_format` to be one of {FORMATS}, but got {image_format!r}.")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3) or 0 in image.shape:
        raise ValueError(f"Expected an image (H, W, 3) or (H, W, 1) of uint8, but got {image.shape} of {image.dtype}.")
    if image_format == "raw":
        return Entry(key, image.tobytes(), image.shape, 0)
    done, value = cv2.imencode(".png", image[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, level])
    if not done:
        raise ValueError(f"Expected an image that PNG can hold, but got {image.shape}.")
    return Entry(key, value.tobytes(), image.shape, level)


class LmdbWriter:
    """Writes one LMDB; used in a ``with`` block.

    Args:
        path: The LMDB's folder; ends in ``.lmdb``, as BasicSR wants it, and does not exist. Made in a folder of
            `atomic_folder`, it is whole or not there.
        map_size: Bytes to begin with. It doubles whenever the data have outgrown it.

    Raises:
        DataError: ``path`` ends otherwise.
        DiskError: It exists, or cannot be made.
    """

    def __init__(self, path: str | Path, *, map_size: int = _FIRST_MAP_SIZE) -> None:
        self.path = Path(path)
        if self.path.suffix != ".lmdb":
            raise DataError("a path that ends in .lmdb", self.path, "Rename it.")
        with disk_errors(self.path, lmdb.Error), contextlib.ExitStack() as opened:
            self.path.mkdir(parents=True)
            self._list = opened.enter_context(open(self.path / "meta_info.txt", "w", encoding="ascii"))
            # No sync while it is written; no writemap, which turns a full disk into a fatal signal.
            self._environment = lmdb.open(str(self.path), map_size=map_size, sync=False)
            opened.callback(self._environment.close)
            self._opened = opened.pop_all()

    def put(self, key: str, image: NDArray[np.uint8], image_format: str = "raw", level: int = 1) -> None:
        """Add one image; arguments and exceptions as in `encode` and `add`."""
        self.add([encode(key, image, image_format, level)])

    def add(self, entries: Sequence[Entry]) -> None:
        """Add entries, all or none.

        Raises:
            DataError: A key that is there already, is not printable ASCII, contains a dot (BasicSR cuts keys there) or
                a slash, or is too long; a full disk.
        """
        for entry in entries:
            _check_key(entry.key)
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
                        raise DataError(
                            f"Expected every key once, but got `{entry.key}` again for {self.path}. Rename the image."
                        )
        except lmdb.MapFullError:
            return False
        return True

    def __enter__(self) -> LmdbWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with disk_errors(self.path, lmdb.Error) if kind is None else contextlib.suppress(OSError):
            self._opened.close()  # on a full disk the list's last lines find no room


def _check_key(key: str) -> None:
    if not _KEY.fullmatch(key) or len(key) > _LONGEST_KEY:
        raise DataError(
            f"Expected a key of 1 to {_LONGEST_KEY} printable ASCII characters without dots and slashes "
            f"(BasicSR cuts keys at the first dot), but got {key!r}. Rename the image."
        )

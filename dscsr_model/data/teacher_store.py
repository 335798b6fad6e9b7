"""What teachers make of the LQ images of a pair, stored beside it: ``TEACHER_X<scale>.lmdb``.

An LMDB as `lmdb_store` has them, with the keys and sizes of the GT. A value is raw pixels, int16 (little-endian) as in
`stored_values`, so that a crop is a view of the mapped file here as well. ``teacher.json`` beside them is the
`TeacherRecord`: by whom it was made, and of which LQ images.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from dscsr_arch.errors import DataError, DscsrError
from dscsr_arch.words import many
from dscsr_model.data.lmdb_store import Entry, LmdbReader, LmdbWriter
from dscsr_model.data.prepare_job import SubImage
from dscsr_model.files import disk_errors
from dscsr_model.stored_values import LEAST, MOST

RECORD = "teacher.json"
BYTES = 2
"""Of a value."""
_COMPARED = 16
"""Images whose pixels are in a `fingerprint`."""
_AGAIN = "Store them again, with `dscsr prepare --teacher`."


class Source(BaseModel):
    """A teacher: its weight file's name and SHA-256, and what network is in it."""

    file: str
    sha256: str
    network: str
    read_with: dict[str, str] = {}
    """What else decided which network it is: arguments given beside the file; of a base, how its SHA-256 begins."""

    @property
    def words(self) -> str:
        """``SPAN (x4.pth, norm False)``."""
        return f"{self.network} ({', '.join([self.file, *map(' '.join, self.read_with.items())])})"


class TeacherRecord(BaseModel):
    """By whom stored outputs were made, and of which LQ images."""

    model_config = ConfigDict(frozen=True)

    teachers: list[Source]
    self_ensemble: bool
    scale: int
    channels: int
    lq: str = ""
    """`fingerprint` of the LQ images."""

    @property
    def words(self) -> str:
        """The teachers in words."""
        names = " and ".join(one.words for one in self.teachers)
        return f"{'the mean of ' * (len(self.teachers) > 1)}{names}{', self-ensembled' * self.self_ensemble}"


class StoringTeacher(NamedTuple):
    """A teacher that is to be stored: from an image (H, W, C) uint8 to its output (H·s, W·s, C) int16."""

    run: Callable[[NDArray[np.uint8]], NDArray[np.int16]]
    record: TeacherRecord

    def check(self, scale: int, channels: int) -> None:
        """Raise `DscsrError` unless it is one for images of so many channels and of this scale."""
        if self.record.scale != scale:
            raise DscsrError(f"a teacher of scale {scale}", f"one of scale {self.record.scale}", "Take another one.")
        if self.record.channels != channels:
            words = f"a teacher for images of {many(channels, 'channel')}, which LQ has"
            raise DscsrError(words, f"one for {self.record.channels}", "Take another one, or see --color.")

    def writer(self, path: Path) -> OutputsWriter:
        """What writes its outputs."""
        return OutputsWriter(path, self)


class OutputsWriter(LmdbWriter):
    """Writes what a teacher makes of LQ images."""

    def __init__(self, path: Path, teacher: StoringTeacher) -> None:
        super().__init__(path)
        self._teacher = teacher
        self._clipped = self._values = 0

    @property
    def share(self) -> float:
        """Of all values, how many lay beyond what 16 bits reach."""
        return self._clipped / max(self._values, 1)

    def add_output(self, name: str, image: NDArray[np.uint8], parts: Iterable[tuple[str, SubImage]]) -> None:
        """Add the output of an image, cut into parts: their keys, and where they lie in the image.

        Raises:
            DscsrError: The teacher fails on this image.
        """
        try:
            output = self._teacher.run(image)
        except DscsrError as error:
            raise DscsrError(f"{name}: {error}") from error
        self._count(output)
        entries = []
        for key, window in parts:
            top, left, height, width = window.times(self._teacher.record.scale)
            part = output[top : top + height, left : left + width]
            entries.append(Entry(key, part.astype("<i2").tobytes(), part.shape, 0))
        self.add(entries)

    def add_all(self, written: LmdbReader) -> None:
        """Add what another one has written."""
        for index, shape in enumerate(written.shapes().tolist()):
            with written.value(index) as value:
                self._count(np.frombuffer(value, "<i2"))
                self.add([Entry(written.name(index), bytes(value), tuple(shape), 0)])

    def _count(self, values: NDArray[np.int16]) -> None:
        self._clipped += int(((values == LEAST) | (values == MOST)).sum())
        self._values += values.size

    def finish(self, lq: Path) -> None:
        """Write down by whom it was made, and of which LQ images."""
        record = self._teacher.record.model_copy(update={"lq": fingerprint(LmdbReader(lq))})
        with disk_errors(self.path):
            (self.path / RECORD).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")


class TeacherReader(LmdbReader):
    """Reads stored outputs: as `LmdbReader`, but int16."""

    def __init__(self, path: str | Path) -> None:
        self.record = read_record(path)
        super().__init__(path)

    @contextlib.contextmanager
    def pixels(self, index: int) -> Iterator[NDArray[Any]]:
        """One output (H, W, C), int16, of `stored_values`; a view as of `LmdbReader`."""
        shape = self._shapes[index].tolist()
        with self.value(index) as value:
            if len(value) != BYTES * math.prod(shape):
                expected = f"`{self.name(index)}` of {BYTES * math.prod(shape)} bytes, 16 bits for each value"
                raise DataError(expected, f"{len(value)} bytes", _AGAIN, self.path)
            yield np.frombuffer(value, "<i2").reshape(shape)


def is_stored(path: Path) -> bool:
    """Whether an LMDB holds a teacher's outputs."""
    return (path / RECORD).is_file()


def read_record(path: str | Path) -> TeacherRecord:
    """By whom stored outputs were made; `DataError` for anything else."""
    file = Path(path).expanduser() / RECORD
    try:
        return TeacherRecord.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        got = "one that cannot be read" if file.is_file() else "none" if file.parent.is_dir() else "no such folder"
        expected = f"outputs of a teacher, with a file {RECORD}"
        raise DataError(expected, got, "Store them by `dscsr prepare --teacher`.", file.parent) from error


def open_outputs(path: str, gt: Any, lq: Any, scale: int, channels: int) -> TeacherReader:
    """The stored outputs that belong to a pair of LMDBs, whose `LmdbReader` are given, in their order.

    Raises:
        DataError: They are not there, or are those of other images, another scale, or other channels.
    """
    reader = TeacherReader(Path(path).expanduser())
    record = reader.record
    if (record.scale, record.channels) != (scale, channels):
        expected = f"outputs of scale {scale} and {many(channels, 'channel')}"
        raise DataError(expected, f"some of scale {record.scale} and {record.channels}", _AGAIN, path)
    if reader.keys != gt.keys:
        odd = sorted(set(reader.keys) ^ set(gt.keys))
        got = f"others: {many(len(odd), 'key')} in one of them only, such as `{odd[0]}`"
        raise DataError("outputs for the images of `dataroot_gt`", got, _AGAIN, path)
    for key, size, wanted in zip(gt.keys, reader.shapes().tolist(), gt.shapes().tolist(), strict=True):
        if size[:2] != wanted[:2]:
            raise DataError(f"outputs of the sizes of GT, {wanted[:2]} of `{key}`", size[:2], _AGAIN, path)
    if record.lq != fingerprint(lq):
        expected = "outputs that were made of the LQ images of `dataroot_lq`"
        raise DataError(expected, "outputs for others of the same names", _AGAIN, path)
    with reader.pixels(0):
        return reader  # whose file is whole, and of 16 bits


def fingerprint(lq: LmdbReader) -> str:
    """Of LQ images: their names and sizes, and the pixels of some of them."""
    digest = hashlib.sha256(" ".join(lq.keys).encode() + lq.shapes().tobytes())
    for index in np.unique(np.linspace(0, len(lq) - 1, min(_COMPARED, len(lq))).astype(int)):
        with lq.pixels(int(index)) as image:
            digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()

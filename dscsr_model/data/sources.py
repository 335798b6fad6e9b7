"""Where a data set's images come from: LMDBs, folders, memory. All give pixels by number, in RGB or gray."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from dscsr_arch.errors import DataError
from dscsr_model.data.image_io import decode_as_basicsr
from dscsr_model.data.lmdb_reader import LmdbReader
from dscsr_model.data.pairing import listed


class ImageSource(Protocol):
    """A numbered set of images."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Path of an image, or its key."""

    def shapes(self) -> NDArray[np.int32] | None:
        """Height, width and channels of all images, (n, 3), or None where only reading them would tell."""

    def expect(self, index: int, first_row: int, rows: int) -> None:
        """Rows of an image that will be read next; a hint to fetch them."""

    def pixels(self, index: int) -> contextlib.AbstractContextManager[NDArray[np.uint8]]:
        """One image (H, W, 3) RGB or (H, W, 1) gray, uint8, not to be written to, nor used behind the block."""


class LmdbSource:
    """The images of an LMDB."""

    def __init__(self, path: str) -> None:
        self.reader = LmdbReader(path)

    def __len__(self) -> int:
        return len(self.reader)

    def name(self, index: int) -> str:
        """Key of an image."""
        return self.reader.key(index)

    def shapes(self) -> NDArray[np.int32]:
        """Height, width and channels, (n, 3), as listed."""
        return self.reader.shapes

    def expect(self, index: int, first_row: int, rows: int) -> None:
        """Have rows of bare pixels fetched; see `LmdbReader.expect`."""
        self.reader.expect(index, first_row, rows)

    def pixels(self, index: int) -> contextlib.AbstractContextManager[NDArray[np.uint8]]:
        """One image; see `LmdbReader.pixels`."""
        return self.reader.pixels(index)


class FileSource:
    """Image files, decoded as BasicSR does it."""

    def __init__(self, files: Sequence[str]) -> None:
        self.files = list(files)

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        """Path of an image."""
        return self.files[index]

    def shapes(self) -> None:
        """Unknown before an image is read."""

    def expect(self, index: int, first_row: int, rows: int) -> None:
        """An encoded file has no rows to fetch."""

    @contextlib.contextmanager
    def pixels(self, index: int) -> Iterator[NDArray[np.uint8]]:
        """One image."""
        file = Path(self.files[index])
        try:
            data = np.frombuffer(file.read_bytes(), np.uint8)
        except OSError as error:
            raise DataError(f"Expected an image in {file}, but got: {error}. Restore or remove it.") from error
        image = decode_as_basicsr(data, cv2.IMREAD_COLOR)
        if image is None:
            raise DataError(f"Expected an image in {file}, but it does not decode. Replace or remove it.")
        yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


class MemorySource:
    """A copy of all images of another source in memory, in one block that forked processes share."""

    def __init__(self, source: ImageSource) -> None:
        self.names = [source.name(index) for index in range(len(source))]
        images, shapes = [], []
        for index in range(len(source)):
            with source.pixels(index) as image:
                images.append(image.reshape(-1).copy())
                shapes.append(image.shape)
        self._shapes = np.array(shapes, dtype=np.int32)
        self.ends = np.cumsum([0, *(image.size for image in images)])
        self.block = np.concatenate(images)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """As the other source calls the image."""
        return self.names[index]

    def shapes(self) -> NDArray[np.int32]:
        """Height, width and channels, (n, 3)."""
        return self._shapes

    def expect(self, index: int, first_row: int, rows: int) -> None:
        """It is there already."""

    @contextlib.contextmanager
    def pixels(self, index: int) -> Iterator[NDArray[np.uint8]]:
        """One image, not copied."""
        yield self.block[self.ends[index] : self.ends[index + 1]].reshape(self._shapes[index])


def open_pair(opt: Mapping[str, Any]) -> tuple[ImageSource, ImageSource]:
    """GT and LQ images of a dataset section, in one order.

    Raises:
        DscsrError: Folders or LMDBs are missing, empty, or do not hold the same images.
    """
    backend = opt["io_backend"]["type"]
    gt, lq = (str(opt[name]) for name in ("dataroot_gt", "dataroot_lq"))
    if backend == "lmdb":
        lmdbs = LmdbSource(gt), LmdbSource(lq)
        _same_keys(*lmdbs)
        pair: tuple[ImageSource, ImageSource] = lmdbs
    elif backend == "disk":
        names = _listed_names(opt["meta_info_file"]) if opt.get("meta_info_file") else _names(gt)
        template = opt.get("filename_tmpl") or "{}"
        lq_names = [template.format(stem) + suffix for stem, suffix in map(os.path.splitext, names)]
        missing = [name for name in lq_names if not os.path.isfile(os.path.join(lq, name))]
        if missing:
            raise DataError(
                f"Expected an LQ image for every GT image of {gt}, but {lq} has no {listed(missing, 'image')}. "
                f"Rename them, or set `filename_tmpl` ('{{}}x{opt.get('scale', 4)}' for names like "
                f"0001x{opt.get('scale', 4)}.png)."
            )
        pair = FileSource([os.path.join(gt, n) for n in names]), FileSource([os.path.join(lq, n) for n in lq_names])
    else:
        raise DataError(f"Expected `io_backend: type` to be lmdb or disk, but got {backend!r}. Set one of the two.")
    if len(pair[0]) == 0:
        raise DataError(f"Expected images in {gt}, but it holds none. Correct `dataroot_gt`.")
    return pair


def _same_keys(gt: LmdbSource, lq: LmdbSource) -> None:
    only_gt, only_lq = set(gt.reader.keys) - set(lq.reader.keys), set(lq.reader.keys) - set(gt.reader.keys)
    if only_gt or only_lq:
        lines = [
            f"{len(keys)} only in {source.reader.path} ({listed(sorted(keys), 'key', 3)})"
            for source, keys in ((gt, only_gt), (lq, only_lq))
            if keys
        ]
        raise DataError(
            f"Expected the same keys in both LMDBs, but got {' and '.join(lines)}. Make both with one run of "
            "`dscsr prepare`."
        )


def _names(folder: str) -> list[str]:
    if not os.path.isdir(folder):
        raise DataError(f"Expected a folder of images as `dataroot_gt`, but got {folder}. Correct the path.")
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_file() and not entry.name.startswith("."))


def _listed_names(file: str) -> list[str]:
    if not os.path.isfile(file):
        raise DataError(f"Expected a list of images as `meta_info_file`, but there is no {file}. Correct the path.")
    return [line.split(" ")[0].strip() for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()]

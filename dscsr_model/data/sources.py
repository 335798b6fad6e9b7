"""Where a data set's images come from: LMDBs, folders, memory. All give pixels by number, in RGB or gray."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dscsr_arch.errors import DataError
from dscsr_model.data.basicsr_pairs import check_keys, existing_folder, list_folder, pair_names, read_list
from dscsr_model.data.image_io import decode_as_basicsr
from dscsr_model.data.lmdb_store import LmdbReader
from dscsr_model.data.teacher_store import open_outputs
from dscsr_model.options.datasets import BackendSection, PairedCropDataset

_BLOCK = 2**28
"""Bytes of a block of images in memory, at least."""


class ImageSource(Protocol):
    """A numbered set of images; `LmdbReader` is one."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Path of an image, or its key."""

    def shapes(self) -> NDArray[np.int32] | None:
        """Height, width and channels of all images, (n, 3), or None where only reading them would tell."""

    def pixels(self, index: int) -> contextlib.AbstractContextManager[NDArray[np.uint8]]:
        """One image (H, W, 3) RGB or (H, W, 1) gray, uint8, not to be written to, nor used behind the block."""


class FileSource:
    """Image files, decoded as BasicSR does it."""

    def __init__(self, folder: str, names: list[str]) -> None:
        self._files = [os.path.join(folder, name) for name in names]

    def __len__(self) -> int:
        return len(self._files)

    def name(self, index: int) -> str:
        """Path of an image."""
        return self._files[index]

    def shapes(self) -> None:
        """Unknown before an image is read."""

    @contextlib.contextmanager
    def pixels(self, index: int) -> Iterator[NDArray[np.uint8]]:
        """One image."""
        file = self._files[index]
        try:
            image = decode_as_basicsr(np.frombuffer(Path(file).read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        except OSError as error:
            raise DataError("an image", error.strerror, "Restore it, or leave it out.", file) from error
        if image is None:
            raise DataError("an image", "something that does not decode", "Replace or remove it.", file)
        yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


class MemorySource:
    """A copy of all images of another source in memory, which data-loader workers share.

    Forked ones do as they are; others get tensors from torch as shared memory, hence tensors, and few large ones.
    """

    def __init__(self, source: ImageSource) -> None:
        self._names: list[str] = []
        self._images: list[tuple[int, int, tuple[int, ...]]] = []  # block, where in it, shape
        self._blocks: list[Tensor] = []
        block: list[NDArray[np.uint8]] = []
        size = 0
        for index in range(len(source)):
            with source.pixels(index) as image:
                self._names.append(source.name(index))
                self._images.append((len(self._blocks), size, image.shape))
                block.append(image.flatten())
                size += image.size
            if size >= _BLOCK or index == len(source) - 1:
                self._blocks.append(torch.from_numpy(np.concatenate(block)))
                block, size = [], 0

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        """As the other source calls the image."""
        return self._names[index]

    def shapes(self) -> NDArray[np.int32]:
        """Height, width and channels, (n, 3)."""
        return np.array([shape for *_, shape in self._images], np.int32)

    @contextlib.contextmanager
    def pixels(self, index: int) -> Iterator[NDArray[np.uint8]]:
        """One image, not copied."""
        block, start, shape = self._images[index]
        yield self._blocks[block].numpy()[start : start + math.prod(shape)].reshape(shape)


def open_teacher(options: PairedCropDataset, pair: tuple[ImageSource, ImageSource], scale: int, channels: int) -> Any:
    """The stored outputs of a teacher for GT and LQ images, in their order; None if there are none.

    Raises:
        DataError: They do not belong to the pair.
    """
    if options.dataroot_teacher is None:
        return None
    if not all(isinstance(one, LmdbReader) for one in pair):
        raise DataError("LMDBs beside `dataroot_teacher`", "folders", "Prepare the pair with `dscsr prepare`.")
    if options.noise is not None:
        remedy = "Let a `teacher:` run, or `prepare --degrade` pairs with noise."
        raise DataError("no `noise` beside `dataroot_teacher`", "noise that each sample draws anew", remedy)
    return open_outputs(options.dataroot_teacher, *pair, scale, channels)


def open_pair(opt: Mapping[str, Any], options: PairedCropDataset) -> tuple[ImageSource, ImageSource]:
    """GT and LQ images of a dataset section ``opt``, whose values are ``options``, in one order.

    Raises:
        DataError: Folders or LMDBs are missing, empty, or do not hold the same images, as BasicSR needs them.
    """
    gt, lq = options.dataroot_gt, options.dataroot_lq
    if BackendSection.parse(opt["io_backend"], "io_backend").type == "lmdb":
        readers = (reader := LmdbReader(gt)), reader if lq == gt else LmdbReader(lq)
        check_keys(set(readers[0].keys), set(readers[1].keys))
        pair: tuple[ImageSource, ImageSource] = readers
    else:
        folders = existing_folder(gt), existing_folder(lq)
        if options.meta_info_file:
            pairs = read_list(options.meta_info_file, folders[0], folders[1], options.filename_tmpl)
        else:
            pairs = pair_names(list_folder(folders[0]), list_folder(folders[1]), folders[1], options.filename_tmpl)
        pair = FileSource(gt, list(pairs)), FileSource(lq, list(pairs.values()))
    if len(pair[0]) == 0:
        raise DataError("images", "none", "Correct `dataroot_gt`.", gt)
    return pair

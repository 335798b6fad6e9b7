"""One image of `prepare`: read, made smaller, degraded, cut and encoded, in a worker or by whoever runs a teacher."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dscsr_arch.errors import ImageError
from dscsr_model.data.bicubic import downscale
from dscsr_model.data.degrade import degrade
from dscsr_model.data.image_io import Header, in_channels, read_rgb
from dscsr_model.data.lmdb_store import Entry, encode
from dscsr_model.data.prepare_job import PrepareJob, SubImage

Seen = tuple[str, NDArray[np.uint8], Iterable[tuple[str, SubImage]]]
"""What a teacher sees: the name of an image, all of it, and keys and places of its parts."""


class Task(NamedTuple):
    """One image: its key, its files, and height and width, in LR pixels, of what is used of it; its files' headers."""

    key: str
    hr: Path
    lr: Path | None
    size: tuple[int, int]
    headers: tuple[Header, ...]
    held_out: bool = False


class Pieces(NamedTuple):
    """The entries of one image, or what is wrong with it."""

    gt: Sequence[Entry] = ()
    lq: Sequence[Entry] = ()
    fault: str = ""
    whole: NDArray[np.uint8] | None = None  # the LR image, for a teacher

    def for_teacher(self, job: PrepareJob, task: Task) -> Seen | None:
        """The image as a teacher sees it, or None if it does not."""
        if self.whole is None:
            return None
        return task.key, self.whole, zip((entry.key for entry in self.lq), job.windows(*task.size), strict=True)


def job_of(job: PrepareJob, task: Task) -> PrepareJob:
    """What is to be made of this image: it stays whole if it is held out."""
    return job.whole if task.held_out else job


def make(job: PrepareJob, channels: int, task: Task) -> Pieces:
    """Read one image, make or read its LR image, cut both and encode the pieces; runs in a worker process."""
    job, (height, width) = job_of(job, task), task.size
    try:
        hr = in_channels(read_rgb(task.hr), channels)[: height * job.scale, : width * job.scale]
        lr = downscale(hr, job.scale) if task.lr is None else in_channels(read_rgb(task.lr), channels)[:height, :width]
    except ImageError as error:
        return Pieces(fault=str(error))
    if hr.shape[:2] != (height * job.scale, width * job.scale) or lr.shape[:2] != (height, width):
        return Pieces(fault=f"{task.hr}: its pixels are fewer than its header says")
    if steps := job.steps:
        lr = degrade(lr, steps, task.key)
    gt: list[Entry] = []
    lq: list[Entry] = []
    for number, window in enumerate(job.windows(height, width), 1):
        key = f"{task.key}_s{number:03d}" if job.crop_size else task.key
        for entries, image, (top, left, rows, columns) in ((gt, hr, window.times(job.scale)), (lq, lr, window)):
            part = image[top : top + rows, left : left + columns]
            entries.append(encode(key, part, job.image_format, job.compression))
    return Pieces(gt, lq, whole=lr if job.teacher and not task.held_out else None)

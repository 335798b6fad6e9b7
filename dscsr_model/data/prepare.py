"""From a folder of photographs to a pair of LMDBs: ``GT.lmdb`` and ``LQ_X<scale>.lmdb``.

Whatever can be known beforehand is checked before anything is written: names, pairs, the size of every image (from
its header), the room on the disk. The pair is then built in a hidden folder of ``out`` and moved to its place when both
halves are on the disk.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from dscsr_arch.errors import DataError, DscsrError, ImageError
from dscsr_model.data.bicubic import downscale
from dscsr_model.data.image_io import Header, decoding_memory, in_channels, read_header, read_rgb
from dscsr_model.data.lmdb_store import Entry, LmdbWriter, encode
from dscsr_model.data.memory import check_memory, free_ram
from dscsr_model.data.pairing import keys_of, listed, pair, search_images
from dscsr_model.data.prepare_job import Job, Summary
from dscsr_model.data.subimages import common_size, windows
from dscsr_model.data.workers import worker_pool
from dscsr_model.files import atomic_folder

# Takes an iterable, a label and the number of items; hands the items on and shows how far it is.
Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]


class Task(NamedTuple):
    """One image: its key, its files, and height and width, in LR pixels, of what is used of it; its files' headers."""

    key: str
    hr: Path
    lr: Path | None
    size: tuple[int, int]
    headers: tuple[Header, ...]


class Made(NamedTuple):
    """The entries of one image, or what is wrong with it."""

    gt: Sequence[Entry] = ()
    lq: Sequence[Entry] = ()
    fault: str = ""


def no_progress(items: Iterable[Any], label: str, total: int) -> Iterable[Any]:
    """Show nothing."""
    return items


def prepare(job: Job, progress: Progress = no_progress) -> Summary:
    """Make the pair of LMDBs.

    Args:
        job: What to make.
        progress: Shows how far it is.

    Raises:
        DscsrError: Faulty input, a full disk, LMDBs that are there already. Nothing half-made is left.
    """
    start = time.perf_counter()
    job.check()
    names, left_out = search_images(job.gt)
    keys = keys_of(names)
    lr_names: dict[str, str] = {}
    try:
        if job.lq is not None:
            found, others = search_images(job.lq)
            lr_names, left_out = pair(names, found, job.scale), left_out + others
    except DataError as error:
        raise DataError(f"{error} Without --lq, LR images are made.") from error
    files = [(job.gt / name, job.lq / lr_names[name] if job.lq is not None else None) for name in names]
    targets = [target.name for target in job.targets]
    with atomic_folder(job.out, targets, job.force) as folder, worker_pool(job.workers) as pool:
        headers = list(progress(pool.in_order(_read_headers, files), "checking", len(files)))
        tasks, skipped = _plan(job, [keys[name] for name in names], files, headers)
        good = [header for task in tasks for header in task.headers]
        channels = 1 if job.color == "gray" or (job.color == "auto" and all(header.gray for header in good)) else 3
        _check_room(job, channels, tasks)
        results = pool.in_order(partial(_make, job, channels), tasks, partial(_memory, job), free_ram())
        made = progress(results, "preparing", len(tasks))
        images, pairs, broken = _write(job, folder, made)
    return Summary(
        images=images,
        pairs=pairs,
        bytes=tuple((target / "data.mdb").stat().st_size for target in job.targets),  # type: ignore[arg-type]
        seconds=time.perf_counter() - start,
        skipped=(*skipped, *broken),
        shortest=min(min(window[2:]) for task in tasks for window in _windows(job, task)) * job.scale,
        small=sum(job.effective_crop > job.scale * min(task.size) for task in tasks),
        alpha=sum(task.headers[0].alpha for task in tasks),
        channels=channels,
        recolored=sum(header.gray != (channels == 1) for header in good),
        sixteen_bit=sum(header.sixteen_bit for header in good),
        left_out=left_out,
    )


def _read_headers(files: tuple[Path, Path | None]) -> tuple[Header | str, Header | str | None]:
    def read(file: Path) -> Header | str:
        try:
            return read_header(file)
        except ImageError as error:
            return str(error)

    return read(files[0]), read(files[1]) if files[1] is not None else None


def _plan(
    job: Job,
    keys: Sequence[str],
    files: Sequence[tuple[Path, Path | None]],
    headers: Sequence[tuple[Header | str, Header | str | None]],
) -> tuple[list[Task], list[str]]:
    """Tasks of the images that can be used, and the faults of the others, once all can be made into pairs."""
    tasks, broken, unfitting = [], [], []
    for key, (hr, lr), (hr_header, lr_header) in zip(keys, files, headers, strict=True):
        faults = [header for header in (hr_header, lr_header) if isinstance(header, str)]
        if faults or isinstance(hr_header, str) or isinstance(lr_header, str):
            broken += faults
            continue
        size = common_size(hr_header[:2], lr_header[:2] if lr_header else None, job.scale)
        if size is None:
            unfitting.append(f"{hr.name} {hr_header[:2]} with {lr} {lr_header[:2] if lr_header else ''}")
        elif 0 in size:
            broken.append(f"{hr}: {hr_header[0]}×{hr_header[1]} pixels, too small for ×{job.scale}")
        else:
            task = Task(key, hr, lr, size, (hr_header, lr_header) if lr_header else (hr_header,))
            try:
                _check_memory(job, task)
            except ImageError as error:
                broken.append(f"{hr}: {error}")
            else:
                tasks.append(task)
    if unfitting:
        raise DscsrError(
            f"Expected HR images {job.scale} times as large as their LR images (height, width), but got "
            f"{listed(unfitting, 'pair')}. Give the LR folder and --scale that belong to {job.gt}."
        )
    _check_broken(job, broken)
    if not tasks:
        raise DscsrError(f"Expected images in {job.gt}, but none can be used: {listed(broken, 'image')}.")
    return tasks, broken


def _check_memory(job: Job, task: Task) -> None:
    height, width = task.headers[0][:2]
    needed = sum(map(decoding_memory, task.headers))
    check_memory(needed, height, width)  # before the sub-images of what only claims its size are counted
    check_memory(_memory(job, task), height, width)


def _memory(job: Job, task: Task) -> int:
    """Bytes of RAM for an image, its sub-images, and their copies on the way from a worker to the disk."""
    return sum(map(decoding_memory, task.headers)) + 2 * _pixel_bytes(job, 3, [task])


def _check_broken(job: Job, broken: Sequence[str]) -> None:
    if broken and job.strict:
        raise DscsrError(
            f"Expected only whole images (--strict), but got {listed(broken, 'image')}. "
            "Replace or remove them, or leave out --strict to skip them."
        )


def _check_room(job: Job, channels: int, tasks: Iterable[Task]) -> None:
    """Bare pixels take a known room."""
    if job.image_format != "raw":
        return
    needed = _pixel_bytes(job, channels, tasks)
    free = shutil.disk_usage(job.out).free
    if needed > free:
        raise DscsrError(
            f"Expected {needed / 2**30:.1f} GiB of free disk for the pixels, but {job.out} has {free / 2**30:.1f} GiB. "
            "Free some space, choose another --out, or take --format png."
        )


def _pixel_bytes(job: Job, channels: int, tasks: Iterable[Task]) -> int:
    """Of all sub-images, HR and LR."""
    shapes = (window for task in tasks for window in _windows(job, task))
    return channels * sum(window.height * window.width for window in shapes) * (job.scale**2 + 1)


def _windows(job: Job, task: Task) -> list[Any]:
    return windows(*task.size, job.crop_size // job.scale, job.step // job.scale, job.thresh_size // job.scale)


def _make(job: Job, channels: int, task: Task) -> Made:
    """Read one image, make or read its LR image, cut both and encode the pieces; runs in a worker process."""
    height, width = task.size
    try:
        hr = in_channels(read_rgb(task.hr), channels)[: height * job.scale, : width * job.scale]
        lr = downscale(hr, job.scale) if task.lr is None else in_channels(read_rgb(task.lr), channels)[:height, :width]
    except ImageError as error:
        return Made(fault=str(error))
    if hr.shape[:2] != (height * job.scale, width * job.scale) or lr.shape[:2] != (height, width):
        return Made(fault=f"{task.hr}: its pixels are fewer than its header says")
    gt: list[Entry] = []
    lq: list[Entry] = []
    for number, window in enumerate(_windows(job, task), 1):
        key = f"{task.key}_s{number:03d}" if job.crop_size else task.key
        for entries, image, (top, left, rows, columns) in ((gt, hr, window.times(job.scale)), (lq, lr, window)):
            part = image[top : top + rows, left : left + columns]
            entries.append(encode(key, part, job.image_format, job.compression))
    return Made(gt, lq)


def _write(job: Job, folder: Path, made: Iterable[Made]) -> tuple[int, int, list[str]]:
    """Write both LMDBs into ``folder``; the numbers of images and pairs, and the faults of broken images."""
    images, pairs = 0, 0
    broken: list[str] = []
    with LmdbWriter(folder / job.targets[0].name) as gt, LmdbWriter(folder / job.targets[1].name) as lq:
        for result in made:
            if result.fault:
                broken.append(result.fault)
                _check_broken(job, broken)
                continue
            gt.add(result.gt)
            lq.add(result.lq)
            images, pairs = images + 1, pairs + len(result.gt)
        if not images:
            raise DscsrError(f"Expected images in {job.gt}, but all are broken: {listed(broken, 'image')}.")
    return images, pairs, broken

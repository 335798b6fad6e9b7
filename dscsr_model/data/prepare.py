"""From a folder of photographs to a pair of LMDBs: ``GT.lmdb`` and ``LQ_X<scale>.lmdb``; and a teacher's outputs.

Whatever can be known beforehand is checked before anything is written: names, pairs, the size of every image (from
its header), the room on the disk. Both halves get their names together, when they are on the disk; so do ``GT_val`` and
``LQ_X<scale>_val``, the folders of images that are held out.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dscsr_arch.errors import DataError, DscsrError, ImageError
from dscsr_model.data.hold_out import file_name, hold_out
from dscsr_model.data.image_io import Header, decoding_memory, read_header
from dscsr_model.data.lmdb_store import LmdbWriter
from dscsr_model.data.memory import check_memory, free_ram
from dscsr_model.data.pairing import keys_of, listed, pair, search_images
from dscsr_model.data.pieces import Pieces, Task, job_of, make
from dscsr_model.data.prepare_job import PrepareJob, common_size
from dscsr_model.data.workers import worker_pool
from dscsr_model.files import atomic_folder, disk_errors
from dscsr_model.shared_work import BY_ITSELF, Sharing

if TYPE_CHECKING:  # it takes longer to import than all the rest
    from dscsr_model.data.teacher_store import OutputsWriter, StoringTeacher

# Takes an iterable, a label and the number of items; hands the items on and shows how far it is.
Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]


class Summary(NamedTuple):
    """What was made."""

    images: int
    pairs: int
    held_out: int
    bytes: Sequence[int]  # of the LMDBs
    seconds: float
    skipped: Sequence[str]  # the faults of broken images
    shortest: int  # side of all HR sub-images
    small: int  # images shorter than the crop
    alpha: int  # images that had it
    channels: int  # of the LMDBs
    recolored: int  # files that had others
    sixteen_bit: int  # files of which 8 bits are kept
    copies: int  # of held-out images, which are left out
    left_out: Counter[str]  # files that are no images, by kind
    clipped: float  # share of a teacher's values that 16 bits do not reach


def no_progress(items: Iterable[Any], label: str, total: int) -> Iterable[Any]:
    """Show nothing."""
    return items


def prepare(
    job: PrepareJob,
    progress: Progress = no_progress,
    teacher: StoringTeacher | None = None,
    sharing: Sharing = BY_ITSELF,
) -> Summary:
    """Make the pair of LMDBs, and the outputs of ``teacher``. Nothing half-made is left.

    Of several ranks, the first one calls this and the others `help_prepare`; what the teacher has made then stays until
    all is there (`teacher_parts`).

    Raises:
        DscsrError: Faulty input, a full disk, LMDBs that are there already.
    """
    # They take longer to import than all the rest.
    if teacher is not None:
        from dscsr_model.data.prepare_shared import begin
        from dscsr_model.data.teacher_parts import join_parts, remove_parts

    start = time.perf_counter()
    job.check()
    names, left_out = search_images(job.gt)
    keys = keys_of(names)
    files: list[tuple[Path, ...]] = [(job.gt / name,) for name in names]
    if job.lq is not None:
        try:
            lr_names, others = search_images(job.lq)
            pairs, left_out = pair(names, lr_names, job.scale), left_out + others
        except DataError as error:
            raise DataError(f"{error} Without --lq, LR images are made.") from error
        files = [(job.gt / name, job.lq / pairs[name]) for name in names]
    targets = [target.name for target in (*job.targets, *(job.validation if job.hold_out else ()))]
    with atomic_folder(job.out, targets, job.force) as folder, worker_pool(min(job.workers, len(files))) as pool:
        headers = progress(pool.in_order(_read_headers, files), "checking", len(files))
        tasks, broken = _plan(job, keys.values(), files, headers)
        held, copies = hold_out({task.key: task.hr for task in tasks}, job.hold_out)
        tasks = [task._replace(held_out=task.key in held) for task in tasks if task.key not in copies]
        read = [header for task in tasks for header in task.headers]
        channels = 1 if job.color == "gray" or (job.color == "auto" and all(header.gray for header in read)) else 3
        if teacher is not None:
            teacher.check(job.scale, channels)
        _check_room(job, channels, tasks)
        results = pool.in_order(partial(make, job, channels), tasks, partial(_memory, job), free_ram())
        made = progress(results, "preparing", len(tasks))
        parts = None
        if teacher is not None:
            parts = begin(sharing, job, teacher, channels, tasks, folder)
        to = nullcontext() if teacher is None else teacher.writer(folder / job.targets[2].name)
        with disk_errors(job.out), to as outputs:
            counts = _write(job, folder, tasks, made, broken, outputs if parts is None else None)
            if outputs is not None:
                if parts is not None:
                    join_parts(outputs, parts())
                outputs.finish(folder / job.targets[1].name)
    if teacher is not None:
        remove_parts(job.out, job.scale)
        sharing.team.decide(lambda: None)  # the others may end
    trained = [task for task in tasks if not task.held_out]
    return Summary(
        *counts,
        bytes=[(target / "data.mdb").stat().st_size for target in job.targets],
        seconds=time.perf_counter() - start,
        skipped=broken,
        shortest=min(min(window[2:]) for task in trained for window in job.windows(*task.size)) * job.scale,
        small=sum(job.effective_crop > job.scale * min(task.size) for task in trained),
        alpha=sum(task.headers[0].alpha for task in tasks),
        channels=channels,
        recolored=sum(header.gray != (channels == 1) for header in read),
        sixteen_bit=sum(header.sixteen_bit for header in read),
        copies=len(copies),
        left_out=left_out,
        clipped=0.0 if outputs is None else outputs.share,
    )


def _read_headers(files: tuple[Path, ...]) -> list[Header | str]:
    """Of an image's files, or what is wrong with them."""
    return [header_or_fault(file) for file in files]


def header_or_fault(file: Path) -> Header | str:
    """What a file says of its image, or what is wrong with it."""
    try:
        return read_header(file)
    except ImageError as error:
        return str(error)


def _plan(
    job: PrepareJob, keys: Iterable[str], files: Iterable[tuple[Path, ...]], headers: Iterable[list[Header | str]]
) -> tuple[list[Task], list[str]]:
    """Tasks of the images that can be used, and the faults of the others, once all can be made into pairs."""
    tasks: list[Task] = []
    broken: list[str] = []
    unfitting: list[str] = []
    for key, (hr, *lr), found in zip(keys, files, headers, strict=True):
        faults = [each for each in found if isinstance(each, str)]
        if faults:
            broken += faults
            continue
        read = tuple(each for each in found if isinstance(each, Header))
        sizes = [header[:2] for header in read]
        size = common_size(sizes[0], sizes[1] if lr else None, job.scale)
        if size is None:
            unfitting.append(f"{hr.name} {sizes[0]} with {lr[0]} {sizes[1]}")
            continue
        task = Task(key, hr, lr[0] if lr else None, size, read)
        try:
            if 0 in size:
                raise ImageError(f"{sizes[0][0]}×{sizes[0][1]} pixels, too small for ×{job.scale}")
            # First the pixels alone: the sub-images of what only claims its size cannot be counted.
            check_memory(sum(map(decoding_memory, read)), *sizes[0])
            check_memory(_memory(job, task), *sizes[0])
        except ImageError as error:
            broken.append(f"{hr}: {error}")
        else:
            tasks.append(task)
    if unfitting:
        remedy = f"Give the LR folder and --scale that belong to {job.gt}."
        expected = f"HR images {job.scale} times as large as their LR images (height, width)"
        raise DscsrError(expected, listed(unfitting, "pair"), remedy)
    _check_broken(job, broken, bool(tasks))
    return tasks, broken


def _check_broken(job: PrepareJob, broken: Sequence[str], some_are_whole: bool = True) -> None:
    if broken and job.strict:
        remedy = "Replace or remove them, or leave out --strict to skip them."
        raise DscsrError("only whole images (--strict)", listed(broken, "image"), remedy)
    if not some_are_whole:
        raise DscsrError(f"images in {job.gt}", f"none that can be used: {listed(broken, 'image')}")


def _memory(job: PrepareJob, task: Task) -> int:
    """Bytes of RAM for an image, its sub-images, and their copies on the way from a worker to the disk."""
    degrading = 40 * task.size[0] * task.size[1] if job.degrade else 0  # three copies in float32, and the last
    return sum(map(decoding_memory, task.headers)) + 2 * _pixel_bytes(job, 3, [task]) + degrading


def _pixel_bytes(job: PrepareJob, channels: int, tasks: Iterable[Task]) -> int:
    """Of all sub-images, HR and LR, and what a teacher makes of them in 16 bits."""
    shapes = (window for task in tasks for window in job_of(job, task).windows(*task.size))
    return (
        channels * sum(window.height * window.width for window in shapes) * (job.scale**2 * (1 + 2 * job.teacher) + 1)
    )


def _check_room(job: PrepareJob, channels: int, tasks: Iterable[Task]) -> None:
    """Raw pixels take a known room."""
    needed, free = _pixel_bytes(job, channels, tasks), shutil.disk_usage(job.out).free
    if job.image_format == "raw" and needed > free:
        remedy = "Free some space, choose another --out, or take --format png."
        expected = f"{needed / 2**30:.1f} GiB of free disk for the pixels"
        raise DscsrError(expected, f"{free / 2**30:.1f} GiB", remedy, job.out)


def _write(
    job: PrepareJob,
    folder: Path,
    tasks: Sequence[Task],
    made: Iterable[Pieces],
    broken: list[str],
    outputs: OutputsWriter | None,
) -> tuple[int, int, int]:
    """Write all that is made into ``folder``; the numbers of images, pairs, and images held out.

    Faults of broken images go to ``broken``. A teacher sees whole images: what it makes of them is cut as they are.
    """
    images, pairs, held_out = 0, 0, 0
    gt_path, lq_path = (folder / target.name for target in job.targets[:2])
    with LmdbWriter(gt_path) as gt, LmdbWriter(lq_path) as lq:
        for task, result in zip(tasks, made, strict=True):
            if result.fault:
                broken.append(result.fault)
                _check_broken(job, broken)
            elif task.held_out:
                for target, (entry,) in zip(job.validation, (result.gt, result.lq), strict=True):
                    (folder / target.name).mkdir(exist_ok=True)
                    (folder / target.name / file_name(entry.key)).write_bytes(entry.value)
                held_out += 1
            else:
                gt.add(result.gt)
                lq.add(result.lq)
                if outputs is not None and (seen := result.for_teacher(job, task)) is not None:
                    outputs.add_output(*seen)
                images, pairs = images + 1, pairs + len(result.gt)
        _check_broken(job, broken, images > 0 and held_out >= min(1, job.hold_out))
    return images, pairs, held_out

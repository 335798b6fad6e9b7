"""`prepare` with a teacher that several ranks run: the first one makes the pairs, and joins what all have made."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from dscsr_model.data.pieces import Seen, Task, make
from dscsr_model.data.prepare_job import PrepareJob
from dscsr_model.data.teacher_parts import Outputs, check_room, make_parts
from dscsr_model.data.teacher_store import BYTES, StoringTeacher
from dscsr_model.shared_work import Sharing


class _Images(NamedTuple):
    """What ranks must know to run a teacher on the images of a job."""

    tasks: list[Task]
    channels: int
    source: str

    def outputs(self, job: PrepareJob) -> Outputs:
        value = BYTES * self.channels * job.scale**2
        areas = [sum(part.height * part.width for part in job.windows(*task.size)) for task in self.tasks]

        def load(index: int) -> Seen | None:
            task = self.tasks[index]
            return make(job, self.channels, task).for_teacher(job, task)

        return Outputs(load, [value * area for area in areas], self.source)


def begin(
    sharing: Sharing, job: PrepareJob, teacher: StoringTeacher, channels: int, tasks: Sequence[Task], folder: Path
) -> Callable[[], list[Path]] | None:
    """Let the other ranks begin; gives what rank 0 calls to help them, and to have all parts.

    None if the process is alone, and no others have left parts.

    Raises:
        DscsrError: ``folder`` has no room.
    """
    seen = [task for task in tasks if not task.held_out]
    files = [file for task in seen for file in (task.hr, task.lr) if file is not None]
    stamps = [(stat.st_size, stat.st_mtime_ns) for stat in (file.stat() for file in files)]
    said = repr((job.scale, job.crop_size, job.step, job.thresh_size, job.degrade, channels, seen, stamps))
    images = sharing.team.decide(lambda: _Images(seen, channels, hashlib.sha256(said.encode()).hexdigest()))
    outputs = images.outputs(job)
    parts = outputs.folder(teacher, job.out)
    if sharing.team.size == 1 and not parts.exists():
        return None
    check_room(sum(outputs.bytes), parts, folder)
    return partial(make_parts, sharing, parts, teacher, outputs)


def help_prepare(job: PrepareJob, teacher: StoringTeacher, sharing: Sharing) -> None:
    """What the other ranks do, from there to the end of rank 0's `prepare`."""
    outputs: Outputs = sharing.team.learn().outputs(job)
    make_parts(sharing, outputs.folder(teacher, job.out), teacher, outputs)
    sharing.team.learn()

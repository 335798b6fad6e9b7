"""What a teacher makes of the images of an LMDB that is there, stored beside it; by one process or by several ranks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dscsr_model.data.lmdb_store import LmdbReader
from dscsr_model.data.pieces import Seen
from dscsr_model.data.prepare_job import SubImage, outputs_lmdb
from dscsr_model.data.teacher_parts import Outputs, check_room, join_parts, make_parts, remove_parts
from dscsr_model.data.teacher_store import BYTES, StoringTeacher, fingerprint
from dscsr_model.files import atomic_folder, disk_errors
from dscsr_model.shared_work import BY_ITSELF, Sharing


class Stored(NamedTuple):
    """What was stored: the LMDB, its images, the share of values beyond 16 bits, and whether LQ are sub-images."""

    path: Path
    images: int
    clipped: float
    parts: bool


def store_outputs(
    lq_path: Path, out: Path, teacher: StoringTeacher, force: bool, sharing: Sharing = BY_ITSELF
) -> Stored:
    """Store what a teacher makes of each image of an LMDB that is there, in ``out``; all ranks call it.

    One process alone leaves nothing half-made. Of several, what each has made stays until all is there
    (`teacher_parts`), and a process alone goes on with that as well.

    Raises:
        DscsrError: It is no LMDB, or not of images that the teacher takes; a full disk; outputs that are there already.
    """
    lq, scale, team = LmdbReader(lq_path), teacher.record.scale, sharing.team
    sizes = (BYTES * scale**2 * lq.shapes().astype(np.int64).prod(1)).tolist()
    for channels in {int(each) for each in lq.shapes()[:, 2]}:
        teacher.check(scale, channels)

    def load(index: int) -> Seen:
        with lq.pixels(index) as image:
            return lq.name(index), image.copy(), [(lq.name(index), SubImage(0, 0, *image.shape[:2]))]

    outputs = Outputs(load, sizes, fingerprint(lq))
    parts = outputs.folder(teacher, out)
    if team.rank > 0:
        make_parts(sharing, parts, teacher, outputs)
        learned: Stored = team.learn()
        return learned
    name = outputs_lmdb(out, scale).name
    with atomic_folder(out, [name], force) as folder, disk_errors(out), teacher.writer(folder / name) as to:
        shared = team.size > 1 or parts.exists()
        check_room(sum(sizes), parts if shared else None, folder)
        if shared:
            join_parts(to, make_parts(sharing, parts, teacher, outputs))
        else:
            with sharing.bar("teacher", len(lq)) as bar:
                for index in range(len(lq)):
                    to.add_output(*load(index))
                    bar.update(1)
        to.finish(lq_path)
    remove_parts(out, scale)
    are_parts = any(re.search(r"_s0*2$", key) for key in lq.keys)  # as `dscsr prepare` and BasicSR name them
    stored = Stored(out / name, len(lq), to.share, are_parts)
    return team.decide(lambda: stored)

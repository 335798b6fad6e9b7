"""A teacher's outputs made by several ranks, or in several runs: each writes parts aside, and rank 0 joins them.

A part is an LMDB of some images that follow each other, in ``OUT/.TEACHER_X4.<digest>.parts``: whole or not there, and
no file has two writers. The digest is that of the teachers and of the images, so that a run that was killed goes on
where it was, with any number of ranks, and outputs of anything else are never taken for these.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from itertools import accumulate, groupby
from pathlib import Path
from typing import NamedTuple

from dscsr_arch.errors import DiskError, DscsrError
from dscsr_model.data.lmdb_store import LmdbReader
from dscsr_model.data.pieces import Seen
from dscsr_model.data.teacher_store import OutputsWriter, StoringTeacher
from dscsr_model.files import atomic_folder
from dscsr_model.shared_work import Sharing

LARGEST, MOST = 64 << 20, 64
"""Bytes of a part, about; and there are so many at least, if there are as many images."""
_LISTED_AFTER = 120.0
"""Seconds until a network file system shows what another machine has written: its clients remember for a minute."""


class Outputs(NamedTuple):
    """What a teacher is to see."""

    load: Callable[[int], Seen | None]
    """An image by its number: as `OutputsWriter.add_output` takes it; None of one that is broken."""
    bytes: Sequence[int]
    """Of each image's outputs."""
    source: str
    """The same for the same images alone."""

    def folder(self, teacher: StoringTeacher, out: Path) -> Path:
        """The folder of their parts."""
        said = f"{teacher.record.model_dump_json()} {self.source} {self.bytes}"
        return out / f".TEACHER_X{teacher.record.scale}.{hashlib.sha256(said.encode()).hexdigest()[:12]}.parts"


def make_parts(sharing: Sharing, folder: Path, teacher: StoringTeacher, outputs: Outputs) -> list[Path]:
    """Make what is missing in ``folder``; all ranks call it. Gives rank 0 all parts, in the order of the images.

    Raises:
        DscsrError: The teacher fails, or a rank has ended; what is whole stays.
    """
    team, numbers = sharing.team, _divided(outputs.bytes)
    names = [f"{number:05d}.lmdb" for number in range(len(numbers))]
    there = team.decide(lambda: _listed(folder))
    missing = [number for number, name in enumerate(names) if name not in there]
    fault, total = "", sum(len(numbers[number]) for number in missing)
    with sharing.bar("teacher", total) as shown:
        bar = team.bar(shown)
        try:
            for number in team.claim(missing):
                name = names[number]
                with atomic_folder(folder, [name], replace=True) as aside, teacher.writer(aside / name) as writer:
                    for index in numbers[number]:
                        if (seen := outputs.load(index)) is not None:
                            writer.add_output(*seen)
                        bar.update(1)
        except DscsrError as error:
            fault = str(error) if team.size == 1 else f"rank {team.rank}: {error}"
        faults = team.gather(fault)
    if team.rank > 0:
        return []  # what has gone wrong, rank 0 tells
    if said := [words for words in faults if words]:
        raise DscsrError("\n".join(said))
    if gone := [str(rank) for rank, words in enumerate(faults) if words is None]:
        remedy = "Start the same command again: it makes what is missing."
        raise DscsrError("all ranks to go on", f"no sign of life of rank {', '.join(gone)}", remedy)
    return [folder / name for name in names]


def join_parts(writer: OutputsWriter, parts: Sequence[Path]) -> None:
    """Add all that is in the parts, in their order, to the LMDB that is written."""
    folder, until = parts[0].parent, time.monotonic() + _LISTED_AFTER
    while lost := {part.name for part in parts} - _listed(folder):
        if time.monotonic() > until:
            remedy = "Is it a folder that all machines see? Then start the same command again."
            raise DiskError(f"{len(parts)} parts in {folder}", f"{len(lost)} fewer", remedy)
        time.sleep(1)
    for part in parts:
        writer.add_all(LmdbReader(part))


def remove_parts(out: Path, scale: int) -> None:
    """Those of this run, and of others that were given up."""
    for folder in out.glob(f".TEACHER_X{scale}.*.parts"):
        shutil.rmtree(folder, ignore_errors=True)


def check_room(needed: int, parts: Path | None, folder: Path) -> None:
    """Raise `DscsrError` unless ``folder`` has room for so many bytes of outputs, and for parts that are not there."""
    if parts is not None:
        needed = 2 * needed - sum(file.stat().st_size for file in parts.glob("*.lmdb/data.mdb"))
    if needed > (free := shutil.disk_usage(folder).free):
        expected = f"{needed / 2**30:.1f} GiB of free disk for the outputs"
        got, remedy = f"{free / 2**30:.1f} GiB", "Free some space, or choose another --out."
        raise DscsrError(expected, got, remedy, folder.parent.parent)


def _listed(folder: Path) -> set[str]:
    """What is there. A folder that is opened anew is also asked for anew by clients of NFS."""
    return {*os.listdir(folder)} if folder.is_dir() else set()


def _divided(sizes: Sequence[int]) -> list[list[int]]:
    """The numbers of the images of each part, which follow from the images alone."""
    limit = min(LARGEST, sum(sizes) // MOST + 1)
    ends = accumulate(sizes)
    of_part = [(end - size) // limit for end, size in zip(ends, sizes, strict=True)]
    return [list(group) for _, group in groupby(range(len(sizes)), of_part.__getitem__)]

"""Build aside, then rename: a folder has its final name only when all of it is on the disk.

A killed process leaves its half-made folder under the temporary name, where nobody takes it for finished; the next
process that claims that name starts with an empty folder.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from dscsr_arch.disk import disk_errors
from dscsr_arch.errors import BusyError, DiskError


@contextmanager
def built_together(out: Path, names: Sequence[str], replace: bool) -> Iterator[Path]:
    """Build folders named ``names`` that appear in ``out`` together, when the block ends without an exception.

    From the first rename on, the next caller would complete what a kill interrupts.

    Args:
        out: Made if it is missing; removed again if it is empty in the end.
        names: What the block makes in the folder that it is given.
        replace: Replace those that are in ``out``. They stay until the new ones are on the disk.

    Raises:
        DiskError: A name is taken, and ``replace`` is not set; or the disk is full.
        BusyError: Another process is building in ``out``.
    """
    temporary = out / "prepare.tmp"
    building, whole = temporary / "building", temporary / "whole"
    with disk_errors(out):
        created = not out.exists()
        handle = claim(temporary, keep=whole.name)
    try:
        with disk_errors(out):
            _move(whole, out)  # a run that was killed had got this far
            _check_free(out, names, replace)
            building.mkdir()
        yield building
        with disk_errors(out):
            _check_free(out, names, replace)
            rename(building, whole)
            _move(whole, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(handle)
        if created:
            with suppress(OSError):
                out.rmdir()


def _check_free(out: Path, names: Sequence[str], replace: bool) -> None:
    there = [str(out / name) for name in names if (out / name).exists()]
    if there and not replace:
        raise DiskError(
            f"Expected to write something new, but {' and '.join(there)} exist{'s' if len(there) == 1 else ''}. "
            "Pass --force to replace, or choose another --out."
        )


def _move(whole: Path, out: Path) -> None:
    """Move all that is in ``whole`` to ``out``, in place of what is there. Interrupted, it can be repeated."""
    if not whole.exists():
        return
    for new in sorted(whole.iterdir()):
        target = out / new.name
        if new.suffix == ".old":
            continue
        if target.exists():
            os.rename(target, whole / f"{new.name}.old")
        rename(new, target)
    shutil.rmtree(whole)


def claim(folder: Path, keep: str | None = None) -> int:
    """Make ``folder`` an empty folder that belongs to this process.

    What a killed process left there is removed, but for an entry named ``keep``.

    Returns:
        A descriptor to close when the folder has got its final name or was removed. Until then, or until this
        process ends in whatever way, no other process can claim the folder.

    Raises:
        BusyError: A living process holds it.
        OSError: The folder cannot be made or emptied.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise BusyError(
                f"Expected to be alone in {folder.parent}, but another process is writing to {folder}. "
                "Wait for it, or choose another folder."
            ) from None
        except OSError:
            pass  # some network file systems have no locks
        if folder.exists() and os.path.samestat(os.fstat(handle), folder.stat()):
            break
        os.close(handle)  # its owner has just renamed or removed it: what we hold is not ``folder`` any more
    for leftover in folder.iterdir():
        if leftover.name != keep:
            remove(leftover)
    return handle


def remove(path: Path) -> None:
    """Remove a file or a whole folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def rename(source: Path, target: Path) -> None:
    """Give ``source`` its final name, so that it still has it after a power failure. ``target`` must not exist."""
    os.rename(source, target)
    sync(target.parent)
    if source.parent != target.parent:
        sync(source.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

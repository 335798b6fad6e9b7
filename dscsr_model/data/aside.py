"""Build aside, then rename: a folder has its final name only when all of it is on the disk.

A killed process leaves its half-made folder under the temporary name, where nobody takes it for finished; the next
process that claims that name starts with an empty folder.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

from dscsr_arch.errors import DscsrError


class BusyError(DscsrError):
    """Another process is building in the same place."""


def claim(folder: Path) -> int:
    """Make ``folder`` an empty folder that belongs to this process.

    What a killed process left there is removed.

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

"""Files and folders that are whole or not there, locks, and what a disk says against writing, told in one message.

What is written is built in a hidden folder beside its place, brought to the disk, and renamed. Whatever ends a process
leaves nothing half-made under a final name; what a kill leaves in the hidden folder, the next writer removes.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from dscsr_arch.errors import BusyError, DiskError, DscsrError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What a disk says that takes no more. LMDB reports a write that was cut short as an input/output error."""

REFUSED = (*FULL, errno.EROFS)
"""What nothing but a disk says, whoever wanted to write."""


@contextmanager
def atomic(path: str | os.PathLike[str], *, replace: bool = True) -> Iterator[BinaryIO]:
    """A file to write, which gets its name when the block ends without an exception and everything is on the disk.

    Who can only write by name takes the stream's ``name``. A link is replaced, not followed; see `atomic_folder`.
    """
    path = Path(path)
    with (
        disk_errors(path),
        atomic_folder(path.parent, [path.name], replace) as folder,
        open(folder / path.name, "wb") as stream,
    ):
        yield stream


@contextmanager
def atomic_folder(out: Path, names: Sequence[str], replace: bool) -> Iterator[Path]:
    """Build files or folders ``names`` that appear in ``out`` together, when the block ends without an exception.

    From the first rename on, the next caller would complete what a kill interrupts.

    Args:
        out: Made if it is missing; removed again if it is empty in the end.
        names: What the block makes in the folder that it is given. Anything else in there is removed.
        replace: Replace those that are in ``out``. They stay until the new ones are on the disk.

    Raises:
        DiskError: A name is taken, and ``replace`` is not set; or the disk is full, or refuses.
        BusyError: Another process is building the same.
    """
    hidden = out / f".{names[0]}.tmp"
    building, whole = hidden / "building", hidden / "whole"
    new_folders = [folder for folder in (out, *out.parents) if not folder.exists()]
    with disk_errors(out):
        handle = _claim(hidden, keep=whole.name)
    try:
        with disk_errors(out):
            _move(whole, out)  # a run that was killed had got this far
            _check_free(out, names, replace)
            building.mkdir()
        yield building
        with disk_errors(out):
            _check_free(out, names, replace)
            for path in set(building.iterdir()) - {building / name for name in names}:
                _remove(path)
            _sync_all(building)
            os.rename(building, whole)
            _move(whole, out)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        os.close(handle)
        with suppress(OSError):
            for folder in new_folders:  # the innermost first
                folder.rmdir()


def check_new(path: Path, replace: bool) -> None:
    """Raise `DscsrError` unless a file can be written there, before the work that it takes to know its content."""
    if not path.parent.is_dir():
        raise DscsrError(f"a folder to write {path.name} into", f"`{path.parent}`, which is none", "Make it first.")
    if not os.access(path.parent, os.W_OK):
        what = f"a folder to write {path.name} into"
        raise DscsrError(what, f"`{path.parent}`, which is not writable", "Choose another.")
    if path.exists() and not (replace and path.is_file()):
        raise DscsrError("a new file", f"`{path}`, which exists", "Add --force to replace it, or choose another.")


def tidy(path: Path) -> None:
    """Remove what a killed process has left beside ``path``, which is there, unless another one is writing it now."""
    if path.with_name(f".{path.name}.tmp").exists():
        with suppress(BusyError, DiskError), atomic_folder(path.parent, [path.name], replace=False):
            pass  # not reached: the name is taken


def remove_unfinished(*folders: Path) -> None:
    """Remove what killed processes have left in folders in which nobody writes now."""
    for folder in folders:
        for leftover in folder.glob(".*.tmp"):
            _remove(leftover)


@contextmanager
def disk_errors(path: Path, *kinds: type[Exception]) -> Iterator[None]:
    """Turn what the operating system says against ``path``, which the user has named, into a `DiskError`.

    Of nested contexts the outermost one's path counts. ``kinds`` are exceptions that tell the same as OSError.
    """
    told: tuple[type[Exception], ...] = (OSError, DiskError, *kinds)
    try:
        yield
    except told as error:
        said = error.__cause__ if isinstance(error, DiskError) else error
        if said is None:
            raise
        raise explain(said, path) from said


def for_the_user(error: BaseException) -> DscsrError | None:
    """The error whose message is all that a user wants to see of ``error``; None for one whose traceback matters."""
    if isinstance(error, DscsrError):
        return error
    if isinstance(error, OSError) and error.errno in REFUSED:
        # From where no writer of ours stands: BasicSR's folders, TensorBoard.
        return explain(error, Path(error.filename or "what this command writes"))
    return None


def explain(error: BaseException, path: Path) -> DiskError:
    """What an error of the operating system means for ``path``, and what to do."""
    if getattr(error, "errno", getattr(error, "code", None)) not in FULL:
        return DiskError(f"to write {path}", error, "Choose another folder.")
    free = shutil.disk_usage(next(parent for parent in path.absolute().parents if parent.exists())).free
    remedy = "Nothing of it is kept. Free some space, or choose a folder on another disk."
    return DiskError(f"room on the disk for {path}", f"{error} ({free / 2**30:.2f} GiB free)", remedy)


def _claim(folder: Path, keep: str) -> int:
    """Make ``folder`` an empty folder that belongs to this process, but for an entry named ``keep``.

    Until the descriptor is closed, or this process ends in whatever way, no other can claim it.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # its owner has just removed it
            handle = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
            if not _lock(handle):
                os.close(handle)
                got = f"one that is writing {folder.name.removeprefix('.').removesuffix('.tmp')}"
                raise BusyError(f"no other process in {folder.parent}", got, "Wait for it, or choose another folder.")
            if folder.exists() and os.path.samestat(os.fstat(handle), folder.stat()):
                break
            os.close(handle)  # removed, and what is there now is another's
    for leftover in folder.iterdir():
        if leftover.name != keep:
            _remove(leftover)
    return handle


def _lock(handle: int) -> bool:
    import filelock  # here: `dscsr --help` waits for nothing

    try:
        return filelock.lock_descriptor(handle, blocking=False)
    except OSError:
        return True  # some network file systems have no locks


def _check_free(out: Path, names: Sequence[str], replace: bool) -> None:
    there = [str(out / name) for name in names if os.path.lexists(out / name)]
    if there and not replace:
        got = f"{' and '.join(there)}, which exist{'s' if len(there) == 1 else ''}"
        raise DiskError("something new to write", got, "Pass --force to replace, or choose another place.")


def _move(whole: Path, out: Path) -> None:
    """Move all that is in ``whole`` to ``out``, in place of what is there. Interrupted, it can be repeated."""
    if not whole.exists():
        return
    for new in sorted(whole.iterdir()):
        target, old = out / new.name, whole.with_name(f"{new.name}.old")
        try:
            if target.is_dir():  # which nothing replaces in one step
                os.rename(target, old)
            os.replace(new, target)
        except BaseException:
            if old.exists() and not target.exists():
                os.rename(old, target)
            raise
    _sync(out)
    shutil.rmtree(whole)


def _sync_all(folder: Path) -> None:
    """Wait until everything in a folder is on the disk."""
    for parent, _, files in os.walk(folder):
        for name in files:
            _sync(Path(parent, name))
        _sync(Path(parent))


def _sync(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()

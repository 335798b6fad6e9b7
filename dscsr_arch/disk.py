"""Files that are whole or not there, and what a disk says against writing them, told to the user in one message."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from dscsr_arch.errors import DiskError, DscsrError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What a disk says that takes no more. LMDB reports a write that was cut short as an input/output error."""


REFUSED = (*FULL, errno.EROFS)
"""What nothing but a disk says, whoever wanted to write."""


@contextmanager
def disk_errors(path: Path, *kinds: type[Exception]) -> Iterator[None]:
    """Turn what the operating system says against ``path`` into a message for the user.

    Args:
        path: What the user has named. Of nested contexts the outermost one's counts.
        *kinds: Exceptions beside OSError that tell the same, by an ``errno`` or ``code``.
    """
    told: tuple[type[Exception], ...] = (OSError, DiskError, *kinds)
    try:
        yield
    except told as error:
        said = error.__cause__ if isinstance(error, DiskError) else error
        if said is None:
            raise
        raise DiskError(explain(said, path)) from said


def for_the_user(error: BaseException) -> DscsrError | None:
    """The error whose message is all that a user wants to see of ``error``; None for one whose traceback matters."""
    if isinstance(error, DscsrError):
        return error
    if isinstance(error, OSError) and error.errno in REFUSED:
        # From where no writer of ours stands: BasicSR's folders, TensorBoard.
        return DiskError(explain(error, Path(error.filename or "what this command writes")))
    return None


def explain(error: BaseException, path: Path) -> str:
    """What an error of the operating system means for ``path``, and what to do."""
    if getattr(error, "errno", getattr(error, "code", None)) not in FULL:
        return f"Expected to write {path}, but got: {error}. Choose another folder."
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    return (
        f"Expected room on the disk for {path}, but it takes no more ({error}; "
        f"{shutil.disk_usage(folder).free / 2**30:.2f} GiB free). Nothing of it is kept. "
        "Free some space, or choose a folder on another disk."
    )


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write, which gets its name, in place of an older one, when the block has ended and it is on the disk.

    Raises:
        DiskError: It cannot be written. What was there before still is.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise

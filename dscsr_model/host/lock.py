"""One training at a time in an experiment: a second one would archive, or write into, the folder of the first."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any

import filelock
from torch import distributed

from dscsr_arch.errors import BusyError
from dscsr_model.files import disk_errors

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # some clusters' network file systems


def lock_experiment(opt: dict[str, Any]) -> filelock.BaseFileLock:
    """Take the experiment for this run, before BasicSR touches its folder. A process that ends, however, gives it back.

    The file is beside the folder, which BasicSR may rename. Rank 0 holds it; the others learn whether it does. A file
    system without locks is told of, and the run goes on: a marker in place of a lock would outlive a kill.

    Raises:
        BusyError: On every rank.
        DiskError: The folder of experiments cannot be written to.
    """
    folder = Path(opt["path"]["experiments_root"])
    lock = filelock.FileLock(folder.with_name(f".{folder.name}.lock"), fallback_to_soft=False)
    alone = [opt["rank"] != 0 or _acquired(lock, folder)]
    if opt["dist"]:
        distributed.broadcast_object_list(alone)
    if not alone[0]:
        raise BusyError(
            f"no other training in {folder}",
            f"one named {folder.name} that is running there",
            "Wait for it, stop it, or give this one another `name:`.",
        )
    return lock


def _acquired(lock: filelock.BaseFileLock, folder: Path) -> bool:
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            why = f"the file system of {folder.parent} has no locks ({error.strerror})"
            print(f"dscsr: a second training named {folder.name} would not be noticed: {why}.", file=sys.stderr)
    return True

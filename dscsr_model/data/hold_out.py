"""Which photographs validate a training and are not trained on."""

from __future__ import annotations

import filecmp
import hashlib
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from dscsr_arch.errors import DataError

_LONGEST_NAME = 200  # of 255 bytes that file systems take: validation adds the run's name and an iteration


def hold_out(files: Mapping[str, Path], count: int) -> tuple[set[str], set[str]]:
    """Keys of ``count`` photographs to hold out, and those of exact copies of them, not to be trained on either.

    A hash of the key decides: the choice is a random one, but the same on every machine and for every scale, and each
    photograph that is added to a folder later changes at most one of it.

    Raises:
        DataError: Nothing would be left to train on.
    """
    if not count:
        return set(), set()
    held = set(sorted(files, key=_digest)[:count])
    by_size: dict[int, list[Path]] = defaultdict(list)
    for key in held:
        by_size[files[key].stat().st_size].append(files[key])
    copies = {
        key
        for key in files.keys() - held
        if any(filecmp.cmp(files[key], other, shallow=False) for other in by_size[files[key].stat().st_size])
    }
    if len(held) + len(copies) >= len(files):
        got = f"--hold-out {count} of {len(files)} that can be used"
        got += f", of which {len(copies)} are copies of those" if copies else ""
        raise DataError("images that are left for training", got, "Hold out fewer.")
    return held, copies


def file_name(key: str) -> str:
    """Of the PNG of a held-out image: its key, or the start of a long one and what tells it from others."""
    return f"{key if len(key) <= _LONGEST_NAME else f'{key[: _LONGEST_NAME - 17]}_{_digest(key)}'}.png"


def _digest(key: str) -> str:
    return hashlib.blake2b(key.encode(), digest_size=8).hexdigest()

"""Which files belong together: images found in a folder, the keys they get, and the LR image of each HR image."""

from __future__ import annotations

import os
import re
import string
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from dscsr_arch.errors import DataError
from dscsr_arch.words import many
from dscsr_model.data.image_io import SUFFIXES

# What data sets add to a name beside the image's own: a kind, and a scale (`baby_LRBI_x4`, `0001x4`).
_KIND = r"(?:HR|GT|LR|LQ|LRBI|LRBD|LRDN|LR_?bicubic|LRbic)"
_ADDED_AT_END = re.compile(rf"(?P<name>.+?)(?:[_-]{_KIND})?(?:[_-]?x(?P<scale>[2-9]))?", re.IGNORECASE)
_FOLDER_OF_KIND = re.compile(rf"{_KIND}?_?(?:x(?P<scale>[2-9]))?", re.IGNORECASE)
_PLAIN = string.ascii_letters + string.digits + "!#$&'()+,-;=@[]^_`{}~"

_LONGEST_KEY = 500  # LMDB's limit is 511, and the number of a sub-image follows


def find_images(folder: str | Path) -> list[str]:
    """The images of `search_images`."""
    return search_images(folder)[0]


def search_images(folder: str | Path) -> tuple[list[str], Counter[str]]:
    """All images in a folder and in those inside, as sorted relative paths; and how many other files, by kind.

    Hidden ones are left out. However many links lead to a folder, it is searched once, by its own path if that is
    inside.

    Raises:
        DataError: No such folder, no image in it, or a folder that cannot be read.
    """
    if not os.path.isdir(folder):
        raise DataError("a folder of images", f"{folder}, which is none", "Correct the path.")
    found = []
    others: Counter[str] = Counter()
    for path, is_file in _walk(folder):
        suffix = os.path.splitext(path)[1].lower()
        if not is_file and os.path.exists(path):
            others["pipe or device"] += 1  # nobody should wait for what comes out of it
        elif suffix in SUFFIXES:  # a broken link is an image that fails
            found.append(os.path.relpath(path, folder))
        else:
            others[suffix or "without a suffix"] += 1
    if not found:
        inside = f"only {listed_kinds(others)}" if others else "nothing"
        raise DataError(f"images ({', '.join(SUFFIXES)}) in {folder}", inside, "Correct the path.")
    return sorted(found), others


def listed_kinds(others: Counter[str]) -> str:
    """``3 .gif, 1 .txt``, the most frequent first."""
    return ", ".join(f"{count:,} {kind}" for kind, count in others.most_common())


def left_out(others: Counter[str]) -> list[str]:
    """A line for a summary, if `search_images` has found others."""
    kinds = ", ".join(SUFFIXES)
    return [f"  left out: {listed_kinds(others)} (only {kinds} are read; convert other images)"] if others else []


def _walk(folder: str | Path) -> Iterator[tuple[str, bool]]:
    """Whatever is no folder, in ``folder`` and in those inside, and whether it is a file."""
    waiting, seen = deque([os.fspath(folder)]), set()
    while waiting:
        place = waiting.popleft()
        try:
            status, entries = os.stat(place), sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            remedy = "Change its permissions, or name another folder."
            raise DataError("folders that can be read", error, remedy) from error
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in entries:
            if entry.name.startswith("."):
                continue
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            except OSError:  # a link to itself
                is_folder = is_file = False
            if not is_folder:
                yield entry.path, is_file
            elif entry.is_symlink():
                waiting.append(entry.path)  # what is here by itself comes first
            else:
                waiting.appendleft(entry.path)


def key_of(name: str) -> str:
    """The LMDB key of an image: its relative path without suffix, in ASCII without dots and slashes.

    Letters outside ASCII are percent-encoded (``é`` becomes ``%C3%A9``), so that they stay distinct and readable by
    machines; dots, slashes and spaces, which mean something in BasicSR's lists, become ``_``.
    """
    stem = os.path.splitext(name)[0].replace(os.sep, "_").replace(".", "_").replace(" ", "_")
    return quote(stem, safe=_PLAIN)


def keys_of(names: Iterable[str]) -> dict[str, str]:
    """Key of every image, by its relative path; raises `DataError` where two would get one, or one is too long."""
    by_key: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_key[key_of(name)].append(name)
    too_long = [name for key, (name, *_) in by_key.items() if len(key) > _LONGEST_KEY]
    if too_long:
        expected = f"names of at most {_LONGEST_KEY} characters (one outside ASCII counts as 6 or 9)"
        raise DataError(expected, listed(too_long, "image"), "Rename.")
    clashes = [f"`{key}`: {', '.join(same)}" for key, same in by_key.items() if len(same) > 1]
    if clashes:
        expected = "a key of its own for every image (suffixes are left out; dots, slashes and spaces become `_`)"
        raise DataError(expected, f"one for several: {listed(clashes, 'key')}", "Rename or remove all but one.")
    return {name: key for key, (name,) in by_key.items()}


def pair(hr_names: Sequence[str], lr_names: Sequence[str], scale: int) -> dict[str, str]:
    """Find the LR image of every HR image, both as relative paths.

    Names count without suffix and without what data sets add to them: ``0001.png`` belongs to ``0001x4.png``,
    ``LRBI/x4/0001.png`` and ``x4/0001_LRBI_x4.png``. LR images of another scale are overlooked.

    Raises:
        DataError: An HR image without an LR image, or with several.
    """
    candidates: dict[str, list[str]] = defaultdict(list)
    for name in lr_names:
        own, scales = _own_name(name)
        if scales <= {scale}:
            candidates[own].append(name)
    same_name = {os.path.splitext(name)[0]: [name] for name in lr_names}
    pairs: dict[str, str] = {}
    lost, several = [], []
    for name in hr_names:
        own = os.path.splitext(name)[0]  # which may itself end like an addition
        found = candidates.get(own) or same_name.get(own) or candidates.get(_own_name(name)[0], [])
        if len(found) == 1:
            pairs[name] = found[0]
        elif found:
            several.append(f"{name} ({', '.join(found)})")
        else:
            lost.append(name)
    if lost:
        got = f"none for {listed(lost, 'image')}, of {listed(lr_names, 'image')}"
        remedy = f"Name them alike (0001.png with 0001.png, 0001x{scale}.png or x{scale}/0001.png)."
        raise DataError(f"an LR image ×{scale} for every HR image", got, remedy)
    if several:
        remedy = "Give the folder of one kind and scale."
        raise DataError(f"one LR image ×{scale} for every HR image", f"several for {listed(several, 'image')}", remedy)
    return pairs


def _own_name(name: str) -> tuple[str, set[int]]:
    """A relative path without suffix and additions, and the scales that it names."""
    *folders, stem = os.path.splitext(name)[0].split(os.sep)
    scales, kept = set(), []
    for folder in folders:
        match = _FOLDER_OF_KIND.fullmatch(folder)
        kept += [] if match else [folder]
        scales |= {int(match["scale"])} if match and match["scale"] else set()
    match = _ADDED_AT_END.fullmatch(stem)
    if match:
        stem = match["name"]
        scales |= {int(match["scale"])} if match["scale"] else set()
    return os.sep.join([*kept, stem]), scales


def listed(items: Sequence[str], what: str, most: int = 10) -> str:
    """The first few items, and how many more there are."""
    shown = ", ".join(items[:most])
    return shown if len(items) <= most else f"{shown} and {many(len(items) - most, f'more {what}')}"

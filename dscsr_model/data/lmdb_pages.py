"""Where the values of an LMDB lie in its file, so that a part of one can be read without the rest.

py-lmdb touches every page of a value before it hands out a view of it, and tells the system to read no page ahead: of
a sub-image that is not in memory yet, it fetches all pages, one by one. With the places known, a crop is one read.

The layout is that of LMDB 0.9, data version 1 (``lmdb.h``, ``mdb.c``): pages of one size; two meta pages, of which the
one with the higher transaction number counts; a B+ tree of branch and leaf pages; values too large for a leaf in pages
of their own, in a row. Another version gives no places, and the reader asks LMDB instead.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import NamedTuple

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_HEADER = 16  # bytes before a page's content
_BRANCH, _LEAF, _BIG = 0x01, 0x02, 0x01  # of pages, of pages, of nodes


class Place(NamedTuple):
    """First byte of a value in the file, and its length."""

    offset: int
    length: int


class _Meta(NamedTuple):
    transaction: int
    page_size: int
    root: int
    last_page: int


def value_places(folder: str | Path) -> dict[bytes, Place]:
    """Places in ``data.mdb`` of the values that have pages of their own, by key.

    Args:
        folder: The LMDB's folder.

    Returns:
        Nothing for a file of another version, or one that is truncated or otherwise not what it says.
    """
    with open(Path(folder) / "data.mdb", "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < 2 * _HEADER:
            return {}
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
            try:
                return _walk(data, size)
            except (struct.error, ValueError, IndexError):
                return {}


def _walk(data: mmap.mmap, size: int) -> dict[bytes, Place]:
    first = _read_meta(data, 0)
    meta = max(first, _read_meta(data, first.page_size))
    if (meta.last_page + 1) * meta.page_size > size or meta.root == 2**64 - 1:
        return {}
    places: dict[bytes, Place] = {}
    pages, seen = [meta.root], 0
    while pages:
        start, seen = pages.pop() * meta.page_size, seen + 1
        if seen > meta.last_page:
            raise ValueError("a tree that is none")
        flags, lower = struct.unpack_from("<HH", data, start + 10)
        nodes = struct.unpack_from(f"<{(lower - _HEADER) // 2}H", data, start + _HEADER)
        for node in (start + pointer for pointer in nodes):
            low, high, kind, key_length = struct.unpack_from("<HHHH", data, node)
            if flags & _BRANCH:
                pages.append(low | high << 16 | kind << 32)
            elif flags & _LEAF and kind == _BIG:
                end = node + 8 + key_length
                (page,) = struct.unpack_from("<Q", data, end)
                place = Place(page * meta.page_size + _HEADER, low | high << 16)
                if place.offset + place.length > size:
                    raise ValueError("a value beyond the end of the file")
                places[data[node + 8 : end]] = place
    return places


def _read_meta(data: mmap.mmap, start: int) -> _Meta:
    """The meta page at ``start``; the database of free pages, whose first field is the page size, precedes ours."""
    magic, version = struct.unpack_from("<II", data, start + _HEADER)
    if (magic, version) != (_MAGIC, _VERSION):
        raise ValueError("another version")
    (page_size,) = struct.unpack_from("<I", data, start + _HEADER + 24)
    root, last_page, transaction = struct.unpack_from("<QQQ", data, start + _HEADER + 24 + 48 + 40)
    return _Meta(transaction, page_size, root, last_page)

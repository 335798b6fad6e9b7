"""The image pairs behind a dataset section: which names there are, whether they match, and how large they are.

Reads names, LMDB's ``meta_info.txt`` and image headers, never whole images (but one, to see that it decodes). What does
not serve BasicSR's datasets is raised as `DataError`, the first fault of each path.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from dscsr_arch.errors import DataError, ImageError
from dscsr_model.data.basicsr_pairs import check_keys, existing_folder
from dscsr_model.data.image_io import SUFFIXES, decode_as_basicsr
from dscsr_model.data.lmdb_store import Shape, environment, read_meta
from dscsr_model.options.section import listed

Size = tuple[int, int]  # height, width

MOST_HEADERS = 100  # image headers that are read of a folder; an LMDB tells all sizes at once


@dataclass(frozen=True)
class Images:
    """What is known of the images of a dataset.

    Attributes:
        count: How many images, or pairs, there are.
        sizes: Of the GT and the LQ image of all pairs, or of a sample, by name.
        gray: Whether all are known to have one channel.
    """

    count: int
    sizes: Mapping[str, tuple[Size, Size]] = field(default_factory=dict)
    gray: bool = False


def read_lmdb(path: str, *, encoded: bool) -> dict[str, Shape]:
    """Names and shapes of the images of an LMDB, whose reader may need them ``encoded``."""
    folder = existing_folder(path)
    if not path.endswith(".lmdb"):
        remedy = "Set `io_backend: {type: disk}` for a folder of images, or name the folder something.lmdb."
        if path.rstrip("/").endswith(".lmdb"):
            remedy = "Remove the slash at its end: BasicSR looks at the last letters."
        raise DataError("a folder whose name ends in .lmdb (io_backend is lmdb)", repr(path), remedy)
    shapes = {name: shape for name, (shape, _) in read_meta(folder).items()}
    _check_entries(folder, list(shapes), encoded)
    return shapes


def _check_entries(folder: Path, names: list[str], encoded: bool) -> None:
    """Check that the database holds every name and its first image decodes."""
    how = "--format png` (BasicSR's dataset reads encoded images)" if encoded else "…`"
    remedy = f"Prepare it again with `dscsr prepare {how}."
    try:
        with environment(folder).begin() as transaction:
            lost = [name for name in names if transaction.get(name.encode()) is None]
            first = bytes(transaction.get(names[0].encode())) if names and not lost else None
    except DataError as error:
        if "already open" in str(error.got):  # by the program that called us: so it can be read
            return
        raise
    if foreign := [name for name in names if encoded and not name.isascii()]:
        got = listed(foreign, most=3)
        raise DataError("ASCII names (BasicSR looks up no others)", got, "Rename the images and prepare them again.")
    if lost:
        got = f"{len(lost)} of {len(names)} that are not ({listed(lost, most=3)})"
        raise DataError(f"every image of meta_info.txt in {folder / 'data.mdb'}", got, remedy)
    unchanged = cv2.IMREAD_UNCHANGED
    if first is not None and encoded and decode_as_basicsr(np.frombuffer(first, np.uint8), unchanged) is None:
        got = f"`{names[0]}` of {len(first)} bytes, which is none (raw pixels?)"
        raise DataError(f"encoded images (PNG or JPEG) in {folder}", got, remedy)


def pair_lmdbs(gt: Mapping[str, Shape], lq: Mapping[str, Shape]) -> Images:
    """Pair two LMDBs by name."""
    check_keys(gt.keys(), lq.keys())
    gray = all(shape[2] == 1 for shapes in (gt, lq) for shape in shapes.values())
    return Images(len(gt), {name: (shape[:2], lq[name][:2]) for name, shape in gt.items()}, gray)


def read_sizes(files: Iterable[Path]) -> list[Size | None]:
    """Heights and widths as OpenCV would give them, from the files' headers; None where only OpenCV can tell."""
    return [_read_size(file) for file in files]


def _read_size(file: Path) -> Size | None:
    from PIL import Image, UnidentifiedImageError

    said = f"{file}, which is no image or a broken one"
    try:
        with Image.open(file) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            return (width, height) if turned else (height, width)
    except UnidentifiedImageError:
        if file.suffix.lower() not in SUFFIXES:
            return None
    except Image.DecompressionBombError:
        return None
    except (OSError, ValueError, SyntaxError) as error:
        said = f"{file}: {error}"
    raise ImageError("images that open", said, "Replace or remove it.")

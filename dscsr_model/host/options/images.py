"""The image pairs behind a dataset section: which names there are, whether they match, and how large they are.

Reads names, LMDB's ``meta_info.txt`` and image headers, never whole images (but one, to see that it decodes).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dscsr_arch.errors import DataError
from dscsr_model.data.lmdb_store import Shape, environment, read_meta
from dscsr_model.host.options.faults import Key, Report
from dscsr_model.options.section import listed

Size = tuple[int, int]  # height, width

MOST_HEADERS = 100  # image headers that are read of a folder; an LMDB tells all sizes at once
_SUFFIXES = (  # what OpenCV reads
    ".avif", ".bmp", ".dib", ".exr", ".gif", ".hdr", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pfm", ".pgm", ".pic",
    ".png", ".pnm", ".ppm", ".pxm", ".ras", ".sr", ".tif", ".tiff", ".webp",
)  # fmt: skip


@dataclass(frozen=True)
class Images:
    """What is known of the images of a dataset.

    Attributes:
        count: How many images, or pairs, there are.
        gt: Sizes of GT images by name; all of them, or a sample.
        lq: Sizes of LQ images under the same names.
        gray: Whether all are known to have one channel.
    """

    count: int
    gt: Mapping[str, Size]
    lq: Mapping[str, Size]
    gray: bool = False


def existing_folder(path: str, key: Key, report: Report) -> Path | None:
    """The folder at ``path``, `~` expanded as BasicSR does; reported at ``key`` when it is not there."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    got = f"{path!r}, which is a file" if folder.exists() else f"{path!r}, which does not exist"
    taken_from = "" if folder.is_absolute() else f" (taken from {Path.cwd()})"
    report.add(key, "a folder", got, f"Prepare it as datasets/README.md says, or correct the path{taken_from}.")
    return None


# --- LMDBs ------------------------------------------------------------------------------------------------------------


def read_lmdb(path: str, key: Key, report: Report, *, encoded: bool) -> dict[str, Shape] | None:
    """Names and shapes of the images of an LMDB, whose reader may need them ``encoded``; None when it is of no use."""
    folder = existing_folder(path, key, report)
    if folder is None:
        return None
    if not path.endswith(".lmdb"):
        remedy = "Set `io_backend: {type: disk}` for a folder of images, or name the folder something.lmdb."
        if path.rstrip("/").endswith(".lmdb"):
            remedy = "Remove the slash at its end: BasicSR looks at the last letters."
        report.add(key, "a folder whose name ends in .lmdb (io_backend is lmdb)", repr(path), remedy)
        return None
    with report.catching(key):
        shapes = {name: shape for name, (shape, _) in read_meta(folder).items()}
        _check_entries(folder, list(shapes), encoded)
        return shapes
    return None


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
    if first is not None and encoded and not _decodes(first):
        got = f"`{names[0]}` of {len(first)} bytes, which is none (raw pixels?)"
        raise DataError(f"encoded images (PNG or JPEG) in {folder}", got, remedy)


def _decodes(data: bytes) -> bool:
    import cv2

    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) is not None


def pair_lmdbs(gt: Mapping[str, Shape], lq: Mapping[str, Shape], key: Key, report: Report) -> Images | None:
    """Pair two LMDBs by name; a difference is reported at ``key``."""
    if gt.keys() == lq.keys():
        gray = all(shape[2] == 1 for shapes in (gt, lq) for shape in shapes.values())
        gt_sizes, lq_sizes = ({name: shape[:2] for name, shape in each.items()} for each in (gt, lq))
        return Images(len(gt), gt_sizes, lq_sizes, gray)
    parts = [
        f"{len(names)} only in {where} ({listed(sorted(names), most=3)})"
        for where, names in (("GT", gt.keys() - lq.keys()), ("LQ", lq.keys() - gt.keys()))
        if names
    ]
    remedy = "Build both with one run of `dscsr prepare`; `dscsr prepare --verify` lists every difference."
    report.add(key, "the same image names in both LMDBs", " and ".join(parts), remedy)
    return None


# --- folders ----------------------------------------------------------------------------------------------------------


def list_folder(folder: Path, key: Key, report: Report) -> list[str] | None:
    """Names of the images directly in ``folder``, as BasicSR lists them; None when other files are among them."""
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file() and not entry.name.startswith("."))
    others = [name for name in names if Path(name).suffix.lower() not in _SUFFIXES]
    if others:
        got = f"{listed(others, most=3)} among {len(names)} files of {folder}"
        remedy = "This is an LMDB: set `io_backend: {type: lmdb}`." if "data.mdb" in others else "Move it elsewhere."
        report.add(key, "only images (BasicSR opens every file of the folder)", got, remedy)
        return None
    if not names:
        inside = [entry.name for entry in os.scandir(folder) if entry.is_dir()]
        got = f"none in {folder}" + (f" itself, only folders ({listed(sorted(inside), most=3)})" if inside else "")
        report.add(key, "images", got, "Give the folder that holds the images directly.")
        return None
    return names


def _lq_name(gt_name: str, template: str) -> str:
    stem, suffix = os.path.splitext(os.path.basename(gt_name))
    return f"{template.format(stem)}{suffix}"


def pair_folders(gt: Path, lq: Path, template: str, keys: tuple[Key, Key], report: Report) -> Images | None:
    """Pair two folders by file name; a difference is reported at the LQ's key."""
    gt_names, lq_names = list_folder(gt, keys[0], report), list_folder(lq, keys[1], report)
    if gt_names is None or lq_names is None:
        return None
    wanted = {_lq_name(name, template): name for name in gt_names}
    if lost := sorted(wanted.keys() - set(lq_names)):
        got = f"no {listed(lost, most=3)} in {lq}, which holds {listed(lq_names, most=3)}"
        remedy = f"Rename the files, or set `filename_tmpl`{_template_hint(wanted[lost[0]], lq_names)}."
        report.add(keys[1], f"an LQ image for each of {len(gt_names)} GT images, under its name", got, remedy)
        return None
    if len(gt_names) != len(lq_names):
        extra = sorted(set(lq_names) - wanted.keys())
        got = f"{len(lq_names)}, among them {listed(extra, most=3)}"
        report.add(keys[1], f"as many LQ images as GT images ({len(gt_names)})", got, "Remove what has no GT.")
        return None
    return _measure(gt, lq, {name: _lq_name(name, template) for name in gt_names}, keys, report)


def _template_hint(gt_name: str, lq_names: Iterable[str]) -> str:
    stem, suffix = os.path.splitext(gt_name)
    for name in lq_names:
        if stem in name and name.endswith(suffix):
            return f" to '{name.removesuffix(suffix).replace(stem, '{}', 1)}'"
    return " (the same suffix, such as .png, is needed in any case)"


def pair_listed(gt: Path, lq: Path, meta: str, template: str, key: Key, report: Report) -> Images | None:
    """Pair two folders by the list in ``meta`` (`meta_info_file`); ``key`` is the dataset's."""
    where = (*key, "meta_info_file")
    if not Path(meta).is_file():
        report.add(where, "a file that lists the images", f"{meta!r}, which does not exist", "Correct the path.")
        return None
    lines = Path(meta).read_text(encoding="utf-8", errors="replace").splitlines()
    pairs = {name: _lq_name(name, template) for name in (line.strip().split(" ")[0] for line in lines)}
    lost = [str(gt / name) for name in pairs if not (gt / name).is_file()]
    lost += [str(lq / name) for name in pairs.values() if not (lq / name).is_file()]
    if lost:
        report.add(where, f"the images that {meta} lists", f"no {listed(lost, most=3)}", "Correct the list.")
        return None
    return _measure(gt, lq, pairs, ((*key, "dataroot_gt"), (*key, "dataroot_lq")), report)


def _measure(gt: Path, lq: Path, pairs: Mapping[str, str], keys: tuple[Key, Key], report: Report) -> Images | None:
    """Read the sizes of at most `MOST_HEADERS` pairs, evenly spread, from the image headers."""
    sizes: tuple[dict[str, Size], dict[str, Size]] = ({}, {})
    broken = False
    for name in list(pairs)[:: -(-len(pairs) // MOST_HEADERS) or 1]:
        both = _read_size(gt / name), _read_size(lq / pairs[name])
        for key, size in zip(keys, both, strict=True):
            if isinstance(size, str):
                broken = True
                report.add(key, "images that open", size, "Replace or remove it.")
        if isinstance(both[0], tuple) and isinstance(both[1], tuple):
            sizes[0][name], sizes[1][name] = both[0], both[1]
    return None if broken else Images(len(pairs), *sizes)


def _read_size(file: Path) -> Size | str | None:
    """Height and width as OpenCV would give them; a message for a broken image; None where only OpenCV can tell."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except UnidentifiedImageError:
        known = file.suffix.lower() in (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
        return f"{file}, which is no image or a broken one" if known else None
    except Image.DecompressionBombError:
        return None
    except (OSError, ValueError, SyntaxError) as error:
        return f"{file}: {error}"
    return (width, height) if turned else (height, width)

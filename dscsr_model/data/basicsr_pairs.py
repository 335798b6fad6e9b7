"""Which images BasicSR's datasets read, by their rules, and which LQ image belongs to which GT image.

`DataError` tells the first thing that does not serve them. The option check tells it with its place in the file;
PairedCropDataset keeps the same rules.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence, Set
from pathlib import Path

from dscsr_arch.errors import DataError
from dscsr_arch.words import many
from dscsr_model.options.section import listed

_SUFFIXES = (  # what OpenCV reads
    ".avif", ".bmp", ".dib", ".exr", ".gif", ".hdr", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pfm", ".pgm", ".pic",
    ".png", ".pnm", ".ppm", ".pxm", ".ras", ".sr", ".tif", ".tiff", ".webp",
)  # fmt: skip


def existing_folder(path: str) -> Path:
    """The folder at ``path``, `~` expanded as BasicSR does."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        got = f"{path!r}, which is a file" if folder.exists() else f"{path!r}, which does not exist"
        taken_from = "" if folder.is_absolute() else f" (taken from {Path.cwd()})"
        raise DataError("a folder", got, f"Prepare it as datasets/README.md says, or correct the path{taken_from}.")
    return folder


def check_keys(gt: Set[str], lq: Set[str]) -> None:
    """Check that two LMDBs have images of the same names."""
    parts = [
        f"{len(names)} only in {where} ({listed(sorted(names), most=3)})"
        for where, names in (("GT", gt - lq), ("LQ", lq - gt))
        if names
    ]
    if parts:
        remedy = "Build both with one run of `dscsr prepare`; `dscsr prepare --verify` lists every difference."
        raise DataError("the same image names in both LMDBs", " and ".join(parts), remedy)


def list_folder(folder: Path) -> list[str]:
    """Names of the images directly in ``folder``, as BasicSR lists them."""
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file() and not entry.name.startswith("."))
    others = [name for name in names if Path(name).suffix.lower() not in _SUFFIXES]
    if others:
        got = f"{listed(others, most=3)} among {many(len(names), 'file')} of {folder}"
        remedy = "This is an LMDB: set `io_backend: {type: lmdb}`." if "data.mdb" in others else "Move it elsewhere."
        raise DataError("only images (BasicSR opens every file of the folder)", got, remedy)
    if not names:
        inside = [entry.name for entry in os.scandir(folder) if entry.is_dir()]
        got = f"none in {folder}" + (f" itself, only folders ({listed(sorted(inside), most=3)})" if inside else "")
        raise DataError("images", got, "Give the folder that holds the images directly.")
    return names


def _lq_name(gt_name: str, template: str) -> str:
    stem, suffix = os.path.splitext(os.path.basename(gt_name))
    return f"{template.format(stem)}{suffix}"


def pair_names(gt_names: Sequence[str], lq_names: Sequence[str], lq: Path, template: str) -> dict[str, str]:
    """The LQ image in the folder ``lq`` of each GT image."""
    wanted = {_lq_name(name, template): name for name in gt_names}
    if lost := sorted(wanted.keys() - set(lq_names)):
        got = f"no {listed(lost, most=3)} in {lq}, which holds {listed(lq_names, most=3)}"
        remedy = f"Rename the files, or set `filename_tmpl`{_template_hint(wanted[lost[0]], lq_names)}."
        raise DataError(f"an LQ image for each of {len(gt_names)} GT images, under its name", got, remedy)
    if len(gt_names) != len(lq_names):
        extra = sorted(set(lq_names) - wanted.keys())
        got = f"{len(lq_names)}, among them {listed(extra, most=3)}"
        raise DataError(f"as many LQ images as GT images ({len(gt_names)})", got, "Remove what has no GT.")
    return {name: _lq_name(name, template) for name in gt_names}


def _template_hint(gt_name: str, lq_names: Iterable[str]) -> str:
    stem, suffix = os.path.splitext(gt_name)
    for name in lq_names:
        if stem in name and name.endswith(suffix):
            return f" to '{name.removesuffix(suffix).replace(stem, '{}', 1)}'"
    return " (the same suffix, such as .png, is needed in any case)"


def read_list(meta: str, gt: Path, lq: Path, template: str) -> dict[str, str]:
    """The LQ image of each GT image that the list ``meta`` (`meta_info_file`) names."""
    if not Path(meta).is_file():
        raise DataError("a file that lists the images", f"{meta!r}, which does not exist", "Correct the path.")
    lines = Path(meta).read_text(encoding="utf-8", errors="replace").splitlines()
    pairs = {name: _lq_name(name, template) for name in (line.strip().split(" ")[0] for line in lines)}
    lost = [str(gt / name) for name in pairs if not (gt / name).is_file()]
    lost += [str(lq / name) for name in pairs.values() if not (lq / name).is_file()]
    if lost:
        raise DataError(f"the images that {meta} lists", f"no {listed(lost, most=3)}", "Correct the list.")
    return pairs

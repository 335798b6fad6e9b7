"""Which images are to be made of which, under names that nobody needs to fear for."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from dscsr_arch.errors import DscsrError, ImageError
from dscsr_model.data.image_io import SUFFIXES, read_header
from dscsr_model.data.image_writing import IMAGE_FORMATS, format_of
from dscsr_model.data.pairing import listed, search_images
from dscsr_model.files import disk_errors


class Job(NamedTuple):
    """One image."""

    source: Path
    target: Path
    form: str


class Jobs(NamedTuple):
    """All images."""

    jobs: list[Job]
    there: list[Path]
    """Results that exist and stay."""
    renamed: list[Path]
    """Results that have their source's suffix in their name, because another source has the same name without it."""
    left_out: Counter[str]
    """Files of a folder that are no images, by kind; see `search_images`."""


def check(source: Path, out: Path) -> None:
    """Check at once that ``source`` is a file or a folder, and that ``out`` is a folder or can become one."""
    kinds = (*SUFFIXES, *(each.suffix for each in IMAGE_FORMATS.values()))
    with disk_errors(out):
        is_folder = out.is_dir()
    if not is_folder and (os.path.lexists(out) or out.suffix.lower() in kinds):
        what = "a file" if out.exists() else "a broken link" if out.is_symlink() else "the name of one"
        raise DscsrError("a folder as -o", f"{out}, {what}", "Names of results follow those of the images.")
    try:
        mode = source.stat().st_mode
    except OSError as error:
        raise DscsrError("an image or a folder as -i", f"{source}: {error.strerror}", "Correct the path.") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise DscsrError("an image or a folder as -i", f"{source}, which is neither", "Choose another.")


def plan(source: Path, out: Path, scale: int, form: str = "png", *, replace: bool = False) -> Jobs:
    """Find the images and name the results: ``a/photo.jpg`` gives ``out/a/photo_x4.png``.

    Results of an earlier run are not taken for sources: what lies in ``out``, if that is a folder inside of
    ``source``, and what has the name of another image's result, if ``out`` is ``source`` itself.
    With ``replace``, results that exist are made anew, but for sources. Else those of a folder stay, and that of a
    single image is an error.
    """
    if source.is_file():
        if source.suffix.lower() not in SUFFIXES:
            raise DscsrError(f"an image ({', '.join(SUFFIXES)}) as -i", source, "Choose another.")
        folder, names, others = source.parent, [source.name], Counter[str]()
    else:
        folder, (names, others) = source, search_images(source)
        names = _outside(names, source, out)
    targets = name_targets(names, scale, form)
    if source.is_dir() and os.path.realpath(source) == os.path.realpath(out):
        results = set(targets.values())
        targets = {name: target for name, target in targets.items() if name not in results}
    jobs = [Job(folder / name, out / target, format_of(name, form)) for name, target in targets.items()]
    there = [job.target for job in jobs if os.path.lexists(job.target)]
    if replace:
        _check_sources_stay(there, [folder / name for name in names])
        there = []
    elif there and source.is_file():
        raise DscsrError("a new file", f"`{there[0]}`, which exists", "Add --force, or choose another -o.")
    renamed = [out / target for name, target in targets.items() if target != _target(name, scale, form)]
    return Jobs([job for job in jobs if job.target not in set(there)], there, renamed, others)


def count_pixels(jobs: Sequence[Job]) -> dict[Job, int]:
    """Pixels of every job's source; 0 of one that cannot be read, which is told when its turn comes."""
    pixels = dict.fromkeys(jobs, 0)
    for job in jobs:
        with suppress(ImageError):
            header = read_header(job.source)
            pixels[job] = header.height * header.width
    return pixels


def name_targets(names: Sequence[str], scale: int, form: str) -> dict[str, str]:
    """Names of the results, no two of them equal, also where upper and lower case are.

    Sources that differ in the suffix alone keep it: ``a.jpg`` and ``a.png`` give ``a_jpg_x4.png`` and ``a_png_x4.png``.
    """
    targets = {name: _target(name, scale, form) for name in names}
    clash = _clashing(targets)
    targets |= {name: _target(name, scale, form, with_suffix=True) for name in clash}
    if clash := _clashing(targets):
        raise DscsrError(
            "a name of its own for every result", f"one name for {listed(clash, 'image')}", "Rename one of them."
        )
    return targets


@contextmanager
def made(out: Path) -> Iterator[None]:
    """Have the folder ``out`` in the block; a new one that stays empty is removed."""
    new = not out.exists()
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK | os.X_OK):
        raise DscsrError("a folder as -o that can be written to", out, "Choose another.")
    try:
        yield
    finally:
        if new:
            with suppress(OSError):
                out.rmdir()


def _outside(names: Sequence[str], source: Path, out: Path) -> list[str]:
    """The images that do not lie in ``out``, if that is a folder inside of ``source``, or one that it links to."""
    inside = Path(os.path.realpath(out))
    if inside == Path(os.path.realpath(source)):
        return list(names)
    folders = {folder: Path(os.path.realpath(source / folder)) for folder in {os.path.dirname(name) for name in names}}
    left = [name for name in names if not folders[os.path.dirname(name)].is_relative_to(inside)]
    if not left:
        raise DscsrError(f"images in {source}", f"only such as lie in -o {out}", "Correct the paths.")
    return left


def _check_sources_stay(targets: Sequence[Path], sources: Sequence[Path]) -> None:
    """Also through links, and where a source looks like the result of another one."""
    known = {(found.st_dev, found.st_ino) for path in sources if (found := _stat(path))}
    there = {str(path): found for path in targets if (found := _stat(path))}
    lost = sorted(path for path, found in there.items() if (found.st_dev, found.st_ino) in known)
    if lost:
        raise DscsrError(
            "results only that --force replaces",
            f"{listed(lost, 'image')}, which -i reads",
            "Remove what is an old result by hand, or choose another -o.",
        )


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _clashing(targets: dict[str, str]) -> list[str]:
    count = Counter(target.casefold() for target in targets.values())
    return sorted(name for name, target in targets.items() if count[target.casefold()] > 1)


def _target(name: str, scale: int, form: str, *, with_suffix: bool = False) -> str:
    stem, suffix = os.path.splitext(name)
    kept = f"_{suffix[1:].lower()}" if with_suffix else ""
    return f"{stem}{kept}_x{scale}{IMAGE_FORMATS[format_of(name, form)].suffix}"

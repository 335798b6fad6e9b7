"""Which images are to be made of which, under names that nobody needs to fear for."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from dscsr_arch.errors import DscsrError
from dscsr_model.data.image_io import SUFFIXES
from dscsr_model.data.image_writing import FORMATS, format_of
from dscsr_model.data.pairing import listed, search_images
from dscsr_model.files import disk_errors


class Job(NamedTuple):
    """One image."""

    source: Path
    target: Path
    form: str


class Plan(NamedTuple):
    """All images."""

    jobs: list[Job]
    there: list[Path]
    """Results that exist and stay."""
    renamed: list[Path]
    """Results that have their source's suffix in their name, because another source has the same name without it."""
    left_out: Counter[str]
    """Files of a folder that are no images, by kind; see `search_images`."""


def plan(source: Path, out: Path, scale: int, form: str = "png", *, replace: bool = False) -> Plan:
    """Find the images and name the results: ``a/photo.jpg`` gives ``out/a/photo_x4.png``.

    Results of an earlier run are not taken for sources: what lies in ``out``, if that is a folder inside of
    ``source``, and what has the name of another image's result, if ``out`` is ``source`` itself.

    Args:
        source: An image, or a folder, which is searched with all folders inside.
        out: A folder; need not exist.
        scale: For the names.
        form: One of `FORMATS`, or ``same``.
        replace: Make results anew that exist; else those of a folder stay, and that of a single image is an error.

    Raises:
        DscsrError: There is no image; ``out`` is a file; a source would be overwritten; a result exists.
        DataError: ``source`` is a folder without images, or one inside cannot be read.
    """
    check_out(out)
    check_source(source)
    if source.is_file():
        if source.suffix.lower() not in SUFFIXES:
            raise DscsrError(f"Expected an image ({', '.join(SUFFIXES)}) as -i, but got {source}. Choose another.")
        folder, names, others = source.parent, [source.name], Counter[str]()
    else:
        names, others = search_images(source)
        folder, names = source, _without(names, source, out)
    targets = name_targets(names, scale, form)
    if source.is_dir() and _same(source, out):
        results = set(targets.values())
        targets = {name: target for name, target in targets.items() if name not in results}
    jobs = [Job(folder / name, out / target, format_of(name, form)) for name, target in targets.items()]
    there = [job.target for job in jobs if os.path.lexists(job.target)]
    if there and source.is_file() and not replace:
        raise DscsrError(f"Expected to make something new, but {there[0]} exists. Add --force, or choose another -o.")
    if replace:
        _check_sources_stay(jobs, (folder / name for name in names))
        there = []
    stay = set(there)
    plain = {name: _target(name, scale, form, False) for name in targets}
    renamed = [out / target for name, target in targets.items() if target != plain[name]]
    return Plan([job for job in jobs if job.target not in stay], there, renamed, others)


def name_targets(names: Sequence[str], scale: int, form: str) -> dict[str, str]:
    """Names of the results, no two of them equal, also where upper and lower case are.

    Sources that differ in the suffix alone keep it: ``a.jpg`` and ``a.png`` give ``a_jpg_x4.png`` and ``a_png_x4.png``.

    Raises:
        DscsrError: Even so two are equal.
    """
    plain = {name: _target(name, scale, form, False) for name in names}
    count = Counter(target.casefold() for target in plain.values())
    targets = {
        name: target if count[target.casefold()] == 1 else _target(name, scale, form, True)
        for name, target in plain.items()
    }
    again = Counter(target.casefold() for target in targets.values())
    if clash := sorted(name for name, target in targets.items() if again[target.casefold()] > 1):
        raise DscsrError(
            f"Expected a name of its own for every result, but {listed(clash, 'image')} would have that of another. "
            "Rename one of them."
        )
    return targets


def check_out(out: Path) -> None:
    """Raise `DscsrError` unless ``out`` is a folder, or can become one; `DiskError` if one may not even look there."""
    kinds = (*SUFFIXES, *(each.suffix for each in FORMATS.values()))
    with disk_errors(out):
        is_folder = out.is_dir()
    if not is_folder and (os.path.lexists(out) or out.suffix.lower() in kinds):
        what = "is a file" if out.exists() else "is a broken link" if out.is_symlink() else "looks like the name of one"
        raise DscsrError(f"Expected a folder as -o, but {out} {what}. Names of results follow those of the images.")


@contextmanager
def made(out: Path) -> Iterator[None]:
    """Have the folder ``out`` in the block; one that stays empty is removed.

    Raises:
        DiskError: It cannot be made.
        DscsrError: It cannot be written to.
    """
    new = not out.exists()
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK | os.X_OK):
        raise DscsrError(f"Expected a folder as -o that can be written to, but {out} cannot. Choose another.")
    try:
        yield
    finally:
        if new:
            with suppress(OSError):
                out.rmdir()


def check_source(source: Path) -> None:
    """Raise `DscsrError` unless ``source`` is a file or a folder, and no pipe or device."""
    try:
        mode = source.stat().st_mode
    except OSError as error:
        raise DscsrError(
            f"Expected an image or a folder as -i, but got {source}: {error.strerror}. Correct the path."
        ) from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise DscsrError(f"Expected an image or a folder as -i, but {source} is neither. Choose another.")


def _without(names: Sequence[str], source: Path, out: Path) -> list[str]:
    """The images that do not lie in ``out``, if that is a folder inside of ``source``, or one that it links to."""
    inside = Path(os.path.realpath(out))
    if inside == Path(os.path.realpath(source)):
        return list(names)
    folders = {folder: Path(os.path.realpath(source / folder)) for folder in {os.path.dirname(name) for name in names}}
    left = [name for name in names if not folders[os.path.dirname(name)].is_relative_to(inside)]
    if not left:
        raise DscsrError(f"Expected images in {source}, but all that there are lie in -o {out}. Correct the paths.")
    return left


def _check_sources_stay(jobs: Sequence[Job], sources: Iterable[Path]) -> None:
    """Also through links, and where a source looks like the result of another one."""
    known = {(found.st_dev, found.st_ino) for path in sources if (found := _stat(path))}
    there = {str(job.target): found for job in jobs if (found := _stat(job.target))}
    lost = sorted(path for path, found in there.items() if (found.st_dev, found.st_ino) in known)
    if lost:
        raise DscsrError(
            f"Expected to replace results only, but --force would replace {listed(lost, 'image')}, which -i reads. "
            "Remove what is an old result by hand, or choose another -o."
        )


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _same(source: Path, out: Path) -> bool:
    return out.exists() and source.samefile(out)


def _target(name: str, scale: int, form: str, with_suffix: bool) -> str:
    stem, suffix = os.path.splitext(name)
    kept = f"_{suffix[1:].lower()}" if with_suffix else ""
    return f"{stem}{kept}_x{scale}{FORMATS[format_of(name, form)].suffix}"

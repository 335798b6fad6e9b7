"""Make a kit: a folder with everything that a submission is, checked before it has its name.

It is built in a hidden folder beside the place where it goes. Whatever ends the work before the last rename leaves
nothing under the final name; what a kill leaves in the hidden folder, the next run removes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from torch import nn

from dscsr_arch.checkpoint import save_state_dict
from dscsr_arch.errors import DscsrError
from dscsr_model.export.ntire import bare_check, texts
from dscsr_model.export.ntire.psnr import SCALE, Pair, Progress, find_pairs, mean_psnr
from dscsr_model.export.ntire.self_check import SIZE, Alone, Figures, self_check
from dscsr_model.export.ntire.source import check_free, rewrite
from dscsr_model.export.ntire.standalone import Standalone, standalone
from dscsr_model.files import atomic_folder, disk_errors
from dscsr_model.profiling.complexity import count

_MARK = "kit.json"
_LONGEST_NAME = 60


class Kit(NamedTuple):
    """What to make, and where."""

    team: int
    name: str
    out: Path
    fold: str | None = None
    data: tuple[Path, Path] | None = None
    """Folders of HR and LR images."""
    force: bool = False
    """Replace a kit that is there."""
    python: str | None = None
    """Interpreter of the self-check; None: this one."""
    seconds: float = 2.0
    """How long to take the time; 0: not at all."""

    @property
    def stem(self) -> str:
        """Name of its files."""
        return f"team{self.team:02}_{self.name}"


class Plan(NamedTuple):
    """A kit that can be made."""

    network: nn.Module
    kit: Kit
    form: Standalone
    pairs: list[Pair] | None


class Made(NamedTuple):
    """A kit that is done."""

    form: Standalone
    figures: Figures
    quality: texts.Quality | None


def read_team(text: str) -> int:
    """The number of a team: ``7``, ``07`` or ``team07``.

    Raises:
        DscsrError: It is none from 1 to 99; 00 is the challenge's own baseline.
    """
    match = re.fullmatch(r"(?:team)?([0-9]{1,2})", text.strip(), re.IGNORECASE)
    if match is None or int(match[1]) == 0:
        raise DscsrError(
            f"Expected the number of a team, 01 to 99 (00 is the challenge's baseline), but got {text!r}. "
            "Give the one that you got when you registered, such as --team 07."
        )
    return int(match[1])


def check_name(name: str) -> None:
    """Raise `DscsrError` unless ``name`` can be part of file names and the name of a Python class."""
    if not re.fullmatch(rf"[A-Za-z][A-Za-z0-9_]{{0,{_LONGEST_NAME - 1}}}", name):
        raise DscsrError(
            f"Expected a name of letters, digits and _ that begins with a letter, at most {_LONGEST_NAME} characters, "
            f"but got {name!r}. It names a file and a Python class: choose such as --name FastSPAN."
        )


def plan(network: nn.Module, kit: Kit) -> Plan:
    """Check all that can be wrong about a kit before anything is written.

    Args:
        network: As it was trained; it stays as it is.
        kit: What to make of it.

    Raises:
        DscsrError: Something cannot be.
    """
    check_name(kit.name)
    check_place(kit.out, kit.force)
    form = standalone(network, kit.fold)
    _check_challenge(form)
    check_free(form.source, form.class_name, kit.name)
    pairs = None if kit.data is None else find_pairs(*kit.data)
    return Plan(network, kit, form, pairs)


def make(planned: Plan, progress: Progress) -> Made:
    """Make a kit.

    Args:
        planned: As `plan` gives it.
        progress: Hands items on behind a bar, as `dscsr_model.cli.prepare.show_progress` does.

    Raises:
        DscsrError: The file failed its check, or cannot be written. Nothing is left under the final name, and what was
            there is untouched.
    """
    network, kit, form, pairs = planned
    out = Path(os.path.abspath(kit.out))
    with atomic_folder(out.parent, [out.name], replace=True) as folder:
        building, scratch = folder / out.name, folder / "check of the kit"  # gone in the end
        building.mkdir()
        scratch.mkdir()
        _write(building, kit, form)
        file, weights = _files(building, kit)
        alone = Alone(file, weights, kit.name, form)
        figures = self_check(alone, network, scratch, python=kit.python, seconds=kit.seconds)
        _compare_counts(form, figures)
        quality = None if pairs is None else _quality(file, weights, kit, pairs, progress)
        made = Made(form, figures, quality)
        _tell(building, kit, made)
        check_place(kit.out, kit.force)
    return made


def check_place(out: Path, force: bool) -> None:
    """Raise `DscsrError` unless a kit can be put there without harm to anything but, with ``force``, an older kit."""
    if not os.path.lexists(out):
        return
    if out.is_symlink() or os.path.samefile(out, os.curdir):
        what = "a link" if out.is_symlink() else "the folder that you are in"
        raise DscsrError(f"Expected a new folder for the kit, but {out} is {what}. Name a folder that is neither.")
    with disk_errors(out):
        if out.is_dir() and not any(out.iterdir()):
            return
        is_clone = (out / "test_demo.py").exists()
    if is_clone:
        raise DscsrError(
            f"Expected a new folder for the kit, but {out} looks like the challenge's repository. Make the kit "
            "elsewhere and copy its two files into models/ and model_zoo/."
        )
    own = _listed_files(out)
    if own is None:
        raise DscsrError(f"Expected a new folder for the kit, but {out} is there and is no kit. Choose another -o.")
    found = [path.relative_to(out) for path in out.rglob("*") if path.is_symlink() or not path.is_dir()]
    strangers = sorted(str(path) for path in found if str(path) not in own and "__pycache__" not in path.parts)
    if strangers:
        raise DscsrError(
            f"Expected a folder with nothing but a kit, but {out} also holds {', '.join(strangers[:5])}. "
            "Move that away, or choose another -o."
        )
    if not force:
        raise DscsrError(f"Expected a new folder for the kit, but {out} is an older kit. Add --force to replace it.")


def _listed_files(out: Path) -> set[str] | None:
    """The files of a kit by its own account, or None if the folder is no kit."""
    try:
        content = json.loads((out / _MARK).read_text(encoding="utf-8"))
        return {_MARK, *map(str, content["files"])}
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _check_challenge(form: Standalone) -> None:
    given = tuple(form.arguments[name] for name in ("upscale", "num_in_ch", "num_out_ch"))
    if given != (SCALE, 3, 3):
        raise DscsrError(
            f"Expected a network of scale {SCALE} for RGB images, which the challenge is about, but got scale "
            f"{given[0]} with {given[1]} channels in and {given[2]} out. Give weights of such a network."
        )


def _files(folder: Path, kit: Kit) -> tuple[Path, Path]:
    return folder / "models" / f"{kit.stem}.py", folder / "model_zoo" / f"{kit.stem}.pth"


def _write(building: Path, kit: Kit, form: Standalone) -> None:
    file, weights = _files(building, kit)
    docstring = texts.docstring(kit.team, kit.name, form)
    text = rewrite(form.source, form.class_name, kit.name, form.arguments, docstring)
    with disk_errors(kit.out):
        file.parent.mkdir()
        weights.parent.mkdir()
        file.write_text(text, encoding="utf-8")
        save_state_dict(form.state, weights)


def _compare_counts(form: Standalone, figures: Figures) -> None:
    """Let fvcore, which the challenge uses, confirm what the bare process counted, if it is installed."""
    part = 4  # of each side: these networks do the same at every pixel, and a large one takes long to trace
    if find_spec("fvcore") is None:
        return
    counted = count(form.build(), *(side // part for side in SIZE))
    expected = (figures.parameters, figures.flops // part**2, figures.activations // part**2, figures.convolutions)
    if counted != expected:
        raise DscsrError(
            f"Expected fvcore to count {expected} (parameters, FLOPs, activations, convolutions), but it counted "
            f"{tuple(counted)}. Nothing was kept. Please report this."
        )


def _quality(file: Path, weights: Path, kit: Kit, pairs: list[Pair], progress: Progress) -> texts.Quality:
    """PSNR of the file itself with the weights beside it."""
    network = bare_check.load(str(file), kit.name, str(weights))
    shutil.rmtree(file.parent / "__pycache__", ignore_errors=True)
    folder = pairs[0].hr.parent if kit.data is None else kit.data[0]
    return texts.Quality(mean_psnr(network, pairs, progress), len(pairs), folder.name)


def _tell(building: Path, kit: Kit, made: Made) -> None:
    """README, branch, and the list of files, which also says that this folder is a kit."""
    contents = {
        "README.md": texts.readme(kit.team, kit.name, *made),
        "test_demo_branch.txt": texts.branch(kit.team, kit.name),
    }
    with disk_errors(kit.out):
        for name, text in contents.items():
            (building / name).write_text(text, encoding="utf-8")
        files = sorted(str(path.relative_to(building)) for path in building.rglob("*") if path.is_file())
        mark = {
            "dscsr": texts.dscsr_version(),
            "team": kit.team,
            "name": kit.name,
            "files": files,
            **made.figures._asdict(),
            "psnr": None if made.quality is None else made.quality.psnr,
        }
        (building / _MARK).write_text(json.dumps(mark, indent=2) + "\n", encoding="utf-8")

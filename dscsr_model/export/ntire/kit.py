"""Make a kit: a folder with everything that a submission is, checked before it has its name."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

import torch
from torch import nn

from dscsr_arch.checkpoint import save_state_dict
from dscsr_arch.errors import DscsrError
from dscsr_model.evaluation.protocol import Quality
from dscsr_model.export.ntire import bare_check, texts
from dscsr_model.export.ntire.own_file import OwnFile
from dscsr_model.export.ntire.self_check import Figures, Job, failed, self_check
from dscsr_model.export.ntire.single_file import SingleFile, single_file
from dscsr_model.files import atomic_folder, disk_errors
from dscsr_model.profiling.folders import Pairs, Progress, find_pairs, quality_of

SCALE = 4
"""Of the challenge, and the border that its PSNR leaves out."""
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

    def check(self) -> None:
        """Raise `DscsrError` unless the name can be part of file names and that of a class, and the place is free."""
        if not re.fullmatch(rf"[A-Za-z][A-Za-z0-9_]{{0,{_LONGEST_NAME - 1}}}", self.name):
            raise DscsrError(
                f"a name of letters, digits and _ that begins with a letter, at most {_LONGEST_NAME} characters",
                repr(self.name),
                "It names a file and a Python class: choose such as --name FastSPAN.",
            )
        check_place(self.out, self.force)


class Made(NamedTuple):
    """A kit that is done."""

    kit: Kit
    form: SingleFile | OwnFile
    figures: Figures
    quality: Quality | None


def read_team(text: str) -> int:
    """The number of a team: ``7``, ``07`` or ``team07``.

    Raises:
        DscsrError: It is none from 1 to 99; 00 is the challenge's own baseline.
    """
    match = re.fullmatch(r"(?:team)?([0-9]{1,2})", text.strip(), re.IGNORECASE)
    if match is None or int(match[1]) == 0:
        raise DscsrError(
            "the number of a team, 01 to 99 (00 is the challenge's baseline)",
            repr(text),
            "Give the one that you got when you registered, such as --team 07.",
        )
    return int(match[1])


def make(
    network: nn.Module | OwnFile, kit: Kit, progress: Progress, begins: Callable[[], object] = lambda: None
) -> Made:
    """Make a kit.

    Args:
        network: As it was trained; it stays as it is. Or the user's own, which runs in the check's process alone
            (but for the PSNR on ``kit.data``).
        kit: What to make of it.
        progress: Hands items on behind a bar, as `dscsr_model.cli.prepare.show_progress` does.
        begins: Called when all that can be known beforehand is checked.

    Raises:
        DscsrError: Something cannot be, the file failed its check, or cannot be written. Nothing is left under the
            final name, and what was there is untouched.
    """
    kit.check()
    form = network if isinstance(network, OwnFile) else single_file(network, kit.fold)
    if isinstance(form, SingleFile):
        _check_challenge(form)
    text = form.text(kit.name, texts.docstring(kit, form))
    pairs = None if kit.data is None else find_pairs(*kit.data, SCALE)
    begins()
    out = Path(os.path.abspath(kit.out))
    with disk_errors(kit.out), atomic_folder(out.parent, [out.name], replace=True) as folder:
        building, scratch = folder / out.name, folder / "check of the kit"
        file, weights = building / "models" / f"{kit.stem}.py", building / "model_zoo" / f"{kit.stem}.pth"
        for each in (scratch, file.parent, weights.parent):
            each.mkdir(parents=True)
        file.write_text(text, encoding="utf-8")
        save_state_dict(form.state, weights)
        job = Job(str(file), kit.name, str(weights), form.border * SCALE, kit.seconds)
        figures = self_check(job, network, scratch, kit.python)
        quality = None if pairs is None else _quality(_loaded(job, network), pairs, form.data_range, progress)
        made = Made(kit, form, figures, quality)
        _tell(building, made)
        check_place(kit.out, kit.force)
    return made


def _check_challenge(form: SingleFile) -> None:
    scale, channels = form.arguments.get("upscale"), form.arguments.get("num_in_ch", 3)
    channels_out = form.arguments.get("num_out_ch", channels)
    if (scale, channels, channels_out) != (SCALE, 3, 3):
        raise DscsrError(
            f"a network of scale {SCALE} for RGB images, which the challenge is about",
            f"scale {scale} with {channels} channels in and {channels_out} out",
            "Give weights of such a network.",
        )


def check_place(out: Path, force: bool) -> None:
    """Raise `DscsrError` unless a kit can be put there without harm to anything but, with ``force``, an older kit."""

    def refuse(why: str, remedy: str) -> NoReturn:
        raise DscsrError("a new folder for the kit", f"{out}, which {why}", remedy)

    if not os.path.lexists(out):
        return
    if out.is_symlink() or os.path.samefile(out, os.curdir):
        what = "a link" if out.is_symlink() else "the folder that you are in"
        refuse(f"is {what}", "Name a folder that is neither.")
    with disk_errors(out):
        if out.is_dir() and not any(out.iterdir()):
            return
        if (out / "test_demo.py").exists():
            into = "Make the kit elsewhere and copy its two files into models/ and model_zoo/."
            refuse("looks like the challenge's repository", into)
    if (own := _listed_files(out)) is None:
        refuse("is there and is no kit", "Choose another -o.")
    found = [path.relative_to(out) for path in out.rglob("*") if path.is_symlink() or not path.is_dir()]
    strangers = sorted(str(path) for path in found if str(path) not in own and "__pycache__" not in path.parts)
    if strangers:
        refuse(f"also holds {', '.join(strangers[:5])}", "Move that away, or choose another -o.")
    if not force:
        refuse("is an older kit", "Add --force to replace it.")


def _listed_files(out: Path) -> set[str] | None:
    """The files of a kit by its own account, or None if the folder is no kit."""
    try:
        content = json.loads((out / _MARK).read_text(encoding="utf-8"))
        return {_MARK, *map(str, content["files"])}
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _loaded(job: Job, network: nn.Module | OwnFile) -> nn.Module:
    """The kit's network, in this process; another Python may have checked it."""
    try:
        loaded: nn.Module = bare_check.load(job.file, job.class_name, job.weights)
    except bare_check.StepError as error:
        raise failed(error.args, network) from error
    return loaded


def _quality(network: nn.Module, pairs: Pairs, data_range: float, progress: Progress) -> Quality:
    """The challenge's PSNR, on the GPU if there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.to(device).eval()
    with torch.inference_mode():
        return quality_of(lambda x: network(data_range * x.to(device)) / data_range, pairs, SCALE, progress)


def _tell(building: Path, made: Made) -> None:
    """README, branch, and the list of files, which also says that this folder is a kit."""
    (building / "README.md").write_text(texts.readme(made), encoding="utf-8")
    (building / "test_demo_branch.txt").write_text(texts.branch(made), encoding="utf-8")
    mark = {
        "dscsr": texts.dscsr_version(),
        "team": made.kit.team,
        "name": made.kit.name,
        "files": sorted(str(path.relative_to(building)) for path in building.rglob("*") if path.is_file()),
        **made.figures._asdict(),
        "psnr": None if made.quality is None else made.quality.psnr,
    }
    (building / _MARK).write_text(json.dumps(mark, indent=2) + "\n", encoding="utf-8")

"""The teacher of ``dscsr prepare --teacher``: its arguments, and what runs it on images."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dscsr_arch.errors import DscsrError
from dscsr_arch.words import many
from dscsr_model.cli import networks
from dscsr_model.shared_work import Sharing, rank_of_many

if TYPE_CHECKING:
    from dscsr_model.data.store_outputs import Stored
    from dscsr_model.data.teacher_store import StoringTeacher

LARGEST_CLIPPED = 1e-5
"""Share of values beyond 16 bits from which on it is told."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    group = parser.add_argument_group("a teacher's outputs, to distil without running it")
    group.add_argument(
        "--teacher",
        dest="weights",
        nargs="+",
        type=Path,
        metavar="WEIGHTS",
        help="store what this network makes of the LR images, 16 bits per value, as OUT/TEACHER_X<scale>.lmdb; without "
        "--gt of LMDBs that are there. Of several, the mean. Files, or names that `dscsr weights` lists",
    )
    group.add_argument("--self-ensemble", action="store_true", help="mean of all eight orientations of the image")
    group.add_argument("--device", help="auto, cpu, cuda, cuda:1 (default: the GPU if there is one)")
    networks.add_arguments(parser)


def check(args: argparse.Namespace) -> None:
    """Raise `DscsrError` for arguments of a teacher that is missing."""
    given = args.base or args.width or args.param_key or args.overrides or args.opt or args.device
    if args.weights is None and (given or args.self_ensemble):
        expected = "--teacher WEIGHTS beside --self-ensemble, --device and what says which network is in WEIGHTS"
        raise DscsrError(expected, "none", "Name the teacher.")


def load(args: argparse.Namespace) -> StoringTeacher:
    """The teacher that the arguments name.

    Raises:
        DscsrError: A file or an argument is wrong, or the teachers are of several kinds.
    """
    from dscsr_model.data.teacher_store import Source, StoringTeacher, TeacherRecord
    from dscsr_model.inference.engines import averaged, device_of_rank, find_device, torch_engine
    from dscsr_model.inference.tiles import Upscaler
    from dscsr_model.weights import sha256

    networks.find_weights(args)
    device = device_of_rank(args.device or "auto")
    find_device(device)  # before the weights are read
    given = {name: getattr(args, name) for name in ("width", "param_key", "opt")}
    given |= {
        "base": args.base and f"{args.base.name} {sha256(args.base)[:12]}",
        **networks.read_overrides(args.overrides),
    }
    read_with = {name: str(value) for name, value in given.items() if value is not None}
    engines, sources = [], []
    for file in args.weights:
        network = networks.load_network(argparse.Namespace(**{**vars(args), "weights": file}))
        engines.append(torch_engine(network, device=device))
        kind = type(network).__name__
        sources.append(Source(file=file.name, sha256=sha256(file), network=kind, read_with=read_with))
    engine = averaged(engines)
    upscaler = Upscaler(engine, ensemble=args.self_ensemble, stored=True)
    if not engine.receptive_field.local and rank_of_many() == 0:
        print(
            "dscsr: this teacher looks at the whole image (attention): what is made in tiles, of large images, differs "
            "a little",
            file=sys.stderr,
        )
    record = TeacherRecord(
        teachers=sources, self_ensemble=args.self_ensemble, scale=engine.scale, channels=engine.channels
    )
    return StoringTeacher(upscaler, record)


def store(args: argparse.Namespace, sharing: Sharing) -> int:
    """Store its outputs for LMDBs that are there; returns the exit code."""
    from dscsr_model.data.store_outputs import store_outputs

    teacher = load(args)
    scale = teacher.record.scale
    if args.scale not in (None, scale):
        raise DscsrError(f"a teacher of --scale {args.scale}", f"one of scale {scale}", "Leave --scale out.")
    lq = args.lq or args.out / f"LQ_X{scale}.lmdb"
    if not lq.exists() and (others := sorted(args.out.glob("LQ_X*.lmdb"))):
        got = f"one of scale {scale}, and {' and '.join(other.name for other in others)}"
        raise DscsrError(f"a teacher of the scale of the LQ images in {args.out}", got, "Take another one.")
    stored = store_outputs(lq, args.out, teacher, args.force, sharing)
    if sharing.team.rank == 0:
        print(describe(stored, teacher, lq))
    return 0


def describe(stored: Stored, teacher: StoringTeacher, lq: Path) -> str:
    """The summary as text."""
    lines = [f"{many(stored.images, 'image')} of {lq} x{teacher.record.scale} by {teacher.record.words}"]
    lines += [f"  {stored.path}  {(stored.path / 'data.mdb').stat().st_size / 2**20:.1f} MiB", *told(stored.clipped)]
    if stored.parts:
        lines.append(
            "  These are sub-images: at their ends the teacher saw nothing of what lies beyond in the photograph. With "
            "--gt PHOTOGRAPHS --force, pairs are made again, and it sees whole photographs."
        )
    return "\n".join([*lines, how_to_use(stored.path)])


def told(clipped: float) -> list[str]:
    """What is to be said of values beyond 16 bits."""
    if clipped < LARGEST_CLIPPED:
        return []
    return [f"  {clipped:.2%} of its values lie beyond [-0.25, 1.25], and are kept as the end of that."]


def how_to_use(path: Path) -> str:
    """The line for the option file."""
    return f"Next: `dataroot_teacher: {path}` beside `dataroot_lq` of the training data; see docs/distillation.md."

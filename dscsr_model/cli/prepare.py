"""``dscsr prepare``: a folder of photographs becomes a pair of LMDBs; ``--verify`` looks for faults in such pairs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dscsr_arch.errors import DscsrError
from dscsr_arch.words import many
from dscsr_model.cli import stored_teacher
from dscsr_model.shared_work import Alone, Sharing, rank_of_many, ranks

if TYPE_CHECKING:
    from dscsr_model.data.prepare import Summary
    from dscsr_model.data.prepare_job import PrepareJob

_PHOTOS = ("options/train_span_x4_photos.yml", (Path("datasets/mine"), 4))  # its data, and their scale
_DEBLUR = ("options/train_deblur_span.yml", (Path("datasets/blurred"), 1))

_EXAMPLES = """examples:
  your own photographs, ten of them to validate with:
    dscsr prepare --gt my_photographs --out datasets/mine --scale 4 --hold-out 10
  HR photographs to LMDBs that PairedCropDataset reads; the LR images are made:
    dscsr prepare --gt DIV2K_train_HR --out datasets/DIV2K --scale 4
  the same with the published LR images (DIV2K_train_LR_bicubic/X4/0001x4.png):
    dscsr prepare --gt DIV2K_train_HR --lq DIV2K_train_LR_bicubic --out datasets/DIV2K --scale 4
  photographs that were blurred, and what is to be made of them (options/train_deblur_span.yml):
    dscsr prepare --gt my_photographs --out datasets/blurred --scale 1 --degrade blur=1.6 noise=2 --hold-out 10
  for BasicSR's own PairedImageDataset:
    dscsr prepare --gt DIV2K_train_HR --out datasets/DIV2K --scale 4 --format png
  with what a teacher makes of the LR images, or for LMDBs that are there:
    dscsr prepare --gt DIV2K_train_HR --out datasets/DIV2K --scale 4 --teacher teacher.pth --self-ensemble
    dscsr prepare --out datasets/DIV2K --teacher teacher.pth --self-ensemble
  the teacher shared among four GPUs, or among machines (docs/cluster.md):
    torchrun --nproc-per-node 4 -m dscsr_model.cli prepare --out datasets/DIV2K --teacher teacher.pth
"""


def add_parser(subparsers: Any) -> None:
    """Declare the command and its arguments."""
    parser = subparsers.add_parser(
        "prepare",
        help="make paired LMDBs from a folder of photographs, or verify such LMDBs",
        description="Make OUT/GT.lmdb and OUT/LQ_X<scale>.lmdb from a folder of photographs (PNG, JPEG, WebP, TIFF; "
        "8 or 16 bit; gray, RGB, RGBA), cut into sub-images. An interrupted run leaves nothing that looks finished.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--gt", type=Path, metavar="DIR", help="HR images; folders inside are searched too")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the LMDBs go")
    parser.add_argument("--scale", type=int, metavar="N", help="HR size / LR size")
    parser.add_argument("--lq", type=Path, metavar="DIR", help="LR images (default: MATLAB's bicubic makes them)")
    parser.add_argument(
        "--degrade",
        nargs="+",
        metavar="KIND=VALUE",
        help="do to the LR images, in this order: blur=SIGMA (Gaussian, pixels), noise=SIGMA (Gaussian, of 255), "
        "jpeg=QUALITY; 8 bits come out",
    )
    parser.add_argument(
        "--hold-out",
        type=int,
        default=0,
        metavar="N",
        help="keep N images out of the LMDBs, and whole, as PNG, in OUT/GT_val and OUT/LQ_X<scale>_val (default 0)",
    )
    parser.add_argument("--crop-size", type=int, default=480, metavar="N", help="HR sub-images; 0: whole (default 480)")
    parser.add_argument("--step", type=int, default=240, metavar="N", help="distance of sub-images (default 240)")
    parser.add_argument(
        "--thresh-size", type=int, default=0, metavar="N", help="a rest of more pixels is a sub-image too (default 0)"
    )
    parser.add_argument(
        "--color",
        choices=("auto", "rgb", "gray"),
        default="auto",
        help="gray: one channel, the luma, 0 to 255 (default auto: gray if all images are)",
    )
    parser.add_argument(
        "--format", dest="image_format", choices=("raw", "png"), default="raw", help="raw: fastest; png: half as large"
    )
    parser.add_argument("--compression", type=int, default=1, metavar="0..9", help="of png (default 1)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: all cores)")
    parser.add_argument("--strict", action="store_true", help="stop at a broken image instead of leaving it out")
    parser.add_argument("--force", action="store_true", help="replace LMDBs that are there")
    parser.add_argument("--verify", type=Path, metavar="DIR", help="check the LMDBs in DIR instead, ours or BasicSR's")
    stored_teacher.add_arguments(parser)
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Prepare or verify; returns the exit code. Ranks share the work of a teacher; all else is rank 0's."""
    if args.weights is None and rank_of_many() > 0:
        return 0
    if args.verify is not None:
        _refuse_others(args, "verify", "scale", "workers")
        return _verify(args)
    stored_teacher.check(args)
    only_teacher = args.weights is not None and args.gt is None
    needed = ("out",) if only_teacher else ("gt", "out", "scale")
    if missing := [f"--{name}" for name in needed if getattr(args, name) is None]:
        args.parser.error(f"the following arguments are required: {', '.join(missing)} (or --verify DIR)")
    if only_teacher:
        _refuse_others(args, "teacher", "weights", "out", "scale", "lq", "force", "workers")
    with nullcontext(Alone()) if args.weights is None else ranks() as team:
        sharing = Sharing(team, show_bar)
        return stored_teacher.store(args, sharing) if only_teacher else _prepare(args, sharing)


def _prepare(args: argparse.Namespace, sharing: Sharing) -> int:
    from dscsr_model.data.prepare import prepare
    from dscsr_model.data.prepare_job import PrepareJob

    wanted = {field.name for field in fields(PrepareJob)}
    job = PrepareJob(**{name: value for name, value in vars(args).items() if name in wanted and value is not None})
    if job.scale == 1 and job.lq is None and not job.degrade:
        print("dscsr: warning: --scale 1 without --lq or --degrade makes pairs of equal images.", file=sys.stderr)
    teacher = stored_teacher.load(args) if args.weights else None
    job = replace(job, teacher=teacher is not None)
    if teacher is not None and sharing.team.rank > 0:
        from dscsr_model.data.prepare_shared import help_prepare

        help_prepare(job, teacher, sharing)
        return 0
    summary = prepare(job, show_progress, teacher, sharing)
    print(describe(job, summary))
    return 0


def _refuse_others(args: argparse.Namespace, option: str, *read: str) -> None:
    """Raise `DscsrError` for arguments that make pairs beside an option that takes pairs as they are."""
    from dscsr_model.data.prepare_job import PrepareJob

    flags = {"weights": "teacher", "image_format": "format"}
    names = {*vars(args)} & {"weights", *(field.name for field in fields(PrepareJob))} - {*read}
    given = sorted(flags.get(name, name) for name in names if getattr(args, name) != args.parser.get_default(name))
    if given:
        got = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise DscsrError(f"no arguments that make pairs beside --{option}", got, "Leave them out.")


def show_progress(items: Iterable[Any], label: str, total: int) -> Iterable[Any]:
    """Hand the items on behind a bar with the time that is left; in a log file, a line now and then."""
    from tqdm import tqdm

    on_screen = sys.stderr.isatty()
    return tqdm(
        items, label, total, unit="image", mininterval=0.1 if on_screen else 10, dynamic_ncols=on_screen,
        disable=rank_of_many() > 0,
    )  # fmt: skip


def show_bar(label: str, total: int) -> Any:
    """The same for what several ranks do; the first one shows it."""
    return show_progress((), label, total)


def describe(job: PrepareJob, summary: Summary) -> str:
    """The summary as text."""
    from dscsr_model.data.pairing import left_out

    minutes, seconds = divmod(round(summary.seconds), 60)
    size = f"up to {job.effective_crop} pixels" if job.crop_size else "whole"
    kind = f"{'gray ' if summary.channels == 1 else ''}{job.image_format}"
    lines = [
        f"{many(summary.images, 'image')} -> {many(summary.pairs, 'pair')} x{job.scale}, {size}, "
        f"{kind}, in {f'{minutes} min ' if minutes else ''}{seconds} s"
    ]
    lines += [f"  {target}  {_bytes(size)}" for target, size in zip(job.targets, summary.bytes, strict=True)]
    if job.degrade:
        lines.append(f"  LQ went through {', then '.join(job.degrade)}, and is rounded to 8 bits")
    if summary.held_out:
        gt, lq = job.validation
        held_out = f"{many(summary.held_out, 'image')} held out, whole; nothing above is cut from them"
        lines.append(f"  {gt} and {lq.name}  {held_out}")
    lines += stored_teacher.told(summary.clipped)
    if summary.small:
        lines.append(
            f"  {many(summary.small, 'image')} smaller than the crop of {job.effective_crop} pixels, kept whole "
            f"along the short side. The shortest is {summary.shortest} pixels: `gt_size` can be no larger."
        )
    if summary.alpha:
        lines.append(f"  {many(summary.alpha, 'image')} with an alpha channel: left out, the colours are kept.")
    if summary.recolored:
        was, now, other = ("colours", "gray", "rgb") if summary.channels == 1 else ("gray", "RGB", "gray")
        lines.append(f"  {many(summary.recolored, 'file')} in {was}: kept as {now}; see --color {other}.")
    if summary.sixteen_bit:
        lines.append(f"  {many(summary.sixteen_bit, 'file')} of 16 bits: kept as 8, rounded.")
    if summary.copies:
        lines.append(f"  {summary.copies:,} more with the content of a held-out image: left out.")
    lines += left_out(summary.left_out)
    if summary.skipped:
        lines.append(f"  {many(len(summary.skipped), 'broken image')} skipped:")
        lines += [f"    {fault}" for fault in summary.skipped]
    if job.teacher:
        lines.append(stored_teacher.how_to_use(job.targets[2]))
    if summary.held_out:
        option_file, its_data = _DEBLUR if job.scale == 1 else _PHOTOS
        as_it_stands = (job.out, job.scale) == its_data
        file = option_file if as_it_stands else f"FILE, a copy of {option_file} with these folders and scale"
        lines.append(f"Next: dscsr train -opt {file}")
    return "\n".join(lines)


def _verify(args: argparse.Namespace) -> int:
    from dscsr_model.data.verify import verify
    from dscsr_model.data.workers import available_cores

    report = verify(args.verify, args.scale, args.workers or available_cores(), show_progress)
    print("\n".join(report.lines))
    return 1 if report.faults else 0


def _bytes(number: int) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.1f} MiB"

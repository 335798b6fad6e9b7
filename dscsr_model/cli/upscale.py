"""``dscsr upscale``: enlarge an image, or all images of a folder, or restore them, with a network from a file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dscsr_arch.errors import DscsrError
from dscsr_arch.words import many
from dscsr_model.cli import backend, networks
from dscsr_model.files import tidy
from dscsr_model.shared_work import Alone, ranks

if TYPE_CHECKING:
    from dscsr_model.inference.jobs import Job, Jobs
    from dscsr_model.inference.pipeline import Outcome
    from dscsr_model.inference.tiles import Upscaler

_EXAMPLES = """examples:
  an image, by the weights that come with dscsr; results/photo_x4.png:
    dscsr upscale -i photo.jpg -o results
  a folder, with all folders inside, by weights of your own:
    dscsr upscale -i photos -o results -w net_g_latest.pth
  twice as large; as well as the network can:
    dscsr upscale -i photo.jpg -o results --scale 2 --self-ensemble
  fast on a GPU (fp16) or a CPU of today (bf16), JPEG stays JPEG:
    dscsr upscale -i photos -o results --precision bf16 --format same
  a folder shared among four GPUs, or among machines (docs/cluster.md):
    torchrun --nproc-per-node 4 -m dscsr_model.cli upscale -i photos -o results

Results that are there stay, so an interrupted run goes on where it was; --force makes them anew.
An image that fails is named, the others are made, and the exit code is 1."""


def add_parser(subparsers: Any) -> None:
    """Declare the command and its arguments."""
    parser = subparsers.add_parser(
        "upscale",
        help="enlarge images with a network, or restore them with one of x1",
        description="Enlarge (or, by a network of x1, restore) an image, or all images of a folder (PNG, JPEG,\n"
        "WebP, TIFF, BMP; 8 or 16 bit; gray, RGB, with alpha). Depth, grayness, alpha, colour profile and EXIF\n"
        "are kept; images are turned upright.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("-i", "--input", type=Path, required=True, metavar="FILE|FOLDER", help="an image, or a folder of images")
    add("-o", "--output", type=Path, required=True, metavar="FOLDER", help="where results go: photo_x4.png")
    add(
        *("-w", "--weights"), type=Path, metavar="WEIGHTS",
        help=".pth, .safetensors, .onnx, .param, or a name that `dscsr weights` lists (default: what comes with dscsr)",
    )  # fmt: skip
    add("--scale", type=int, metavar="2|3|4", help="of the weights that come with dscsr (default 4)")
    add("--format", default="png", choices=("png", "jpg", "webp", "tiff", "same"), help="of results (default png)")
    add("--quality", type=int, default=95, metavar="1..100", help="of JPEG and WebP (default 95)")
    add("--precision", default="fp32", choices=("fp32", "bf16", "fp16"), help="of the network's numbers (default fp32)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: the GPU if there is one)")
    backend.add_argument(parser)
    add("--tile", type=int, metavar="N", help="side of tiles, in input pixels; 0: none (default: by free memory)")
    add("--tile-overlap", type=int, metavar="N", help="margin of tiles (default: what the network sees, no seams)")
    add("--self-ensemble", action="store_true", help="mean of all eight orientations: a little better, 8 times slower")
    add("--compile", action="store_true", help="torch.compile: a slow start, then faster; for large folders")
    add("--force", action="store_true", help="replace results that are there")
    networks.add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Enlarge; returns the exit code, on every rank that of all."""
    with ranks() as team:
        return _run(args, team)


def _run(args: argparse.Namespace, team: Alone) -> int:
    choose_weights(args)
    check(args)
    from PIL import Image

    from dscsr_model.inference import jobs, pipeline
    from dscsr_model.inference.engines import device_of_rank
    from dscsr_model.inference.tiles import Upscaler

    Image.MAX_IMAGE_PIXELS = None  # images may be large; whether the result fits into memory is checked
    jobs.check(args.input, args.output)
    args.device = device_of_rank(args.device)
    engine = backend.make_engine(args, team)
    if args.scale not in (None, engine.scale):
        remedy = "Leave --scale out, or -w."
        raise DscsrError(f"weights of --scale {args.scale}", f"{args.weights}, of scale {engine.scale}", remedy)
    for card in args.known.values() if team.rank == 0 else ():
        says = "come with dscsr" if card.shipped else "public"
        print(f"weights: {card.name}, {card.title} ({says}; `dscsr weights {card.name}` tells more)", file=sys.stderr)
    upscaler = Upscaler(engine, args.tile, args.tile_overlap, ensemble=args.self_ensemble)
    plan, pixels = team.decide(lambda: _find(args, engine.scale, sort=team.size > 1))
    with jobs.made(args.output), progress(plan.jobs, pixels, engine.scale, hide=team.rank > 0) as bar:
        for line in _slow_or_seams(args, upscaler) if team.rank == 0 else ():
            bar.write(line, file=sys.stderr)
        mine = pipeline.run(team.claim(plan.jobs), upscaler, team.bar(bar), quality=args.quality, replace=args.force)
        everyones = team.gather(mine)
    outcome = pipeline.together(everyones)
    if team.rank == 0:
        lines = _by_rank(everyones, len(plan.jobs) - outcome.made - outcome.failed) if team.size > 1 else ()
        print("\n".join([describe(plan, outcome, engine.scale, args.output), *lines]), flush=True)
    return 1 if outcome.failed or None in everyones else 0


def _slow_or_seams(args: argparse.Namespace, upscaler: Upscaler) -> Iterator[str]:
    """What of the arguments a user may not have wanted."""
    seen = upscaler.engine.receptive_field.radius
    if upscaler.overlap < seen and args.tile != 0:
        yield f"--tile-overlap {upscaler.overlap} is less than the {seen} pixels that this network sees: seams may show"
    if args.precision == "fp16" and upscaler.engine.device.type == "cpu" and backend.backend_of(args) == "torch":
        yield "fp16 is much slower than fp32 on a CPU: --precision bf16 is faster on those of today"


def _find(args: argparse.Namespace, scale: int, *, sort: bool) -> tuple[Jobs, int]:
    """What is to be made, the largest first if ``sort``; and how many pixels that are. What kills have left goes."""
    from dscsr_model.inference import jobs

    plan = jobs.plan(args.input, args.output, scale, args.format, replace=args.force)
    for result in plan.there:
        tidy(result)
    pixels = jobs.count_pixels(plan.jobs)
    if sort:
        plan = plan._replace(jobs=sorted(plan.jobs, key=lambda job: -pixels[job]))  # whoever comes last has little
    return plan, sum(pixels.values())


def choose_weights(args: argparse.Namespace) -> None:
    """Put the file in place of a name, or of nothing: then it is the one that comes with dscsr."""
    from dscsr_model.weights import of_scale

    if args.weights is None:
        if args.base or args.width or args.param_key or args.overrides or args.opt:
            words = "-w WEIGHTS with --base, --width, --param-key, --set or -opt"
            raise DscsrError(words, "none", "Name the weights.")
        card = of_scale(4 if args.scale is None else args.scale)
        args.weights, args.known = card.place, {card.place: card}
    else:
        networks.find_weights(args)


def check(args: argparse.Namespace) -> None:
    """Raise `DscsrError` for arguments that make no sense, or not together."""
    if not 1 <= args.quality <= 100:
        raise DscsrError("--quality from 1 to 100", args.quality, "95 is usual.")
    if args.tile is not None and args.tile < 0:
        raise DscsrError("--tile from 0 (no tiles)", args.tile, "Leave it out.")
    if args.tile_overlap is not None and args.tile_overlap < 0:
        raise DscsrError("--tile-overlap from 0", args.tile_overlap, "Leave it out.")
    backend.check(args)


def progress(jobs: list[Job], pixels: int, scale: int, *, hide: bool) -> Any:
    """A bar over all pixels, with the time that is left; in a log file, a line now and then."""
    from tqdm import tqdm

    on_screen = sys.stderr.isatty()
    return tqdm(
        desc="restoring" if scale == 1 else "upscaling", total=pixels, unit="px", unit_scale=True,
        dynamic_ncols=on_screen, disable=hide or not jobs, mininterval=0.1 if on_screen else 10,
    )  # fmt: skip


def describe(plan: Jobs, outcome: Outcome, scale: int, output: Path) -> str:
    """The summary as text."""
    from dscsr_model.data.pairing import left_out, listed

    minutes, seconds = divmod(round(outcome.seconds), 60)
    took = f"{minutes} min {seconds} s" if minutes else f"{outcome.seconds:.1f} s"
    pixels = outcome.input_pixels
    amount = f"{pixels / 1e6:.1f} million" if pixels >= 1e6 else f"{pixels:,}"
    failed = f", {outcome.failed} failed (named above)" if outcome.failed else ""
    done = "restored" if scale == 1 else f"x{scale}"
    lines = [f"{many(outcome.made, 'image')} {done} -> {output}{failed}; {amount} pixels in {took}"]
    if plan.there:
        lines.append(f"  {many(len(plan.there), 'result')} there already, left as found; --force makes them anew")
    if plan.renamed:
        names = listed([path.name for path in plan.renamed], "result", most=4)
        lines.append(f"  named with their old suffix, because images differ in it alone: {names}")
    return "\n".join([*lines, *left_out(plan.left_out)])


def _by_rank(everyones: list[Outcome | None], lost: int) -> Iterator[str]:
    """Lines on what each rank has made."""
    made = ", ".join("?" if one is None else str(one.made) for one in everyones)
    yield f"  by {len(everyones)} ranks: {made}"
    if gone := [str(rank) for rank, one in enumerate(everyones) if one is None]:
        yield f"  rank {', '.join(gone)} ended without a word, and {many(lost, 'image')} with it"
        yield "  The same command makes what is missing."

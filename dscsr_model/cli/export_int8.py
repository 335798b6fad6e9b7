"""``dscsr export --int8``: an ONNX model that computes in 8 bits, and what that costs on images it has not seen."""

from __future__ import annotations

import argparse
import math
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dscsr_arch.errors import DscsrError
from dscsr_arch.words import many
from dscsr_model.cli import networks

if TYPE_CHECKING:
    from dscsr_model.export.formats import Format
    from dscsr_model.export.int8 import Cost


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare ``--int8`` and ``--calibrate``."""
    group = parser.add_argument_group("8 bits, for CPUs (ONNX alone)")
    group.add_argument("--int8", action="store_true", help="convolutions in 8 bits, but for a few that need more")
    group.add_argument(
        "--calibrate",
        nargs="+",
        type=Path,
        default=[],
        metavar="LQ [GT]",
        help="images as the network will get them (low-resolution ones for x2 to x8), a folder or an LMDB, at least "
        "two, better fifty: their ranges are learned, and every third is kept to measure the loss on; GT: what they "
        "should become, to measure against it, too",
    )


def check(args: argparse.Namespace) -> None:
    """Raise `DscsrError` for arguments that do not go together."""
    if args.calibrate and not args.int8:
        raise DscsrError("--calibrate with --int8", "--calibrate alone", "Add --int8, or leave it out.")
    if args.int8 and (args.fp16 or len(args.calibrate) not in (1, 2)):
        got = "--fp16" if args.fp16 else f"{len(args.calibrate)} folders to calibrate with"
        raise DscsrError("--int8 --calibrate LQ [GT], and no --fp16", got, "See dscsr export --help.")


def export(args: argparse.Namespace, path: Path, form: Format, sources: Sequence[Path]) -> Iterator[str]:
    """Write the file; what to say of it."""
    from dscsr_arch.deployable import deployable
    from dscsr_arch.metadata import describe, in_words
    from dscsr_arch.sizes import size_requirements
    from dscsr_model.export.calibration import read_samples
    from dscsr_model.export.compare import input_channels
    from dscsr_model.export.int8 import to_int8
    from dscsr_model.export.onnx import OPSETS
    from dscsr_model.export.ship import check_places
    from dscsr_model.files import atomic_folder, disk_errors

    if form.name != "onnx":
        raise DscsrError("the format onnx for --int8", form.name, "Name the output *.onnx.")
    if path != Path(args.out):  # its name is ours to choose
        path = path.with_stem(f"{path.stem}_int8")
    network = networks.load_network(args)
    channels = input_channels(network)
    if channels not in (1, 3):
        raise DscsrError("a network of images of 1 or 3 channels for --int8", channels, "Export it in float32.")
    side = size_requirements(deployable(network)).fit(16)
    import torch

    with torch.no_grad():
        scale = network(torch.zeros(1, channels, side, side)).shape[-1] // side
    gt = args.calibrate[1] if len(args.calibrate) == 2 else None
    check_places([path], sources)
    samples = read_samples(args.calibrate[0], gt, scale, channels)
    with disk_errors(path), atomic_folder(path.parent, [path.name], replace=args.force) as folder:
        cost = to_int8(network, folder / path.name, samples, opset=args.opset or OPSETS[0])
    size = path.stat().st_size / 2**10
    yield f"{path}  {size:,.0f} KiB, int8, {form.says}"
    yield f"{in_words(describe(deployable(network)))}; {_convolutions(cost)}"
    yield _loss(cost, args.calibrate[0])
    yield f"use it: dscsr upscale -i photo.png -o results -w {shlex.quote(str(path))} [--backend openvino]"


def _convolutions(cost: Cost) -> str:
    names = ", ".join(name.strip("/").replace("/", ".").removesuffix(".Conv") for name in cost.kept)
    kept = f"; in float32, because they need it most: {names}" if names else ""
    return f"{cost.convolutions - len(cost.kept)} of {cost.convolutions} convolutions in 8 bits{kept}"


def _loss(cost: Cost, folder: Path) -> str:
    beside = "as in" if math.isinf(cost.of_float) else f"{cost.of_float:.1f} dB beside"
    line = f"{many(cost.images, 'held-out image')} of {folder}: {beside} float32"
    if cost.in_int8 is None or cost.in_float is None:
        return line
    return f"{line}; beside GT {cost.in_int8:.2f} dB, in float32 {cost.in_float:.2f} (RGB, within a border)"

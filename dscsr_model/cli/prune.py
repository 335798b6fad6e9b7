"""``dscsr prune``: a trained network without the channels that matter least, to be trained on."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dscsr_arch.errors import DscsrError, UnavailableError
from dscsr_arch.words import many
from dscsr_model.cli import networks

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dscsr_arch.pruning import Cut
    from dscsr_model.inference.engines import Engine
    from dscsr_model.profiling.folders import Pairs

_EXAMPLES = """examples:
  a SPAN of 18 channels instead of 26, ranked by their kernels:
    dscsr prune span_x4 -o span_18.safetensors --keep 18
  SPANF's tail from 32 to 20, ranked by what it costs on images, and fitted to what was there before:
    dscsr prune spanf.pth -o pruned.pth --keep 20 --layers tail --data Set5/HR Set5/LRbicx4 --refit
then train the rest, with WEIGHTS as its teacher: options/train_heal_spanf_x4.yml

--data ranks by the first-order Taylor term |w * dL/dw|, which is far better than the norms of kernels; --refit costs
about a run over the data for each layer, and often wins back most of what was lost."""

_SIDE, _MOST = 96, 64
"""Patches of LQ that channels are ranked and layers refitted on: pixels a side, and how many."""
_NAMES = 60
"""Characters of the names of layers in a line."""


def add_parser(subparsers: Any) -> None:
    """Declare the command and its arguments."""
    parser = subparsers.add_parser(
        "prune",
        help="make a network narrower: leave out the channels that matter least",
        description="Rank the channels of a trained network, order them by rank, which changes no image, and cut off\n"
        "the last ones. OUT is a fused, narrower network of the same class.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("weights", metavar="WEIGHTS", help="any weight file, or a name that `dscsr weights` lists")
    add("-o", "--out", required=True, metavar="OUT", help="the file to write: .pth or .safetensors")
    add("--keep", required=True, type=float, metavar="K", help="a part of the channels, such as 0.75, or their number")
    add(
        "--layers",
        nargs="+",
        default=[],
        metavar="NAME",
        help="arguments of the network that are the channels to cut, e.g. tail for tail_channels (default: its width)",
    )
    add("--data", nargs=2, type=Path, metavar=("GT", "LQ"), help="rank the channels, and measure PSNR, on these images")
    add("--refit", action="store_true", help="fit what is left to what was there before, by least squares on --data")
    add("--force", action="store_true", help="replace OUT if it is there")
    networks.add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prune one network; returns the exit code."""
    from dscsr_arch.deployable import deployable
    from dscsr_arch.pruning import prune
    from dscsr_model.export.formats import choose
    from dscsr_model.export.ship import ship
    from dscsr_model.files import check_new
    from dscsr_model.inference.engines import torch_engine
    from dscsr_model.profiling.folders import find_pairs

    if args.refit and args.data is None:
        raise DscsrError("images for --refit", "none", "Add --data GT LQ.")
    networks.find_weights(args)
    path, form = choose(args.out, None, args.weights, half=False)
    if form.name not in ("pth", "safetensors"):
        raise DscsrError("OUT to end in .pth or .safetensors", repr(path.name), "Export it afterwards.")
    if path.exists():
        check_new(path, args.force)  # before anything is measured
    wide = deployable(networks.load_network(args))
    pairs: Pairs = []
    if args.data is not None:
        before = torch_engine(wide, device="cpu")
        pairs = find_pairs(args.data[0], args.data[1], before.scale)
    patches = [_patch(*files, before) for files in pairs[:: -(-len(pairs) // _MOST)]] if pairs else []
    found = prune(wide, args.keep, _probe(wide), layers=args.layers, pairs=patches, refit=args.refit)
    after = torch_engine(found.network, device="cpu") if pairs else None
    qualities = [_quality(engine, pairs) for engine in (before, after)] if after else []
    sources = [file for file in (args.weights, args.base) if file is not None]
    shipped = ship(found.network, path, form, force=args.force, sources=sources)
    arguments = ", ".join(f"{name} {old} → {new}" for name, (old, new) in found.changed.items())
    ranked = "the L2 norm of the kernels that read them"
    if pairs:
        ranked = f"first-order Taylor on {many(len(patches), 'image')}"
    print(f"{shipped.path}  {shipped.metadata.network}, {arguments}; channels ranked by {ranked}\n")
    print(*_cuts(found.cuts), "", sep="\n")
    print(*_figures([wide, found.network], qualities), sep="\n")
    return 0


def _probe(network: nn.Module) -> Tensor:
    """A small image that it takes."""
    import torch

    from dscsr_arch.sizes import size_requirements
    from dscsr_model.inference.receptive_field import try_channels

    side = size_requirements(network).fit(16)
    return torch.rand(1, try_channels(network, side)[0], side, side)


def _patch(hr: Path, lr: Path, engine: Engine) -> tuple[Tensor, Tensor]:
    """The middle of an image: LQ and GT, (1, C, H, W) each."""
    from dscsr_model.data.image_io import in_channels, read_rgb
    from dscsr_model.evaluation.protocol import as_input

    large, small = (in_channels(read_rgb(file), engine.channels) for file in (hr, lr))
    multiple = engine.receptive_field.sizes.multiple_of
    sides = [min(side, _SIDE) // multiple * multiple for side in small.shape[:2]]
    starts = [(whole - side) // 2 for whole, side in zip(small.shape[:2], sides, strict=True)]
    cuts = [
        tuple(slice(scale * start, scale * (start + side)) for start, side in zip(starts, sides, strict=True))
        for scale in (1, engine.scale)
    ]
    return as_input(small[cuts[0]]), as_input(large[cuts[1]])


def _quality(engine: Engine, pairs: Pairs) -> list[float]:
    """PSNR on Y and on RGB."""
    from dscsr_model.profiling.folders import quality_of
    from dscsr_model.profiling.latency import progress

    quality = quality_of(engine, pairs, engine.scale, progress, engine.channels)
    return [quality.psnr_y, quality.psnr]


def _cuts(cuts: Sequence[Cut]) -> Iterator[str]:
    """A line for each group of layers; those that stand alone and lose as many share one."""
    from tabulate import tabulate

    alone: dict[tuple[int, int], list[str]] = {}
    rows = []
    for cut in cuts:
        sizes = len(cut.channels), cut.keep
        layers = [layer.removesuffix(".eval_conv") for layer in cut.made_by]
        if len(layers) == 1:
            alone.setdefault(sizes, []).extend(layers)
        else:
            rows.append(["together: " + _few(layers), *sizes])
    rows += [["each alone: " * (len(layers) > 1) + _few(layers), *sizes] for sizes, layers in alone.items()]
    yield from tabulate(rows, ["channels made by", "before", "after"]).splitlines()


def _few(layers: Sequence[str]) -> str:
    """Names, as many as a line holds."""
    lengths = accumulate(len(layer) + 2 for layer in layers)
    shown = max(1, sum(length <= _NAMES for length in lengths))
    more = f" and {len(layers) - shown} more" if len(layers) > shown else ""
    return ", ".join(layers[:shown]) + more


def _figures(both: Sequence[nn.Module], qualities: Sequence[Sequence[float]]) -> Iterator[str]:
    """Parameters, FLOPs and PSNR, before and after."""
    from tabulate import tabulate

    from dscsr_model.profiling.complexity import count

    try:
        counts, note = [count(network) for network in both], []
    except UnavailableError as error:
        counts, note = [count(network, flops=False) for network in both], [f"FLOPs were not counted: {error}"]
    rows = [["parameters", *(f"{each.parameters:,}" for each in counts)]]
    if not note:
        rows.append(["FLOPs at 256×256", *(f"{each.flops / 1e9:.2f} G" for each in counts)])
    for index, name in enumerate(["PSNR on Y", "PSNR on RGB"] if qualities else []):
        rows.append([name, *(f"{quality[index]:.2f} dB" for quality in qualities)])
    yield from tabulate(rows, ["", "before", "after"], colalign=("left", "right", "right")).splitlines()
    yield from note

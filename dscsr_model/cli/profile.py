"""``dscsr profile``: parameters, FLOPs, memory, latency and NTIRE scores of networks, side by side."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dscsr_arch.errors import DscsrError, UnavailableError
from dscsr_model.cli import networks
from dscsr_model.files import atomic, check_new

if TYPE_CHECKING:
    from torch import nn

    from dscsr_model.profiling.profile import Profile, Settings
    from dscsr_model.profiling.score import Given

EPILOG = """\
examples:
  dscsr profile span.pth dscsr.pth
  dscsr profile span.pth -opt options/train_span_x4.yml --variants all --json figures.json
  dscsr profile span.pth --leaderboard
  dscsr profile span.pth rcan.pth --data Set5/HR Set5/LRbicx4 --plot figure.png

Figures are those of fused networks. Needs fvcore, for --plot matplotlib: pip install "dscsr[profile]";
for the variants onnx, openvino and ncnn: pip install "dscsr[onnx]" and so on."""

FORMATS = (".png", ".pdf", ".svg")


def add_parser(subparsers: Any) -> None:
    """Add the command to the ``dscsr`` parser."""
    parser = subparsers.add_parser(
        "profile",
        help="count and time networks, side by side, and score them as NTIRE does",
        description="Count parameters, FLOPs and activations of networks as NTIRE's efficient-SR track does, measure\n"
        "latency and peak memory in several variants, and give the NTIRE scores of 2025 and 2026.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "weights", nargs="*", type=Path, metavar="WEIGHTS", help="weight files, .pth or .safetensors, or names"
    )
    parser.add_argument(
        *("-opt", "--opt"),
        action="append",
        default=[],
        type=Path,
        dest="options",
        metavar="FILE",
        help="network_g of an option file, without weights; can be repeated",
    )
    networks.add_arguments(parser, option_file=False)
    group = parser.add_argument_group("what is measured")
    group.add_argument("--size", nargs=2, type=int, default=[256, 256], metavar=("H", "W"), help="default 256 256")
    group.add_argument(
        "--variants",
        nargs="+",
        metavar="NAME",
        help="of eager, channels_last, bf16, fp16, compiled, compiled_bf16, compiled_fp16, onnx, openvino, ncnn; or "
        "all (default: the first three, on a GPU also fp16); the first one is scored and drawn",
    )
    group.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1, … (default auto)")
    group.add_argument("--threads", type=int, metavar="N", help="of the CPU (default: PyTorch's choice)")
    group.add_argument("--seconds", type=float, default=2.0, metavar="S", help="of runs per variant (default 2)")
    group.add_argument("--images", type=Path, metavar="DIR", help="also the mean time over these images, as NTIRE")
    group.add_argument("--data", nargs=2, type=Path, metavar=("HR", "LR"), help="measure PSNR on these folders")
    group.add_argument("--no-flops", action="store_true", help="no FLOPs and no scores; fvcore is not needed then")
    group.add_argument("--no-baseline", action="store_true", help="do not time SPAN-28, the baseline of 2026")
    group.add_argument(
        "--leaderboard",
        action="store_true",
        help="also the official results of 2026, your rank, and how to pass the next",
    )
    group = parser.add_argument_group("what is known already")
    known: Mapping[str, Any] = {"nargs": "+", "default": [], "metavar": "NAME=VALUE"}
    group.add_argument("--psnr", **known, help="PSNR in dB of a network, for table and image")
    group.add_argument("--runtime", **known, help="milliseconds of a network on NTIRE's machine, for its score")
    group.add_argument("--baseline-ms", **known, help="milliseconds of a year's baseline here, e.g. 2025=20.5 for EFDN")
    group = parser.add_argument_group("output")
    group.add_argument("--json", metavar="FILE", help="write all figures; - prints them instead of the table")
    group.add_argument(
        "--plot", "--picture", dest="plot", type=Path, metavar="FILE", help="PSNR against latency: .png, .pdf or .svg"
    )
    group.add_argument("--force", action="store_true", help="replace files that are there")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure and tell; returns the exit code."""
    _check(args)
    import torch

    from dscsr_model.profiling.profile import profile

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    networks.find_weights(args)
    trained, described = _networks(args)
    both = {**trained, **described}
    psnr, given = _known(args, both)
    plot = _plot(args)
    if args.leaderboard:
        from dscsr_model.profiling import leaderboard

        leaderboard.check(both)
    result = profile(both, _settings(args, frozenset(described)))
    _write(args, result, psnr, given, plot)
    return 0


def _check(args: argparse.Namespace) -> None:
    """All that can be known before anything heavy is imported."""
    if not args.weights and not args.options:
        raise DscsrError("weight files, or -opt FILE", "neither", "Name a network: dscsr profile net.pth.")
    if misplaced := [file for file in args.weights if file.suffix.lower() in (".yml", ".yaml")]:
        raise DscsrError("weight files", f"{misplaced[0]}, an option file", f"Write -opt {misplaced[0]}.")
    if (args.base or args.param_key) and not args.weights:
        raise DscsrError("a weight file for --base and --param-key", "option files only", "Leave them out.")
    if args.threads is not None and args.threads < 1:
        raise DscsrError("--threads to be at least 1", args.threads)
    if args.plot is not None and args.plot.suffix.lower() not in FORMATS:
        raise DscsrError(f"--plot to end in {', '.join(FORMATS)}", f"`{args.plot}`")
    if args.plot is not None and not (args.psnr or args.data):
        raise DscsrError("PSNR for --plot", "none", "Add --data HR LR, or --psnr NAME=VALUE.")
    if args.leaderboard and (args.no_flops or args.no_baseline):
        got = "--no-flops" if args.no_flops else "--no-baseline"
        raise DscsrError("FLOPs and the baseline for --leaderboard", got, "Leave one of them out.")
    files = [args.plot, Path(args.json) if args.json not in (None, "-") else None]
    for file in (file for file in files if file is not None):
        check_new(file, args.force)


def _networks(args: argparse.Namespace) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    """Those of weight files and those of option files, by names that are unique.

    CSSR-Nets of option files come as all their widths, unless one is asked for.
    """
    ending = f" at {args.width:g}" if args.width is not None else ""
    found: list[tuple[Path, str, nn.Module]] = [
        (file, ending, networks.load_network(argparse.Namespace(**{**vars(args), "weights": file})))
        for file in args.weights
    ]
    for file in args.options:
        described = networks.networks_of_options(file, args.overrides, args.width)
        found += [(file, end, network) for end, network in described.items()]
    short = short_names(dict.fromkeys(file for file, _, _ in found))
    names = [short[file] + end for file, end, _ in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise DscsrError("different networks", f"`{twice[0]}` twice", "Name it once.")
    named = [(name, network) for name, (_, _, network) in zip(names, found, strict=True)]
    return dict(named[: len(args.weights)]), dict(named[len(args.weights) :])


def short_names(files: Collection[Path]) -> dict[Path, str]:
    """Files without suffix, and with the folders that tell those of one name apart: ``A/net_g_latest``."""

    def shared(folders: Iterable[Sequence[str]]) -> int:
        """How many parts all begin with."""
        return sum(1 for _ in takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False)))

    names = {}
    for file in files:
        folders = [other.parent.parts for other in files if other.stem == file.stem]
        start = shared(folders)
        end = shared([parts[start:][::-1] for parts in folders])
        names[file] = "/".join([*file.parent.parts[start : len(file.parent.parts) - end], file.stem])
    given = list(names.values())
    return {file: name if given.count(name) == 1 else name + file.suffix for file, name in names.items()}


def read_figures(words: list[str], option: str, names: Iterable[str]) -> dict[str, float]:
    """``["span=28.9"]`` as positive numbers, of known names."""
    figures = {}
    for word in words:
        name, _, value = word.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not name or not (math.isfinite(number) and number > 0):
            raise DscsrError(f"{option} NAME=VALUE with a positive number", repr(word), "Write it so.")
        if name not in names:
            raise DscsrError(f"a name among {', '.join(names)} for {option}", repr(name), "Name one.")
        figures[name] = number
    return figures


def _known(args: argparse.Namespace, networks: Mapping[str, nn.Module]) -> tuple[dict[str, float], Given]:
    from dscsr_model.profiling.score import BASELINES, Given

    years = read_figures(args.baseline_ms, "--baseline-ms", list(map(str, BASELINES)))
    runtimes = read_figures(args.runtime, "--runtime", list(networks))
    given = Given(runtimes, {int(year): value for year, value in years.items()})
    return read_figures(args.psnr, "--psnr", list(networks)), given


def _plot(args: argparse.Namespace) -> Any:
    """The module that draws, if it is needed; found out before anything is measured."""
    if args.plot is None:
        return None
    try:
        from dscsr_model.profiling import plot
    except ModuleNotFoundError as error:
        remedy = "Run `pip install 'dscsr[profile]'`."
        raise UnavailableError("matplotlib to draw with", f"no {error.name}", remedy) from error
    return plot


def _settings(args: argparse.Namespace, untrained: frozenset[str]) -> Settings:
    from dscsr_model.cli.backend import write
    from dscsr_model.inference.engines import find_device
    from dscsr_model.profiling.folders import read_images
    from dscsr_model.profiling.profile import Settings, check_variants

    usual = ["eager", "channels_last", "bf16"]
    usual += ["fp16"] if find_device(args.device).type == "cuda" else []
    height, width = args.size
    return Settings(
        height,
        width,
        variants=check_variants(args.variants or usual),
        device=args.device,
        seconds=args.seconds,
        flops=not args.no_flops,
        baseline=not (args.no_baseline or args.no_flops),
        images=read_images(args.images) if args.images else (),
        data=(args.data[0], args.data[1]) if args.data else None,
        untrained=untrained,
        write=write,
    )


def _write(args: argparse.Namespace, result: Profile, psnr: Mapping[str, float], given: Given, plot: Any) -> None:
    from dscsr_model.profiling import leaderboard
    from dscsr_model.profiling.report import as_dict, table

    figures = as_dict(result, psnr, given)
    if args.leaderboard:
        figures["leaderboard"] = leaderboard.as_dict(result, given)
    text = json.dumps(figures, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if args.json == "-":
        print(text, end="")
    else:
        print(table(result, psnr, given))
        if args.leaderboard:
            print("", leaderboard.table(result, psnr, given), sep="\n")
    if args.json not in (None, "-"):
        with atomic(args.json) as file:
            file.write(text.encode())
        print(f"\n{args.json}")
    if plot is not None:
        plot.save(plot.draw(result, psnr), args.plot)
        print(f"\n{args.plot}", file=sys.stderr if args.json == "-" else sys.stdout)

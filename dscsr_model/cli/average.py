"""``dscsr average``: one network whose weights are the mean of several, with the PSNR of each and of the mean."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dscsr_arch.errors import DscsrError, WeightsError
from dscsr_arch.words import many
from dscsr_model.cli import networks
from dscsr_model.files import atomic, check_new

if TYPE_CHECKING:
    from torch import nn

    from dscsr_model.evaluation.protocol import Quality

_EXAMPLES = """examples:
  the last checkpoints of a training:
    dscsr average experiments/span/models/net_g_{80000,90000,100000}.pth -o span_mean.pth --data Set5/HR Set5/LRbicx4
  LoRA adapters: as adapters, whose ranks add up, or with their base as one network:
    dscsr average lora_g_{8000,9000}.pth -o lora_mean.pth
    dscsr average lora_g_{8000,9000}.pth --base span_ch26_x4 -o dsclora_mean.pth --data Set5/HR Set5/LRbicx4
"""


def add_parser(subparsers: Any) -> None:
    """Declare the command and its arguments."""
    parser = subparsers.add_parser(
        "average",
        help="make one network of several checkpoints, and measure what it is worth",
        description="Write the network, fused, whose weights are the mean of several networks' weights. Kernels are\n"
        "averaged as they are used, not the branches that are trained: checkpoints and fused files can stand\n"
        "side by side. The mean of late checkpoints of one training is often better than each of them;\n"
        "networks of separate trainings have no useful mean.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("weights", nargs="+", type=Path, metavar="WEIGHTS", help="weight files of one kind of network, or names")
    add("-o", "--out", type=Path, required=True, metavar="OUT", help="the file: .pth or .safetensors")
    add("--shares", nargs="+", type=float, metavar="N", help="what each counts, such as 1 1 2 (default: all the same)")
    add(
        "--data",
        nargs=2,
        type=Path,
        metavar=("HR", "LR"),
        help="measure PSNR on these folders, of each and of the mean",
    )
    add("--force", action="store_true", help="replace OUT if it is there")
    networks.add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Average, measure, write and tell; returns the exit code."""
    shares = _check(args)
    networks.find_weights(args)
    if args.base is None and _are_adapters(args):
        _write_adapters(args, shares)
    else:
        _write_network(args, shares)
    return 0


def _check(args: argparse.Namespace) -> list[float]:
    """All that can be known at once; gives shares that add up to 1."""
    if len(args.weights) < 2:
        raise DscsrError("two weight files or more", "one", "Name those to average.")
    if args.out.suffix.lower() not in (".pth", ".safetensors"):
        raise DscsrError("-o to end in .pth or .safetensors", f"`{args.out}`", "For others, `dscsr export` the result.")
    given = args.shares or [1.0] * len(args.weights)
    if len(given) != len(args.weights) or not all(0 < share < float("inf") for share in given):
        got = " ".join(f"{share:g}" for share in given)
        raise DscsrError(f"{len(args.weights)} positive numbers for --shares", got, "Give one for each file.")
    check_new(args.out, args.force)
    sources = [file for file in (*args.weights, args.base) if file is not None and file.exists()]
    if args.out.exists() and any(args.out.samefile(file) for file in sources):
        raise DscsrError("an output beside the sources", f"one of them: {args.out}", "Choose another name.")
    return [share / sum(given) for share in given]


def _write_network(args: argparse.Namespace, shares: list[float]) -> None:
    from tabulate import tabulate

    from dscsr_arch.averaging import average_networks
    from dscsr_arch.metadata import in_words
    from dscsr_model.cli.profile import short_names
    from dscsr_model.export.formats import choose
    from dscsr_model.export.ship import ship

    names = short_names(dict.fromkeys(args.weights))
    loaded: dict[str, nn.Module] = {}
    for file in args.weights:
        loaded[names[file]] = networks.load_network(argparse.Namespace(**{**vars(args), "weights": file}))
    if len(loaded) < len(args.weights):
        raise DscsrError("different files", "one that is named twice", "Name it once, and give it more by --shares.")
    mean = average_networks(loaded, shares)
    measured = {**loaded, "their mean": mean} if args.data else {}
    figures = {name: _measure(args.data, network) for name, network in measured.items()}
    path, form = choose(args.out, None, args.weights[0], half=False)
    shipped = ship(mean, path, form, force=args.force)
    read = [_weights_of(file, args.param_key) for file in args.weights]
    rows = [[name, where, f"{share:.3g}"] for name, where, share in zip(loaded, read, shares, strict=True)]
    if figures:
        psnrs = [[f"{one.psnr:.4f}", f"{one.psnr_y:.4f}"] for one in figures.values()]
        rows = [[*row, *psnr] for row, psnr in zip([*rows, ["their mean", "", ""]], psnrs, strict=True)]
    headers = ["network", "weights", "share", *(["PSNR", "PSNR Y"] if args.data else [])]
    print(tabulate(rows, headers, disable_numparse=True))
    lines = [f"\n{shipped.path}  {form.says}"]
    lines += [f"{in_words(shipped.metadata)}, {shipped.parameters:,} parameters when fused"]
    if shipped.quantized:
        lines.append(f"{shipped.quantized}, all else in float32")
    print("\n  ".join(lines))
    print(f"  {_judgement(figures)}")


def _measure(data: list[Path], network: nn.Module) -> Quality:
    from dscsr_model.inference.engines import torch_engine
    from dscsr_model.profiling.folders import evaluate_folders

    return evaluate_folders(torch_engine(network), *data)


def _judgement(figures: dict[str, Quality]) -> str:
    """What averaging gave."""
    measured = [(quality.psnr, name) for name, quality in figures.items()]
    if not measured:
        return "whether it is better than its parts is not known: no --data HR LR was given"
    (best, name), (mean, _) = max(measured[:-1]), measured[-1]
    return f"PSNR {mean - best:+.4f} dB against the best of them, {name}"


def _weights_of(file: Path, param_key: str | None) -> str:
    """Which weights of a file were read."""
    from dscsr_arch.weight_files import weight_sets

    return param_key or next(iter(weight_sets(file)), "unwrapped")


# --- adapters ---------------------------------------------------------------------------------------------------------


def _are_adapters(args: argparse.Namespace) -> bool:
    """Whether all are LoRA adapters alone; of some, it is said that their base is missing."""
    from dscsr_arch.low_rank import is_adapters
    from dscsr_arch.weight_files import read_state_dict

    return all(is_adapters(read_state_dict(file, args.param_key)) for file in args.weights)


def _write_adapters(args: argparse.Namespace, shares: list[float]) -> None:
    from dscsr_arch import lora_base
    from dscsr_arch.low_rank import adapters, average_lora
    from dscsr_arch.weight_files import METADATA, read_weight_file, save_state_dict

    if args.data is not None:
        raise DscsrError("--base WEIGHTS to measure adapters with", "none", "Name their base; OUT is then a network.")
    if args.out.suffix.lower() != ".pth":
        raise DscsrError("-o to end in .pth for adapters", f"`{args.out}`", "With --base, OUT is a network.")
    files = [read_weight_file(file, args.param_key) for file in args.weights]
    bases = [lora_base.from_metadata(file.metadata) for file in files]
    for file, base in zip(args.weights[1:], bases[1:], strict=True):
        if base and bases[0] and lora_base.distance(base, bases[0]) > lora_base.TOLERANCE:
            words = f"adapters that were trained on one base, that of {args.weights[0]}"
            raise WeightsError(words, "another one", "Average adapters of one training.", file)
    mean = average_lora([file.weights for file in files], shares)
    metadata = {METADATA: dict(files[0].metadata)} if files[0].metadata else {}
    with atomic(args.out, replace=args.force) as stream:
        save_state_dict({"params": mean, **metadata}, stream)
    ranks = [sum(one.lora_A.shape[0] for one in adapters(state).values()) for state in (files[0].weights, mean)]
    print(f"{args.out}  the mean of {len(files)} files of LoRA adapters, {many(len(adapters(mean)), 'layer')}")
    print(f"  {ranks[1] / ranks[0]:.3g} times the rank of the first one: updates are averaged, not their factors")
    print("  whether it is better than its parts is not known: --base WEIGHTS --data HR LR measure it")

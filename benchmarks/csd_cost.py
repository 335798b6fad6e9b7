"""What CSD costs, which its paper does not say: time and memory of a step beside those of simpler trainings.

    python benchmarks/csd_cost.py [--device cuda] [--batch 8] [--size 96] [--sizes 16x64 32x256]

Steps of the models that the option files name (forward, losses, backward, Adam, average), on random images, for EDSR
x4 of so many blocks and features and a student of a quarter of the width. VGG-19 has random weights, which cost the
same. Each training runs in a process of its own; its peak memory is that of the whole process, or of the GPU.
"""

import argparse
import copy
import logging
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch
import yaml

import dscsr_model

OPTIONS = Path(__file__).resolve().parents[1] / "options" / "train_csd_edsr_baseline_x4.yml"
WAYS = {
    "teacher alone": ("pixel_opt",),
    "student alone": ("pixel_opt",),
    "joint training": ("pixel_opt", "teacher_opt"),
    "CSD": ("pixel_opt", "teacher_opt", "contrastive_opt"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=96, help="side of the HR patches")
    parser.add_argument("--sizes", nargs="+", default=["16x64", "32x256"], help="blocks x features of EDSR")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.way:
        print(*measured(args, args.way, args.sizes[0]))
        return
    print(f"torch {torch.__version__}, {args.device}, {args.threads} threads, batch {args.batch}, HR {args.size}")
    for size in args.sizes:
        print(f"\nEDSR {size}, x4, student 0.25\n{'':16}{'step':>10}{'ratio':>8}{'peak memory':>14}")
        first = None
        for way in WAYS:
            seconds, peak = in_own_process(way, size)
            first = first or seconds
            print(f"{way:16}{seconds:8.2f} s{seconds / first:7.2f}x{peak / 2**30:10.2f} GiB", flush=True)


def in_own_process(way: str, size: str) -> tuple[float, float]:
    command = [sys.executable, __file__, *sys.argv[1:], "--way", way, "--sizes", size]
    words = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(words[-2]), float(words[-1])


def measured(args: argparse.Namespace, way: str, size: str) -> tuple[float, float]:
    """Median seconds of a step, and bytes at the peak."""
    logging.disable(logging.INFO)
    model = build(args, way, size)
    generator = torch.Generator().manual_seed(0)
    lq, gt = (torch.rand(args.batch, 3, side, side, generator=generator) for side in (args.size // 4, args.size))
    cuda, seconds = args.device != "cpu", []
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    for iteration in range(1, args.steps + 2):
        start = time.perf_counter()
        model.feed_data({"lq": lq, "gt": gt})
        model.optimize_parameters(iteration)
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return median(seconds[1:]), peak


def build(args: argparse.Namespace, way: str, size: str):
    """The model of this way, without any files."""
    dscsr_model.register()
    from basicsr.models import build_model

    opt = yaml.safe_load(OPTIONS.read_text(encoding="utf-8"))
    opt |= {"is_train": True, "dist": False, "rank": 0, "world_size": 1, "num_gpu": int(args.device != "cpu")}
    opt["path"] |= {"pretrain_network_g": None, "models": "nowhere", "training_states": "nowhere"}
    opt["train"] = {k: v for k, v in opt["train"].items() if not k.endswith("_opt") or k in WAYS[way]}
    if "contrastive_opt" in opt["train"]:
        opt["train"]["contrastive_opt"] |= {"vgg_weights": "random", "num_negatives": min(10, args.batch)}
    blocks, features = map(int, size.split("x"))
    opt["network_g"]["backbone"] |= {"num_block": blocks, "num_feat": features, "res_scale": 0.1}
    if way == "teacher alone":
        opt |= {"model_type": "EfficientSRModel", "network_g": copy.deepcopy(opt["network_g"]["backbone"])}
    return build_model(opt)


if __name__ == "__main__":
    main()

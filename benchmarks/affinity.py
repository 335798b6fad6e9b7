"""Claim: spatial affinity in tiles is at least 3 times as fast as with N×N matrices, in a 15th of the extra memory.

    python benchmarks/affinity.py [--device cuda] [--batch 8] [--size 64] [--channels 26 48]

Value and gradient for the student's features, float32. Both ways see the same features; how far their values and
gradients differ is printed first (one product of two directions that rounding puts on the other side of zero shifts
the gradient by some 1e-4; without, the difference is of the order of 1e-6). They are timed in turn, in one process;
the extra peak memory of each, that is without the features themselves, is measured in a process of its own. The last
line is ours alone on 256x256 positions, batch 1, where the matrices would take 17 GB each.
"""

import argparse
import time

import torch
from _measure import MB, extra_peak_memory, in_own_process, print_rows, seconds_of
from torch.nn import functional as F

from dscsr_model.losses.functional import spatial_affinity_loss

LARGE = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=64, help="height and width of the features")
    parser.add_argument("--channels", type=int, nargs=2, default=[26, 48], help="of student and teacher")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peak-of", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak_of:
        print(peak(args))
        return
    shape = f"batch {args.batch}, {args.channels[0]} and {args.channels[1]} channels, {args.size}x{args.size} positions"
    print(f"torch {torch.__version__}, {args.device}, {args.threads} threads, {shape}, median of {args.steps}")
    pair = features(args, args.batch, args.size)
    print_differences(*(value_and_gradient(way, *pair) for way in WAYS.values()))
    steps = {name: lambda way=way: value_and_gradient(way, *pair) for name, way in WAYS.items()}
    times = seconds_of(steps, args.steps, args.device != "cpu")
    peaks = {name: peak_in_own_process(args, name, args.batch, args.size) for name in WAYS}
    print_rows(("matrices", "tiles"), times, peaks)
    print_large(args)


def matrices(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The plain way: the formula with its N×N matrices."""
    s, t = (F.normalize(feature.flatten(2), dim=1) for feature in (student, teacher))
    return (s.mT @ s - t.mT @ t).abs().mean()


WAYS = {"matrices": matrices, "tiles": spatial_affinity_loss}


def features(args: argparse.Namespace, batch: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(batch, c, size, size, generator=generator) for c in args.channels)
    return student.to(args.device).requires_grad_(), teacher.to(args.device)


def value_and_gradient(way, student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    value = way(student, teacher)
    return value.detach(), torch.autograd.grad(value, student)[0]


def print_differences(plain, ours) -> None:
    value, gradient = ((a - b).double().norm() / a.double().norm() for a, b in zip(plain, ours, strict=True))
    print(f"relative differences: {value:.1e} of the value, {gradient:.1e} of the gradient")


def peak_in_own_process(args: argparse.Namespace, way: str, batch: int, size: int) -> float:
    own = ("--batch", batch, "--size", size, "--channels", *args.channels, "--threads", args.threads)
    return in_own_process(__file__, "--peak-of", way, "--device", args.device, *own)


def peak(args: argparse.Namespace) -> float:
    way, small, pair = WAYS[args.peak_of], features(args, 2, 8), features(args, args.batch, args.size)
    steps = (lambda: value_and_gradient(way, *small), lambda: value_and_gradient(way, *pair))
    return extra_peak_memory(*steps, args.device != "cpu")


def print_large(args: argparse.Namespace) -> None:
    pair = features(args, 1, LARGE)
    start = time.perf_counter()
    value = value_and_gradient(spatial_affinity_loss, *pair)[0].item()
    seconds = time.perf_counter() - start
    extra = peak_in_own_process(args, "tiles", 1, LARGE)
    print(f"{LARGE}x{LARGE} positions, batch 1: value {value:.4f} in {seconds:.1f} s, {extra / MB:.0f} MB extra")


if __name__ == "__main__":
    main()

"""Claim: a training step through merged kernels is at least 3.5 times as fast as the plain four convolutions of SPAN.

    python benchmarks/span_train_step.py [--network SPANF] [--device cuda] [--batch 8] [--size 48]

Of SPANF and SPANV2 (``--network``) it is at least 3 times as fast.

One step is forward, L1 loss, backward and Adam. Both ways start from the same weights and see the same batch; the
relative difference of their gradients is printed beside the ratio, and at how many pixels rounding turns the sign of
the L1 loss (one such pixel shifts the gradient by some 1e-5; without, the difference is of the order of 1e-7). The two
are timed in turn, step by step, so that whatever else the machine does meets both alike.
"""

import argparse
import sys
import time
from pathlib import Path
from statistics import median

import torch
from torch.nn import functional as F

from dscsr_arch import SPAN, SPANF, SPANV2

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from plain_span import PlainSPAN, PlainSPANF, PlainSPANV2

NETWORKS = {
    "SPAN": (SPAN, PlainSPAN, (26, 28, 48)),
    "SPANF": (SPANF, PlainSPANF, (32,)),
    "SPANV2": (SPANV2, PlainSPANV2, (32,)),
}
"""Ours, the plain one, and widths."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="SPAN")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=48, help="side of the LR patches")
    parser.add_argument("--steps", type=int, default=15)
    args = parser.parse_args()
    print(f"{args.network}, torch {torch.__version__}, {args.device}, {torch.get_num_threads()} threads, ", end="")
    print(f"batch {args.batch}, {args.size}x{args.size} LR, x4, median of {args.steps} steps")
    print(f"{'channels':>8}  {'plain':>9}  {'merged':>9}  {'ratio':>6}  gradient difference  turned signs")
    for channels in NETWORKS[args.network][2]:
        compare(channels, args)


def compare(channels: int, args: argparse.Namespace) -> None:
    """Print one row: seconds per step of both ways, their ratio and how far their first gradients differ."""
    torch.manual_seed(0)
    ours, plain_one, _ = NETWORKS[args.network]
    plain = plain_one(channels).to(args.device)
    merged = ours(feature_channels=channels).to(args.device)
    merged.load_state_dict(plain.state_dict())
    lq = torch.rand(args.batch, 3, args.size, args.size, device=args.device)
    gt = torch.rand(args.batch, 3, 4 * args.size, 4 * args.size, device=args.device)
    turned = turned_signs(plain, merged, lq, gt)
    steps = [make_step(network, lq, gt) for network in (plain, merged)]
    for step in steps:
        step()
    difference = gradient_difference(plain, merged)
    seconds = [[], []]
    for index in range(args.steps + 2):
        for step, times in zip(steps, seconds, strict=True):
            start = time.perf_counter()
            step()
            if index >= 2:  # warm-up
                times.append(time.perf_counter() - start)
    slow, fast = (median(times) for times in seconds)
    times = f"{slow * 1e3:6.1f} ms  {fast * 1e3:6.1f} ms  {slow / fast:5.2f}x"
    print(f"{channels:8d}  {times}  {difference:19.1e}  {turned:12d}")


@torch.no_grad()
def turned_signs(plain, merged, lq, gt) -> int:
    """Output pixels that lie above their target one way and below it the other."""
    return int(((plain(lq) > gt) != (merged(lq) > gt)).sum())


def make_step(network, lq, gt):
    """One training step, finished when it returns."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)

    def step():
        optimizer.zero_grad()
        F.l1_loss(network(lq), gt).backward()
        optimizer.step()
        if lq.is_cuda:
            torch.cuda.synchronize()

    return step


def gradient_difference(plain, merged) -> float:
    """Norm of the difference of all gradients over the norm of the plain ones."""
    named = dict(merged.named_parameters())
    pairs = [(parameter.grad, named[name].grad) for name, parameter in plain.named_parameters()]
    difference = sum((a - b).double().square().sum() for a, b in pairs)
    return (difference / sum(a.double().square().sum() for a, _ in pairs)).sqrt().item()


if __name__ == "__main__":
    main()

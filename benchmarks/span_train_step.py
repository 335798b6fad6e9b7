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
from contextlib import nullcontext
from pathlib import Path

import torch
from _measure import seconds_of
from torch import nn
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
    networks = both(args.network, channels, args.device)
    images = batch(args.batch, args.size, args.device)
    turned = turned_signs(*networks.values(), *images)
    steps = {way: make_step(network, *images) for way, network in networks.items()}
    for step in steps.values():
        step()
    difference = gradient_difference(*networks.values())
    slow, fast = seconds_of(steps, args.steps, args.device != "cpu").values()
    times = f"{slow * 1e3:6.1f} ms  {fast * 1e3:6.1f} ms  {slow / fast:5.2f}x"
    print(f"{channels:8d}  {times}  {difference:19.1e}  {turned:12d}")


def both(kind: str, channels: int, device: str) -> dict[str, nn.Module]:
    """The plain network and ours, of the same weights."""
    ours, plain_one, _ = NETWORKS[kind]
    plain = plain_one(channels).to(device)
    merged = ours(feature_channels=channels).to(device)
    merged.load_state_dict(plain.state_dict())
    return {"plain": plain, "merged": merged}


def batch(number: int, size: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Random LR and HR patches, x4."""
    lq = torch.rand(number, 3, size, size, device=device)
    return lq, torch.rand(number, 3, 4 * size, 4 * size, device=device)


@torch.no_grad()
def turned_signs(plain, merged, lq, gt) -> int:
    """Output pixels that lie above their target one way and below it the other."""
    return int(((plain(lq) > gt) != (merged(lq) > gt)).sum())


def make_step(network, lq, gt, *, forward=None, dtype=None, **optimizer):
    """One training step; of a GPU nothing waits for its end.

    Args:
        network: Is trained.
        lq: Patches.
        gt: What they should become.
        forward: The network in another form, such as compiled.
        dtype: Of autocast; None: float32.
        optimizer: Further options of Adam.
    """
    adam = torch.optim.Adam(network.parameters(), lr=1e-4, **optimizer)
    run = network if forward is None else forward
    precision = lambda: torch.autocast(lq.device.type, dtype, cache_enabled=False) if dtype else nullcontext()  # noqa: E731

    def step():
        adam.zero_grad()
        with precision():
            output = run(lq)
        F.l1_loss(output.float(), gt).backward()
        adam.step()

    return step


def gradient_difference(plain, merged) -> float:
    """Norm of the difference of all gradients over the norm of the plain ones."""
    named = dict(merged.named_parameters())
    pairs = [(parameter.grad, named[name].grad) for name, parameter in plain.named_parameters()]
    difference = sum((a - b).double().square().sum() for a, b in pairs)
    return (difference / sum(a.double().square().sum() for a, _ in pairs)).sqrt().item()


if __name__ == "__main__":
    main()

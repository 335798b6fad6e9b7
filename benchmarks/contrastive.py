"""Claim: the contrastive loss takes at most half the time and half the extra memory of comparing all pairs at once.

    python benchmarks/contrastive.py [--device cuda] [--batch 8] [--negatives 10] [--size 96]

Value and gradient, float32, for the five layers of a VGG-19 with random weights. Two tables:

- the loss, given the features of student, teacher and negatives: what the claim is about;
- the whole of it, with VGG-19 run on all images and the gradient brought back to the student's. The plain way then
  runs it as the official code does: on one tensor after the other, in torchvision's order of memory. Most of this
  time is VGG-19's on either way.

Both ways see the same images; how far their values and gradients differ is printed first. They are timed in turn, in
one process; the extra peak memory of each, that is without what goes in, is measured in a process of its own.
"""

import argparse
import copy

import torch
from _measure import extra_peak_memory, in_own_process, print_rows, seconds_of
from torch import Tensor, nn

from dscsr_model.losses.contrastive_loss import ContrastiveLoss
from dscsr_model.losses.functional.contrastive import LAYER_WEIGHTS, contrastive_loss
from dscsr_model.losses.vgg import VGG19Features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--negatives", type=int, default=10)
    parser.add_argument("--size", type=int, default=96, help="side of the images")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peak-of", nargs=2, metavar=("TABLE", "WAY"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak_of:
        print(peak(args))
        return
    shape = f"batch {args.batch}, {args.negatives} negatives, {args.size}x{args.size}"
    print(f"torch {torch.__version__}, {args.device}, {args.threads} threads, {shape}, median of {args.steps}")
    for table, title in (("loss", "the loss, given features"), ("whole", "with VGG-19")):
        steps = build(args, table, args.batch, args.negatives, args.size)
        value, gradient = differences(*(step() for step in steps.values()))
        print(f"\n{title}; relative differences: {value:.1e} of the value, {gradient:.1e} of the gradient")
        times = seconds_of(steps, args.steps, args.device != "cpu")
        print_rows(("all pairs", "ours"), times, {way: peak_in_own_process(args, table, way) for way in steps})


def all_pairs(student: list[Tensor], teacher: list[Tensor], negatives: list[Tensor]) -> Tensor:
    """The plain way: every sample and every negative put beside each other."""
    loss = torch.zeros((), device=student[0].device)
    for weight, s, t, n in zip(LAYER_WEIGHTS, student, teacher, negatives, strict=True):
        pairs = n.unsqueeze(1).expand(-1, len(s), -1, -1, -1)
        near, far = (t - s).abs().mean(), (pairs - s).abs().sum(0).mean()
        loss = loss + weight * near / (far + 1e-7)
    return loss


def build(args: argparse.Namespace, table: str, batch: int, negatives: int, size: int) -> dict:
    """The two ways, each a function that gives value and gradients."""
    generator = torch.Generator().manual_seed(0)
    counts = (batch, batch, negatives)
    images = [torch.rand(n, 3, size, size, generator=generator).to(args.device) for n in counts]
    if table == "whole":
        return whole(args, *images)
    vgg = VGG19Features("random").to(args.device)
    with torch.no_grad():
        features = [[layer.contiguous() for layer in vgg(image)] for image in images]
    student = [feature.requires_grad_() for feature in features[0]]
    ways = {"all pairs": all_pairs, "ours": contrastive_loss}
    return {name: lambda way=way: differentiated(way(*features), student) for name, way in ways.items()}


def whole(args: argparse.Namespace, student: Tensor, teacher: Tensor, negatives: Tensor) -> dict:
    loss = ContrastiveLoss(vgg_weights="random").to(args.device)
    plain_layers = copy.deepcopy(loss.vgg.features).to(memory_format=torch.contiguous_format)
    images = student.requires_grad_(), teacher, negatives

    def plain() -> Tensor:
        normalized = [(image - loss.vgg.mean) / loss.vgg.std for image in images]
        return all_pairs(*(plain_features(plain_layers, image) for image in normalized))

    ways = {"all pairs": plain, "ours": lambda: loss(*images)}
    return {name: lambda way=way: differentiated(way(), [student]) for name, way in ways.items()}


def plain_features(layers: nn.Sequential, x: Tensor) -> list[Tensor]:
    found = []
    for index, layer in enumerate(layers):
        x = layer(x)
        if index in (1, 6, 11, 20, 29):  # relu1_1 … relu5_1
            found.append(x)
    return found


def differentiated(value: Tensor, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
    return value.detach(), torch.cat([gradient.flatten() for gradient in torch.autograd.grad(value, inputs)])


def differences(plain, ours) -> list[Tensor]:
    return [(a - b).double().norm() / a.double().norm() for a, b in zip(plain, ours, strict=True)]


def peak_in_own_process(args: argparse.Namespace, table: str, way: str) -> float:
    numbers = ("--batch", args.batch, "--negatives", args.negatives, "--size", args.size, "--threads", args.threads)
    return in_own_process(__file__, "--peak-of", table, way, "--device", args.device, *numbers)


def peak(args: argparse.Namespace) -> float:
    table, way = args.peak_of
    small = build(args, table, 2, 2, 16)[way]
    return extra_peak_memory(
        small, build(args, table, args.batch, args.negatives, args.size)[way], args.device != "cpu"
    )


if __name__ == "__main__":
    main()

"""Claim: on a CPU, SPAN super-resolves at least 2.5 times as fast in our engine as the official way does.

    python benchmarks/inference.py [--weights FILE] [--size 256] [--channels 28] [--seconds 60] [--ways NAME ...]

The official way is SPAN in eval mode as its authors run it: every Conv3XC merges its four convolutions again at every
call and then runs one convolution, in float32, NCHW. Against it stand `dscsr_model.inference.engines` of the same
weights, and the other backends; int8 needs `--weights`, and is calibrated on images like the one that is timed. All are
run in turns, call by call, so that whatever else the machine does meets all alike. Beside the ratio of the medians
stands the median of the ratios turn by turn, and how far each output is from the official one: the largest difference
(of outputs in [0, 1]), and PSNR after rounding both to 8 bits.

A second claim: in float32 at least 1.9 times on CPUs without AVX-512, by the best backend, with ``--size 512``, whose
features outgrow a server's last cache, too. ``ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2`` in the environment
makes PyTorch, the official way too, and OpenVINO such; ONNX Runtime and ncnn know no such switch.
"""

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from torch import nn
from torch.nn import functional as F

from dscsr_arch import SPAN, load_model
from dscsr_model.cli.backend import write
from dscsr_model.export.calibration import Sample, Samples
from dscsr_model.export.int8 import to_int8
from dscsr_model.inference.backends import BACKENDS, open_network
from dscsr_model.inference.engines import torch_engine
from dscsr_model.profiling.machine import describe, in_words

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from plain_span import PlainConv3XC, PlainSPAN

CLAIM = 2.5
WAYS = {
    "fp32": {},
    "fp32 nchw": {"channels_last": False},
    "bf16": {"precision": "bf16"},
    "fp32 compiled": {"compile": True},
    "bf16 compiled": {"compile": True, "precision": "bf16"},
    "onnx": None,
    "openvino": None,
    "ncnn": None,
    "openvino bf16": None,
    "onnx int8": None,
    "openvino int8": None,
}
"""What PyTorch's engine is told, or else a backend and what it computes in."""


class OfficialConv3XC(PlainConv3XC):
    """Merged anew at every call, as the authors' eval forward does."""

    def forward(self, x):
        """Merge, then run one convolution."""
        w1, b1 = self.conv[0].weight.data, self.conv[0].bias.data
        w2, b2 = self.conv[1].weight.data, self.conv[1].bias.data
        w3, b3 = self.conv[2].weight.data, self.conv[2].bias.data
        w = F.conv2d(w1.flip(2, 3).permute(1, 0, 2, 3), w2, padding=2).flip(2, 3).permute(1, 0, 2, 3)
        b = (w2 * b1.reshape(1, -1, 1, 1)).sum((1, 2, 3)) + b2
        w = F.conv2d(w.flip(2, 3).permute(1, 0, 2, 3), w3).flip(2, 3).permute(1, 0, 2, 3)
        b = (w3 * b.reshape(1, -1, 1, 1)).sum((1, 2, 3)) + b3
        return F.conv2d(x, w + F.pad(self.sk.weight.data, (1, 1, 1, 1)), b + self.sk.bias.data, padding=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="of SPAN (default: random ones, which take as long)")
    parser.add_argument("--channels", type=int, default=28)
    parser.add_argument("--size", type=int, default=256, help="side of the LR image")
    parser.add_argument("--seconds", type=float, default=60, help="for all turns (default 60)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    args = parser.parse_args()
    torch.manual_seed(0)
    network = load_model(args.weights) if args.weights else SPAN(feature_channels=args.channels)
    network = network.eval().unfuse()
    x = image(args.size)
    ways = [way for way in args.ways if args.weights or "int8" not in way]
    calls = {"official": as_official(network, x), **{way: as_engine(network, way, x) for way in ways}}
    print(
        f"{in_words(describe(torch.device('cpu')))}; SPAN-{network.conv_1.sk.out_channels} x{network.upscale}, ", end=""
    )
    print(f"{args.size}x{args.size} LR")
    outputs = {way: call() for way, call in calls.items()}  # a warm-up, too
    times = in_turns(calls, args.seconds)
    print_rows(times, outputs)


def image(height: int, width: int | None = None) -> torch.Tensor:
    """Soft shapes with some noise, as photographs have them."""
    size = (height, width or height)
    soft = F.interpolate(torch.rand(1, 3, *(side // 8 + 1 for side in size)), size, mode="bicubic")
    return (soft + 0.03 * torch.randn(1, 3, *size)).clamp(0, 1)


def official(network: nn.Module) -> nn.Module:
    """The authors' network of these weights, which have their branches, where they are."""
    plain = PlainSPAN(network.conv_1.sk.out_channels, network.upscale).eval()
    for module in plain.modules():
        if isinstance(module, PlainConv3XC):
            module.__class__ = OfficialConv3XC
    weights = {name: value for name, value in network.state_dict().items() if "eval_conv" not in name}
    plain.load_state_dict(weights)
    return plain


def as_official(network: nn.Module, x: torch.Tensor):
    plain = official(network).to(x.device)

    @torch.no_grad()
    def call():
        return plain(x)

    return call


def as_engine(network: nn.Module, way: str, x: torch.Tensor):
    settings = WAYS[way]
    if settings is not None:
        engine = torch_engine(network, device="cpu", **settings)
        return lambda: engine(x)
    name, _, kind = way.partition(" ")
    with tempfile.TemporaryDirectory() as folder:
        if kind == "int8":
            to_int8(network, Path(folder, "int8.onnx"), like(x), opset=17)
            engine = BACKENDS[name].open(Path(folder, "int8.onnx"), device="cpu", precision="fp32")
        else:
            settings = {"device": "cpu", "precision": kind or "fp32"}
            engine = open_network(BACKENDS[name], network, Path(folder), write, **settings)
    return lambda: engine(x)


def like(x: torch.Tensor) -> Samples:
    """Images like the one that is timed, to calibrate with, and that one to measure on."""
    made = [(each[0].permute(1, 2, 0) * 255).byte().numpy() for each in (x, *(image(96) for _ in range(12)))]
    timed, *others = (Sample(each, None) for each in made)
    return Samples(others, [timed])


def in_turns(calls: dict, seconds: float) -> dict[str, list[float]]:
    """Seconds of every call; each turn runs every way twice, and the second counts.

    Before the first, caches are another way's, and threads of ONNX Runtime may still be waiting busily for work.
    """
    times = {way: [] for way in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["official"]) < 5:
        for way, call in calls.items():
            call()
            start = time.perf_counter()
            call()
            times[way].append(time.perf_counter() - start)
    return times


def print_rows(times: dict[str, list[float]], outputs: dict[str, torch.Tensor]) -> None:
    medians = {way: median(values) for way, values in times.items()}
    print(f"{'way':<14} {'median':>9} {'ratio':>6} {'by turn':>8} {'fastest':>9}  {'largest difference':>18}  PSNR")
    best = 0.0
    for way, values in times.items():
        ratio = medians["official"] / medians[way]
        by_turn = median(a / b for a, b in zip(times["official"], values, strict=True))
        difference = (outputs[way] - outputs["official"]).abs().max().item()
        line = f"{way:<14} {medians[way] * 1e3:6.1f} ms {ratio:5.2f}x {by_turn:7.2f}x {min(values) * 1e3:6.1f} ms"
        print(f"{line}  {difference:18.1e}  {eight_bit_psnr(outputs[way], outputs['official']):.1f} dB")
        best = max(best, ratio)
    print(f"{len(times['official'])} turns; the fastest way is {best:.2f} times as fast (claim: {CLAIM})")


def eight_bit_psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    """Of both rounded to 8 bits, in dB; inf if they are then equal."""
    a, b = ((x.clamp(0, 1) * 255).round().double() for x in (one, other))
    error = (a - b).square().mean().item()
    return 10 * math.log10(255**2 / error) if error else math.inf


if __name__ == "__main__":
    main()

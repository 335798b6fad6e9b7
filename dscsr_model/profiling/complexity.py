"""Parameters, operations, activations and convolutions of a network, counted as NTIRE's efficient-SR track does.

The track's test code (https://github.com/Amazingren/NTIRE2025_ESR, ``test_demo.py``) takes the operations from fvcore,
for one RGB image of 256×256, and adds up the outputs of convolutions for the activations. One multiplication with
its addition is one operation; additions, activation functions and pixel shuffles are none.

Different from it: convolutions count wherever they are called, not in ``nn.Conv2d`` modules alone, and so do
attention, batched products and convolutions with ``padding="same"``, which fvcore passes over.
"""

from __future__ import annotations

import warnings
from collections import Counter
from math import prod
from typing import Any, NamedTuple

import torch
from torch import nn

from dscsr_arch.deployable import deployable
from dscsr_arch.errors import DscsrError, UnavailableError
from dscsr_arch.sizes import size_requirements
from dscsr_model.data.memory import free_memory
from dscsr_model.inference.receptive_field import PROBE_SIDE, memory_per_pixel, try_channels


class Complexity(NamedTuple):
    """What a network is and does for one image."""

    parameters: int
    """Numbers that were learned, of the fused network; buffers such as a mean are none."""
    flops: int
    """Multiplications with an addition each, as fvcore counts them."""
    activations: int
    """Numbers that convolutions put out."""
    convolutions: int
    uncounted: tuple[str, ...] = ()
    """Operators of weight, attention or the like, that nobody here can count: not in ``flops``."""


def count(network: nn.Module, height: int = 256, width: int = 256, *, flops: bool = True) -> Complexity:
    """Count for one image of ``height`` × ``width``, fused or not: always the fused network's figures.

    The network is traced on the CPU, where it runs once. One that takes multiples of a window runs on what the image
    is padded to, as everywhere. Without ``flops``, only parameters are counted, which needs no fvcore.
    """
    network = deployable(network)
    learned = sum(parameter.numel() for parameter in network.parameters())
    if not flops:
        return Complexity(learned, 0, 0, 0)
    sizes = size_requirements(network)
    channels, _ = try_channels(network, sizes.fit(PROBE_SIDE))
    height, width = sizes.fit(height), sizes.fit(width)
    check_memory(memory_per_pixel(network, channels, sizes), height, width, torch.device("cpu"))
    sums, uncounted = _trace(network, (1, channels, height, width))
    activations, convolutions = sums.pop("activations", 0), sums.pop("convolutions", 0)
    return Complexity(learned, int(sum(sums.values())), int(activations), int(convolutions), uncounted)


def check_memory(bytes_per_pixel: float, height: int, width: int, device: torch.device) -> None:
    """Raise `DscsrError` if a run on an image of this size would take more memory than is free."""
    wanted, free = bytes_per_pixel * height * width, free_memory(device)
    if wanted > free:
        raise DscsrError(
            f"room for an image of {height}×{width}, about {wanted / 2**30:.1f} GiB",
            f"{free / 2**30:.1f} GiB that are free on {device}",
            "Choose a smaller --size.",
        )


def _trace(network: nn.Module, shape: tuple[int, ...]) -> tuple[dict[str, float], tuple[str, ...]]:
    """What was counted by name, and the names of operators of weight that were not."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # fvcore uses what PyTorch calls deprecated
            from fvcore.nn import FlopCountAnalysis
    except ModuleNotFoundError as error:
        remedy = "Run `pip install 'dscsr[profile]'`."
        raise UnavailableError("fvcore to count operations with", f"no {error.name}", remedy) from error
    analysis = FlopCountAnalysis(network, torch.zeros(shape)).set_op_handle(**_HANDLES)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    try:
        with torch.no_grad():
            sums, unsupported = analysis.by_operator(), analysis.unsupported_ops()
    except Exception as error:
        raise DscsrError(
            f"a network that runs on images of {shape[2]}×{shape[3]}",
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
            "Try a larger size, or one that its strides divide.",
        ) from error
    return dict(sums), tuple(sorted(name for name in unsupported if any(part in name for part in _HEAVY)))


def _shape(value: Any) -> list[int]:
    """Of a value in a traced graph."""
    return list(value.type().sizes())


def _convolution(inputs: Any, outputs: Any) -> Any:
    """``_convolution(x, weight, bias, stride, padding, dilation, transposed, …)``, fvcore's formula."""
    transposed = bool(inputs[6].toIValue())
    return _convolution_counts(_shape(inputs[0] if transposed else outputs[0]), inputs, outputs)


def _convolution_mode(inputs: Any, outputs: Any) -> Any:
    """``_convolution_mode(x, weight, bias, stride, "same" or "valid", …)``."""
    return _convolution_counts(_shape(outputs[0]), inputs, outputs)


def _convolution_counts(where: list[int], inputs: Any, outputs: Any) -> Any:
    flops = where[0] * prod(_shape(inputs[1])) * prod(where[2:])
    return Counter({"conv": flops, "activations": prod(_shape(outputs[0])), "convolutions": 1})


def _attention(inputs: Any, outputs: Any) -> int:
    """``scaled_dot_product_attention(q, k, v, …)``: two products, of q and k (L×E, E×S), and with v (L×S, S×D)."""
    query, key, value = map(_shape, inputs[:3])
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _baddbmm(inputs: Any, outputs: Any) -> int:
    """``baddbmm(c, a, b, …)`` = c + a·b."""
    return prod(_shape(inputs[1])) * _shape(inputs[2])[-1]


_HANDLES = {
    "aten::_convolution": _convolution,
    "aten::_convolution_mode": _convolution_mode,
    "aten::scaled_dot_product_attention": _attention,
    "aten::baddbmm": _baddbmm,
}
_HEAVY = ("conv", "mm", "mv", "dot", "attention", "linear", "lstm", "gru", "rnn", "fft", "PythonOp")
"""Parts of the names of operators that do more than a few operations a pixel."""

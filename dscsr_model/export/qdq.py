"""Quantized networks in ONNX: QuantizeLinear and DequantizeLinear (QDQ) with the scales that training learned.

Weights are stored as int8. In 4 bits these are whole numbers from -7 to 7, and the file is no smaller than one of 8
bits: INT4 begins with opset 21. Biases are added in float32 behind the convolutions: ONNX Runtime would round those
inside to multiples of both scales' product, which in 4 bits moves every pixel.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from dscsr_arch.conv_lora import replace_layers
from dscsr_arch.quantized_conv import QuantizedConv, quantized_layers
from dscsr_arch.quantizers import Levels


def to_qdq(network: nn.Module) -> nn.Module:
    """A copy of ``network`` whose quantized convolutions torch's exporter writes as QDQ; without any, the network."""
    if not any(layer.input_levels for layer in quantized_layers(network).values()):
        return network
    network = copy.deepcopy(network)
    layers = quantized_layers(network).values()
    # One that no image has reached computes as a plain layer, and is written as one.
    return replace_layers(network, {layer: QDQConv(layer, found) for layer in layers if (found := layer.input_levels)})


class QDQConv(nn.Module):
    """What a `QuantizedConv` computes, of whole numbers."""

    def __init__(self, layer: QuantizedConv, levels: Levels) -> None:
        super().__init__()
        self.levels = levels
        self.conv = [layer]  # not a module of this one: its float weight would be written
        steps, scale = layer.weight_steps()
        self.register_buffer("weight", steps)
        self.register_buffer("weight_scale", scale.flatten())
        self.register_buffer("zeros", torch.zeros(len(scale), dtype=torch.int8))
        self.register_buffer("input_scale", (layer.alpha / self.levels[1]).detach())
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """As the layer."""
        x = _Rounded.apply(x, self.input_scale, self.levels)
        weight = _Dequantized.apply(self.weight, self.weight_scale, self.zeros)
        out = self.conv[0]._conv_forward(x, weight, None)
        return out if self.bias is None else out + self.bias.view(-1, 1, 1)


class _Rounded(torch.autograd.Function):
    """On levels: a clip where the type of whole numbers has more of them, then QuantizeLinear, DequantizeLinear."""

    @staticmethod
    def forward(_: Any, x: Tensor, scale: Tensor, levels: Levels) -> Tensor:
        return (x / scale).clamp(*levels).round() * scale

    @staticmethod
    def symbolic(graph: Any, x: Any, scale: Any, levels: Levels) -> Any:
        low, high = levels
        zero = _constant(graph, torch.tensor(0, dtype=torch.int8 if low else torch.uint8))
        if high != 255:
            limits = (graph.op("Mul", scale, _constant(graph, torch.tensor(float(end)))) for end in levels)
            x = graph.op("Clip", x, *limits)
        return graph.op("DequantizeLinear", graph.op("QuantizeLinear", x, scale, zero), scale, zero)


class _Dequantized(torch.autograd.Function):
    """Whole numbers times the scale of their output channel."""

    @staticmethod
    def forward(_: Any, steps: Tensor, scale: Tensor, zeros: Tensor) -> Tensor:
        return steps.to(scale.dtype) * scale.view(-1, 1, 1, 1)

    @staticmethod
    def symbolic(graph: Any, steps: Any, scale: Any, zeros: Any) -> Any:
        return graph.op("DequantizeLinear", steps, scale, zeros, axis_i=0)


def _constant(graph: Any, value: Tensor) -> Any:
    return graph.op("Constant", value_t=value)

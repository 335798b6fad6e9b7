"""Convolutions whose input and weight are quantized while they train: the layer, and how it comes into networks.

Formulas and papers: `quantizers`. A quantized network has the names of the plain one's weights, in full precision, and
beside them ``<layer>.quant_clip``, ``.quant_max`` and ``.quant_levels``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dscsr_arch.architecture import StateDict
from dscsr_arch.conv_lora import Network, lora_layers, meets, named_layers, readers, replace_layers
from dscsr_arch.errors import QuantizationError
from dscsr_arch.lora_layer import conv_geometry, is_plain
from dscsr_arch.no_autocast import no_autocast
from dscsr_arch.quantizers import Levels, Method, levels, quantize, quantize_weight, weight_scale

ENTRIES = ("quant_clip", "quant_max", "quant_levels")
"""Of a layer in state dicts, beside weight and bias."""
BITS = (4, 8)
_GAIN = 10
"""Clips have further to go than weights: those of 4 bits end near half of where they begin."""
FULL_PRECISION = ("*upsampl*",)
"""Layers that stay as they are, beside those that read the image and the last one."""


class QuantizedConv(nn.Conv2d):
    """A convolution of a quantized input with a quantized weight; its bias stays as it is.

    The clip of the input is ``quant_max · exp(10 · quant_clip)``: a largest value that is measured (`calibrate`), and
    what is learned, which starts at 0. So it stays positive, and a step of Adam changes it by ten times the learning
    rate, relatively, whatever range a network works in. A layer that is not calibrated computes as the plain one.

    Args:
        layer: A plain convolution, whose parameters, geometry, dtype, device and mode it takes over.
        method: What the clip learns from; it plays no part in what is computed.
        bits: Of input and weight, of `BITS`.
    """

    quant_max: Tensor
    quant_levels: Tensor

    def __init__(self, layer: Any, method: Method, bits: int) -> None:
        super().__init__(**conv_geometry(layer))
        self.weight, self.bias = layer.weight, layer.bias
        self.method, self.bits = method, bits
        like: dict[str, Any] = {
            "device": self.weight.device,
            "dtype": torch.promote_types(self.weight.dtype, torch.float32),
        }
        self.quant_clip = nn.Parameter(torch.zeros((), **like))
        self.register_buffer("quant_max", torch.zeros((), **like))
        self.register_buffer("quant_levels", torch.tensor(levels(bits, signed=True), device=self.weight.device))
        self.input_levels: Levels | None = None  # the buffer's once calibrated: to read that, one waits for a GPU
        self.train(layer.training)

    @property
    def alpha(self) -> Tensor:
        """The clip of the input; differentiable."""
        return self.quant_max * self.relative_clip

    @property
    def relative_clip(self) -> Tensor:
        """The clip in parts of where it began."""
        return torch.exp(_GAIN * self.quant_clip)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that the plain layer has
        """As the plain layer."""
        if self.input_levels is None:
            return self._conv_forward(input, self.weight, self.bias)
        precise = self.quant_clip.dtype if self.quant_clip.dtype == torch.float64 else torch.float32
        with no_autocast(input.device):
            x = quantize(input.to(precise), self.alpha.to(precise), self.input_levels, self.method)
            weight = quantize_weight(self.weight.to(precise), self.bits)
        return self._conv_forward(x.to(input.dtype), weight.to(self.weight.dtype), self.bias)

    @torch.no_grad()
    def calibrate(self, largest: float | Tensor, signed: bool) -> None:
        """Begin to quantize: with a clip at the largest input, negative ones too if ``signed``."""
        self.input_levels = levels(self.bits, signed=signed)
        self.quant_clip.zero_()
        self.quant_max.fill_(largest)
        self.quant_levels.copy_(torch.tensor(self.input_levels))

    def weight_steps(self) -> tuple[Tensor, Tensor]:
        """The weight as whole numbers, int8, and what these are multiplied by, (out, 1, 1, 1)."""
        scale = weight_scale(self.weight, self.bits)
        return (quantize_weight(self.weight, self.bits) / scale).detach().round().to(torch.int8), scale

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load a file of the plain layer, or one of other bits, too: then the layer is to be calibrated anew."""
        own = {entry: state_dict.get(f"{prefix}{entry}") for entry in ENTRIES}
        known = None if own["quant_levels"] is None else bits_of(own["quant_levels"])
        is_plain = all(tensor is None for tensor in own.values())
        if is_plain or known not in (self.bits, None):
            fresh = {"quant_clip": torch.zeros(()), "quant_max": torch.zeros(()), "quant_levels": self.quant_levels}
            state_dict.update({f"{prefix}{entry}": tensor for entry, tensor in fresh.items()})
        super()._load_from_state_dict(state_dict, prefix, *args)
        if not self.quant_max.is_meta:
            low, high = map(int, self.quant_levels)
            self.input_levels = (low, high) if float(self.quant_max) > 0 else None

    def extra_repr(self) -> str:
        """What ``print`` shows between the brackets."""
        return f"{super().extra_repr()}, bits={self.bits}, input_levels={self.input_levels}"


def bits_of(steps: Tensor) -> int | None:
    """The bits that a layer's ``quant_levels`` are of; None of what is on the meta device.

    Raises:
        QuantizationError: They are none that a layer has.
    """
    if steps.is_meta:
        return None
    found = tuple(steps.flatten()[:3].tolist())
    for bits in BITS:
        if found in (levels(bits, signed=True), levels(bits, signed=False)):
            return bits
    raise QuantizationError(f"levels of {' or '.join(map(str, BITS))} bits", f"{found}", "Ask for a whole file.")


def quantized_layers(network: nn.Module) -> dict[str, QuantizedConv]:
    """The quantized layers of ``network``, by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, QuantizedConv)}


def require_full_precision(network: nn.Module, what: str) -> None:
    """Raise `QuantizationError` if ``network``, which is to become ``what``, has quantized layers."""
    if words := in_words(network):
        remedy = (
            "Take the network that it was trained from, or one of the formats that keep it: pth, safetensors, onnx."
        )
        raise QuantizationError(f"a network in full precision for {what}", f"one with {words}", remedy)


def weight_bytes(network: nn.Module) -> int:
    """What the parameters of ``network`` take: quantized weights in their bits, all others as they are."""
    packed = sum(layer.weight.numel() * layer.bits for layer in quantized_layers(network).values()) / 8
    full = {layer.weight for layer in quantized_layers(network).values()}
    return math.ceil(packed) + sum(
        each.numel() * each.element_size() for each in network.parameters() if each not in full
    )


def in_words(network: nn.Module) -> str:
    """``18 convolutions in 4 bits``; empty for a network without any."""
    layers = quantized_layers(network).values()
    bits = " and ".join(str(each) for each in sorted({layer.bits for layer in layers}))
    return f"{len(layers)} convolutions in {bits} bits" if layers else ""


def bits_by_layer(state_dict: StateDict) -> dict[str, int]:
    """The quantized layers of which these weights are, with their bits; `QuantizationError` if they have no such."""
    end = f".{ENTRIES[2]}"
    found = {name.removesuffix(end): bits_of(tensor) for name, tensor in state_dict.items() if name.endswith(end)}
    return {name: bits or BITS[-1] for name, bits in found.items()}


def inject_as(network: Network, state_dict: StateDict) -> Network:
    """Quantize those layers of ``network``, in place, that are quantized in these weights; they are loaded later."""
    named = dict(network.named_modules())
    planned = {named[name]: bits for name, bits in bits_by_layer(state_dict).items() if name in named}
    plain = {layer: bits for layer, bits in planned.items() if isinstance(layer, nn.Conv2d) and is_plain(layer)}
    return replace_layers(network, {layer: QuantizedConv(layer, "pams", bits) for layer, bits in plain.items()})


def inject(network: Network, method: Method, bits: int, full_precision: Sequence[str] = FULL_PRECISION) -> Network:
    """Quantize the convolutions of ``network``, in place; see `QuantizedConv`.

    Args:
        network: Any, of plain convolutions: ours are to be fused first (``SPAN.fuse()``).
        method: PACT or PAMS.
        bits: Of `BITS`.
        full_precision: Patterns of names, as of ``fnmatch``, whose convolutions stay as they are. So do always those
            that read as many channels as the first, which are the image's, and the last.

    Raises:
        QuantizationError: The network has LoRA, or quantized layers, or none that could be; or a pattern meets none.
    """
    if lora_layers(network) or quantized_layers(network):
        got = "quantized layers" if quantized_layers(network) else "LoRA"
        raise QuantizationError("a plain network to quantize", f"one with {got}", "Fuse it first.")
    convolutions = {layer: names for layer, names in named_layers(network).items() if isinstance(layer, nn.Conv2d)}
    met = {
        pattern: {layer for layer, names in convolutions.items() if any(meets(name, pattern) for name in names)}
        for pattern in full_precision
    }
    if idle := [pattern for pattern, layers in met.items() if not layers and pattern not in FULL_PRECISION]:
        got = f"{idle[0]!r}, which meets none of {', '.join(names[0] for names in convolutions.values())}"
        raise QuantizationError("patterns of convolutions that stay in full precision", got, "Correct it.")
    ends, read = list(convolutions)[:1] + list(convolutions)[-1:], readers(network)
    kept = {layer for layer in convolutions if layer in ends or layer.in_channels == ends[0].in_channels}
    kept |= set().union(*met.values())
    chosen = [layer for layer in convolutions if layer not in kept and layer not in read and is_plain(layer)]
    if not chosen:
        raise QuantizationError("a convolution to quantize", "none", "Leave fewer in full precision.")
    return replace_layers(network, {layer: QuantizedConv(layer, method, bits) for layer in chosen})

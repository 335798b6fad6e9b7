"""Which channels of a network belong together, found by running it once on a small image.

A convolution makes channels of its own and reads those of its input. Whatever acts on each channel alone keeps them, an
addition or a product makes the channels of both sides one, ``cat`` puts them side by side, a pixel shuffle of r makes
one of r². What comes out are channels that can only stay, move or go as a whole, with the entries of every kernel that
belong to them. Channels that meet any other operation (an attention or a norm over channels) have to stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dscsr_arch.channel_split import tensors

_CHANNEL_ALONE = {
    *("_prelu_kernel", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool2d", "max_pool2d", "alias", "detach"),
    *("constant_pad_nd", "reflection_pad2d", "replication_pad2d", "contiguous", "_to_copy", "dropout", "mean"),
    *("upsample_nearest2d", "_upsample_nearest_exact2d", "upsample_bilinear2d", "upsample_bicubic2d"),
}
"""Operators beside pointwise ones that keep channels, as long as the output has those of the input."""
_RESHAPE = {"view", "_unsafe_view", "reshape", "expand", "unsqueeze", "_reshape_alias"}

Side = tuple[str, int]
"""A tensor by its name, and one of its dimensions."""


class Channels(NamedTuple):
    """Channels of a network, as numbers below a total."""

    total: int
    sides: dict[Side, list[int]]
    """The channel of every entry, of each dimension that holds channels."""
    made: list[Side]
    """Those of them that make channels: of kernels, and of transposed ones, the outputs."""
    fixed: dict[int, str]
    """Channels that cannot be moved, and what they go through."""


def trace_channels(network: nn.Module, image: Tensor) -> Channels:
    """Follow the channels of ``network``, fused, through one run on ``image`` (B, C, H, W), in its dtype."""
    trace = _Trace({id(tensor): name for name, tensor in reversed(tensors(network).items())})
    trace.fix(trace.new(image, image.shape[1]), "the image")
    with torch.no_grad(), trace:
        output = network(image)
    if isinstance(output, Tensor):
        trace.fix(trace.of(output, 1), "the output")
    return trace.result()


class _Trace(TorchDispatchMode):
    """Sees each operator with its tensors."""

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self._names = names
        self._parents: list[int] = []
        self._known: dict[int, tuple[Tensor, list[int]]] = {}  # with the tensor: its id is not to be used again
        self._sides: dict[Side, list[int]] = {}
        self._made: dict[Side, None] = {}
        self._fixed: dict[int, str] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        inputs = [each for each in _flat(args) if isinstance(each, Tensor)]
        if name == "convolution":
            self._convolution(args, out)
        elif name == "cat" and (args[1:] or (0,))[0] in (1, 1 - out.dim()):
            self._set(out, [channel for each in args[0] for channel in self.of(each, 1)])
        elif name == "pixel_shuffle" and out.dim() == 4:
            channels = self.of(args[0], 1)
            step = args[1] ** 2
            self._same([channels[i // step * step] for i in range(len(channels))], channels)
            self._set(out, channels[::step])
        elif torch.Tag.pointwise in func.tags or name == "_prelu_kernel":
            self._pointwise(inputs, out)
        elif name in _CHANNEL_ALONE and out.dim() == inputs[0].dim() > 1 and out.shape[:2] == inputs[0].shape[:2]:
            self._set(out, self.of(inputs[0], 1))
        elif name in _RESHAPE and (channels := self._only_axis(inputs[0])) and out.shape[-3:].count(1) == 2:
            self._set(out, channels)
        else:
            self._unknown(name, inputs, out)
        return out

    def new(self, tensor: Tensor, count: int) -> list[int]:
        """Channels of their own for a tensor."""
        channels = self._fresh(count)
        self._set(tensor, channels)
        return channels

    def of(self, tensor: Tensor, axis: int) -> list[int]:
        """The channels of a tensor along ``axis``; of one that nobody knows, fixed ones."""
        if id(tensor) in self._known:
            return self._known[id(tensor)][1]
        if name := self._names.get(id(tensor)):
            return self._side(name, axis, tensor.shape[axis])
        channels = self.new(tensor, tensor.shape[axis])
        return self.fix(channels, "values computed aside")

    def fix(self, channels: list[int], why: str) -> list[int]:
        """Let channels neither move nor go."""
        for channel in channels:
            self._fixed.setdefault(channel, why)
        return channels

    def result(self) -> Channels:
        """What was found."""
        sides = {side: [self._root(channel) for channel in channels] for side, channels in self._sides.items()}
        fixed = {self._root(channel): why for channel, why in self._fixed.items()}
        return Channels(len(self._parents), sides, list(self._made), fixed)

    def _convolution(self, args: Sequence[Any], out: Tensor) -> None:
        x, weight, bias, transposed, groups = args[0], args[1], args[2], args[6], args[8]
        reads, name = self.of(x, 1), self._names.get(id(weight))
        outputs = out.shape[1]
        if name is None or groups not in (1, len(reads)):
            why = "kernels that are computed" if name is None else f"a convolution in {groups} groups"
            self.fix(reads, why)
            self.fix(self.new(out, outputs), why)
            return
        if groups == 1:
            made = (name, 1 if transposed else 0)
            channels = self._side(*made, outputs)
            self._same(self._side(name, 0 if transposed else 1, len(reads)), reads)
            self._made[made] = None
        else:  # each channel of the input by itself
            channels = [channel for channel in reads for _ in range(outputs // groups)]
            self._same(self._side(name, 0, weight.shape[0]), reads if transposed else channels)
        if bias is not None and id(bias) in self._names:
            self._same(self._side(self._names[id(bias)], 0, outputs), channels)
        elif bias is not None:
            self.fix(channels, "a bias that is computed")
        self._set(out, channels)

    def _pointwise(self, inputs: Sequence[Tensor], out: Tensor) -> None:
        """Channels are the second dimension of the output; smaller tensors are stretched from the right."""
        if out.dim() < 2:
            return
        channels: list[int] | None = None
        for tensor in inputs:
            axis = 1 - out.dim() + tensor.dim()
            if axis < 0 or tensor.shape[axis] != out.shape[1] or tensor.numel() == 1:
                continue  # the same for every channel
            if channels is None:
                channels = self.of(tensor, axis)
            else:
                self._same(channels, self.of(tensor, axis))
        self._set(out, channels or self._fresh(out.shape[1]))

    def _unknown(self, name: str, inputs: Iterable[Tensor], out: Any) -> None:
        seen = [tensor for tensor in inputs if id(tensor) in self._known or id(tensor) in self._names]
        for tensor in seen:
            if id(tensor) in self._known:
                self.fix(self._known[id(tensor)][1], f"`{name}`")
            else:
                for axis, size in enumerate(tensor.shape):
                    self.fix(self._side(self._names[id(tensor)], axis, size), f"`{name}`")
        for tensor in _flat([out]):
            if isinstance(tensor, Tensor) and tensor.dim() > 1 and seen and id(tensor) not in self._names:
                self.fix(self.new(tensor, tensor.shape[1]), f"`{name}`")

    def _only_axis(self, tensor: Tensor) -> list[int]:
        """Channels of a parameter that has no other dimension, such as the slopes of a PReLU."""
        axes = [axis for axis, size in enumerate(tensor.shape) if size > 1]
        return self.of(tensor, axes[0]) if len(axes) == 1 and id(tensor) in self._names else []

    def _side(self, name: str, axis: int, size: int) -> list[int]:
        return self._sides.setdefault((name, axis), self._fresh(size) if (name, axis) not in self._sides else [])

    def _fresh(self, count: int) -> list[int]:
        start = len(self._parents)
        self._parents += range(start, start + count)
        return list(range(start, start + count))

    def _set(self, tensor: Tensor, channels: list[int]) -> None:
        self._known[id(tensor)] = tensor, channels

    def _same(self, some: Sequence[int], others: Sequence[int]) -> None:
        for one, other in zip(some, others, strict=True):
            self._parents[self._root(other)] = self._root(one)

    def _root(self, channel: int) -> int:
        while self._parents[channel] != channel:
            self._parents[channel] = channel = self._parents[self._parents[channel]]
        return channel


def _flat(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value

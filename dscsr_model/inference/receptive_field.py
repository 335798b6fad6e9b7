"""What a network needs around a pixel, and of memory: seen in one run on a small image, whatever its code is."""

from __future__ import annotations

import math
import weakref
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dscsr_arch.errors import SizeError
from dscsr_arch.sizes import ANY_SIZE, SizeRequirements, likely_channels

PROBE_SIDE = 32
_LOCAL_NAMES = """
    abs add add_ addcmul alias cat chunk clamp clamp_ clamp_max clamp_min clone constant_pad_nd contiguous
    convolution copy_ detach div div_ elu empty empty_like eq exp expand fill_ full full_like ge gelu gt hardsigmoid
    hardswish hardtanh le leaky_relu leaky_relu_ lift_fresh log lt maximum minimum mul mul_ neg new_empty new_zeros
    ones permute pixel_shuffle pow _prelu_kernel reciprocal relu relu_ repeat reshape rsub scalar_tensor select
    sigmoid sigmoid_ silu silu_ slice softplus split split_with_sizes sqrt squeeze stack sub sub_ t tanh tanh_
    _to_copy transpose type_as unbind unsafe_split unsqueeze view _unsafe_view where zeros
"""
_LOCAL = frozenset(f"aten::{name}" for name in _LOCAL_NAMES.split())
"""Operations of ATen that see one pixel only, or (convolution, padding) a neighbourhood that is counted."""
_INTERPOLATION = {"aten::upsample_nearest2d": 0, "aten::upsample_bilinear2d": 1, "aten::upsample_bicubic2d": 2}
"""How many pixels these see beside one."""


class ReceptiveField(NamedTuple):
    """What a network needs around a pixel and of memory."""

    radius: int
    """Pixels of the input beside a pixel, in every direction, that can change its result."""
    local: bool
    """Whether nothing farther away can (no attention over the whole image); else tiles are no exact cut."""
    bytes_per_pixel: float
    """Peak memory of a run per pixel of the input, without the weights."""
    sizes: SizeRequirements = ANY_SIZE
    """Sides of the input that it takes."""


class _Watch(TorchDispatchMode):
    """Notes, while a network runs, how far its convolutions reach and how much its tensors hold."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.radius = 0.0
        self.local = True
        self.peak = 0
        self._held = 0
        self._users: dict[int, int] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here; or else torch._dynamo would be imported, which takes two seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name
        if name == "aten::convolution":
            self._convolution(*args)
        elif name in _INTERPOLATION:
            self.radius += _INTERPOLATION[name] * self.width / args[0].shape[-1]
        elif name not in _LOCAL:
            self.local = False
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self._hold(tensor)
        return result

    def _convolution(self, x: Tensor, weight: Tensor, _: Any, stride: Any, pad: Any, dilation: Any, *rest: Any) -> None:
        if max(stride) > 1 or rest[0]:  # tiles would have to begin at multiples of the stride
            self.local = False
        reach = max((side - 1) * gap / 2 for side, gap in zip(weight.shape[2:], dilation, strict=True))
        self.radius += reach * self.width / x.shape[-1]

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        if place not in self._users:
            self._held += size
            self.peak = max(self.peak, self._held)
        self._users[place] = self._users.get(place, 0) + 1
        weakref.finalize(tensor, self._release, place, size)

    def _release(self, place: int, size: int) -> None:
        self._users[place] -= 1
        if not self._users[place]:
            del self._users[place]
            self._held -= size


@torch.no_grad()
def receptive_field(network: nn.Module, channels: int, sizes: SizeRequirements = ANY_SIZE) -> ReceptiveField:
    """Look at a run of a float32 network on the CPU.

    Args:
        network: From (1, channels, H, W) to (1, C, H·s, W·s).
        channels: Of its input.
        sizes: Of its input that it takes.

    Returns:
        The radius is the sum of what all convolutions reach, each at its resolution: exact where they follow one
        another, as in SPAN and EDSR, and never too small for a network that is `local`.
    """
    side = sizes.fit(PROBE_SIDE)
    with _Watch(side) as watch:
        network(torch.zeros(1, channels, side, side))
    return ReceptiveField(math.ceil(watch.radius - 1e-6), watch.local, watch.peak / side**2, sizes)


@torch.no_grad()
def try_channels(network: nn.Module, side: int) -> tuple[int, tuple[int, ...]]:
    """How many channels a network takes, and the shape that it makes of (1, channels, side, side).

    Raises:
        SizeError: It takes none of the usual numbers.
    """
    for channels in likely_channels(network):
        with suppress(Exception):  # a network may fail in any way
            return channels, tuple(network(torch.zeros(1, channels, side, side)).shape)
    raise SizeError(
        f"Expected a network that takes an image of 1, 3 or 4 channels and {side}x{side} pixels, but "
        f"{type(network).__name__} takes none. Give another network."
    )

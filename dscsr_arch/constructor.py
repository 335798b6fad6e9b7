"""Constructors of networks: their arguments are checked where they come in, and kept."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from dscsr_arch.errors import ArgumentError

RGB_MEAN = (0.4488, 0.4371, 0.4040)
"""Of DIV2K: the default of most networks."""
IMG_RANGE = 255.0
"""Their default range."""
_LARGEST = 1e9
"""Of numbers: far beyond any range of an image, and far within float32."""

Init = TypeVar("Init", bound=Callable[..., None])


class Kind(NamedTuple):
    """What an argument has to be. Anything can come: option files and metadata of files hold what they like."""

    words: str
    accepts: Callable[[Any], bool]


def one_of(*values: int) -> Kind:
    """One of some whole numbers."""
    return Kind(f"one of {values}", lambda value: type(value) is int and value in values)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST < value < _LARGEST


def _are_numbers(value: object) -> bool:
    return isinstance(value, list | tuple) and 0 < len(value) < 100 and all(map(_is_number, value))


COUNT = Kind("a whole number from 1", lambda value: type(value) is int and 0 < value < _LARGEST)
NUMBER = Kind("a number", _is_number)
POSITIVE = Kind("a positive number, such as 255 or 1", lambda value: _is_number(value) and value > 1 / _LARGEST)
NUMBERS = Kind("a list of numbers", _are_numbers)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))

IMAGE = {"num_in_ch": COUNT, "num_out_ch": COUNT, "img_range": POSITIVE, "rgb_mean": NUMBERS}
"""Arguments that most networks have."""


def constructor(**kinds: Kind) -> Callable[[Init], Init]:
    """Decorate the ``__init__`` of a network.

    All its arguments, defaults too, are then ``self.arguments`` by name, so that nobody has to read them off its
    layers. Those named here are checked before anything is built (`kinds_of` gives what they have to be): one that is
    not of its kind is an ArgumentError.
    """

    def decorate(init: Init) -> Init:
        signature = inspect.signature(init)

        @functools.wraps(init)
        def checked(self: Any, *args: Any, **kwargs: Any) -> None:
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            given = dict(list(bound.arguments.items())[1:])
            for name, kind in kinds.items():
                if not kind.accepts(given[name]):
                    raise ArgumentError(f"`{name}` to be {kind.words}", repr(given[name]))
            init(self, *args, **kwargs)
            self.arguments = {**getattr(self, "arguments", {}), **given}  # beside those of a base class

        checked.kinds = kinds  # type: ignore[attr-defined]
        return checked  # type: ignore[return-value]

    return decorate


def kinds_of(network: type) -> dict[str, Kind]:
    """What the arguments of a network have to be, as far as its `constructor` says."""
    return getattr(network.__init__, "kinds", {})  # type: ignore[misc]


def check_residual(residual: bool, channels: tuple[int, int], upscale: int) -> None:
    """Raise `ArgumentError` if a network is to add its input to an output that has not its size and ``channels``."""
    if residual and (upscale != 1 or channels[0] != channels[1]):
        words = "`residual: true` where the output is as large as the image, `upscale: 1` with as many channels"
        got = f"upscale {upscale}, channels {channels[0]} in and {channels[1]} out"
        raise ArgumentError(words, got, "Leave `residual` out.")


def input_mean(rgb_mean: Sequence[float], channels: int) -> Tensor:
    """Mean of each channel that a network takes off its input, (1, channels, 1, 1) float32.

    Of a network of one channel it is the luma (ITU-R BT.601, with which gray images are made) of a mean of R, G, B.
    """
    check_mean(rgb_mean, channels)
    if channels == 1 and len(rgb_mean) == 3:
        red, green, blue = rgb_mean
        rgb_mean = [0.299 * red + 0.587 * green + 0.114 * blue]
    return torch.tensor(rgb_mean).view(1, -1, 1, 1)


def check_mean(rgb_mean: Sequence[float], channels: int) -> None:
    """Raise `ArgumentError` unless there is a value for each channel, or for one channel those of R, G and B."""
    if len(rgb_mean) != channels and (channels, len(rgb_mean)) != (1, 3):
        words = f"`rgb_mean` to have one value per input channel ({channels})"
        raise ArgumentError(words, len(rgb_mean), "Give the mean of each channel.")

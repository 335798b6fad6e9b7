"""A narrow network as the first channels of a wide one: prefix slices of every parameter and buffer.

From "Towards Compact Single Image Super-Resolution via Contrastive Self-distillation" (arXiv 2105.11683,
https://github.com/Booooooooooo/CSD).

Different from the original, which rewrites every layer: the narrow network's own ``forward`` runs on slices of the
wide one's tensors, ``p_student = p_teacher[:s0, :s1, …]`` with ``s`` the student's own shape. So its own constructor
attributes hold, and concatenated channels are sliced as prefixes of the concatenation, as in the official code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase

from dscsr_arch.errors import ArgumentError


def prefix(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """The first entries of ``tensor`` in every dimension: a view of ``shape``, or ``tensor`` itself if it has it."""
    if tensor.shape == torch.Size(shape):
        return tensor
    return tensor[tuple(slice(size) for size in shape)]


def scaled_arguments(arguments: Mapping[str, Any], names: Sequence[str], width: float) -> dict[str, Any]:
    """Constructor arguments of the student: those under ``names`` times ``width``."""
    scaled = dict(arguments)
    for name in names:
        value = arguments.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            words = f"`{name}` to be a whole number in the backbone, since it is its width"
            raise ArgumentError(words, repr(value), "Give it there, or name other `width_args`.")
        channels = round(value * width)
        if channels < 1 or not math.isclose(channels, value * width, rel_tol=1e-6):
            words = f"width {width:g} to leave a whole number of channels, from 1"
            remedy = f"Choose a multiple of 1/{value} such as {max(1, channels) / value:g}."
            raise ArgumentError(words, f"{value * width:g} of `{name}: {value}`", remedy)
        scaled[name] = channels
    return scaled


def check_split(teacher: nn.Module, student: nn.Module, width: float) -> None:
    """Raise `ArgumentError` unless every tensor of ``student`` is a prefix of the one that ``teacher`` calls so."""
    for name, module in teacher.named_modules():
        if isinstance(module, _NormBase) and module.track_running_stats:
            got = f"{type(module).__name__} at {name!r}: teacher and student would overwrite each other's"
            remedy = "Use a backbone with another normalisation."
            raise ArgumentError("a backbone without running statistics", got, remedy)
    wide, narrow = tensors(teacher), tensors(student)
    remedy = "This network cannot be split by these `width_args`."
    if differing := sorted(wide.keys() ^ narrow.keys()):
        got = f"a difference in {', '.join(differing[:4])}"
        raise ArgumentError(f"the same layers at width {width:g} as at width 1", got, remedy)
    for name, tensor in narrow.items():
        large, small = tuple(wide[name].shape), tuple(tensor.shape)
        if len(large) != len(small) or any(s > t for s, t in zip(small, large, strict=True)):
            raise ArgumentError(
                f"{name} at width {width:g} to be a part of its shape {large} at width 1", small, remedy
            )
        if 0 in small and 0 not in large:
            words = f"width {width:g} to leave at least one channel in every layer"
            raise ArgumentError(words, f"{small} for {name} of {large}", "Choose a larger width, or a wider backbone.")
    if all(tensor.shape == wide[name].shape for name, tensor in narrow.items()):
        remedy = "Name the arguments that set the channels of the network as `width_args`."
        raise ArgumentError(f"width {width:g} to make layers narrower", "the same shapes as at width 1", remedy)


def tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, non-persistent ones too, by name; one that is used twice has each of its names."""
    return {
        **dict(network.named_parameters(remove_duplicate=False)),
        **dict(network.named_buffers(remove_duplicate=False)),
    }


def split_tensors(teacher: nn.Module, student: nn.Module) -> dict[str, Tensor]:
    """The student's tensors as views of the teacher's, through which gradients flow back to the teacher's."""
    wide = tensors(teacher)
    narrow = {**dict(student.named_parameters()), **dict(student.named_buffers())}  # one that is shared once only
    return {name: prefix(wide[name], tensor.shape) for name, tensor in narrow.items()}


def split_forward(teacher: nn.Module, student: nn.Module, x: Tensor) -> Any:
    """Run ``student`` (shapes on the meta device will do) on the first channels of ``teacher``."""
    return functional_call(student, split_tensors(teacher, student), (x,))

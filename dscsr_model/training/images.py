"""Batches of images on their way into a network: checked; turned and made float, on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dscsr_arch.errors import DscsrError
from dscsr_model.stored_values import as_values


def check_batch(data: Mapping[str, Any], names: Sequence[str]) -> None:
    """Check that a batch has images (B, C, H, W) under these names.

    Raises:
        DscsrError: It has not.
    """
    for name in names:
        found = data.get(name)
        if not isinstance(found, Tensor) or found.dim() != 4:
            raise DscsrError(
                f"images (B, C, H, W) as `{name}` of each batch",
                f"the shape {tuple(found.shape)}" if isinstance(found, Tensor) else "none",
                "Take a dataset of image pairs, such as PairedImageDataset, or the model type that the dataset was "
                "made for.",
            )


def check_output(output: Tensor, gt: Tensor) -> None:
    """Check that a network gives images of the ground truth's shape: torch would stretch one channel to three.

    Raises:
        DscsrError: It does not.
    """
    if output.shape != gt.shape:
        expected = f"images {tuple(gt.shape)}, as the ground truth is, from the network"
        raise DscsrError(expected, tuple(output.shape), "Give it the channels and the scale of the data.")


def as_float(images: Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
    """Images (B, C, H, W), uint8, int16 of `stored_values`, or float in [0, 1], as float32."""
    if images.dtype == torch.uint8:
        return images.to(torch.float32, memory_format=memory_format).div_(255)
    if images.dtype == torch.int16:
        images = as_values(images)
    return images.contiguous(memory_format=memory_format)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of a batch on the device; nothing waits for it.

    BasicSR's ``prefetch_mode: cuda`` takes memory for a batch on a stream of its own and would write the next one there
    while kernels that read this one still wait: it does not know that another stream uses it unless it is told.
    """
    there = tensor.to(device, non_blocking=True)
    if there.is_cuda:
        there.record_stream(torch.cuda.current_stream(there.device))
    return there


def turned(images: Tensor, orientation: Tensor) -> Tensor:
    """Turn each image of a batch its own way.

    Args:
        images: (B, C, S, S), any type: squares, since some may be transposed.
        orientation: (B,) int64 in 0..7; bit 0 mirrors left to right, bit 1 top to bottom, bit 2 then exchanges rows
            and columns, as BasicSR's augmentation does it.

    Returns:
        (B, C, S, S), of the same type.
    """
    turns = ((1, lambda x: x.flip(-1)), (2, lambda x: x.flip(-2)), (4, lambda x: x.transpose(-1, -2)))
    for bit, turn in turns:
        chosen = (orientation & bit).bool().view(-1, 1, 1, 1)
        images = torch.where(chosen, turn(images), images)
    return images

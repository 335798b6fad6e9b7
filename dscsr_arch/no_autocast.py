"""Weights that are made of other weights are formed in full precision, and rounded once."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.amp.autocast_mode import is_autocast_available


def no_autocast(device: torch.device) -> AbstractContextManager[object]:
    """No autocast inside: a product of matrices that it rounded would lose too much."""
    return torch.autocast(device.type, enabled=False) if is_autocast_available(device.type) else nullcontext()

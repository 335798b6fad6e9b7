"""Weights that are made of other weights are formed in full precision, and rounded once."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def no_autocast(device: torch.device) -> AbstractContextManager[object]:
    """No autocast inside: a product of matrices that it rounded would lose too much."""
    # Named, not asked for by is_autocast_available(), which torch 2.6 cannot compile.
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)

"""Lets BasicSR's sampler tell a dataset more than a number: the epoch and the repeat too (see ``data/draws.py``)."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any


def hand_out_draws() -> None:
    """Make every ``EnlargedSampler`` hand out draws to datasets that take them; others get their numbers as ever.

    ``basicsr`` must be imported. A repeat does nothing.
    """
    from basicsr.data.data_sampler import EnlargedSampler

    from dscsr_model.data.draws import draws, takes_draws

    original = EnlargedSampler.__iter__
    if hasattr(original, "hands_out_draws"):
        return

    @functools.wraps(original)
    def iterate(self: Any) -> Iterator[Any]:
        return draws(self) if takes_draws(self.dataset) else original(self)

    iterate.hands_out_draws = True  # type: ignore[attr-defined]
    EnlargedSampler.__iter__ = iterate

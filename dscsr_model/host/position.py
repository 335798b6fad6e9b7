"""How far a training has come, in iterations and in epochs of today."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Position:
    """How far a training has come.

    Attributes:
        iteration: Counted from its start.
        epoch: In which the next iteration is, counted in today's batches and data set.
        samples: Of that epoch, which each rank has used.
    """

    iteration: int
    epoch: int
    samples: int

    @classmethod
    def after(cls, iteration: int, batches: int, batch: int) -> Position:
        """The position after an iteration, where an epoch has so many batches of so many samples on each rank."""
        epoch, made = divmod(iteration, batches)
        return cls(iteration, epoch, made * batch)

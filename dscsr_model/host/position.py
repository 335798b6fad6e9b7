"""Where in its epochs a training is, whatever batches and data set it had before."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any


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


def resumed(state: dict[str, Any], batches: int, batch: int) -> Position:
    """Where the resumed training goes on; where epochs were longer or shorter before, BasicSR's loop is told."""
    position = Position.after(state["iter"], batches, batch)
    ended = position.samples == 0  # saved at the end of the epoch before
    if state["epoch"] not in (position.epoch, position.epoch - ended):
        logging.getLogger("basicsr").info(
            "Epochs are counted anew, since the batch or the data set changed: iteration "
            f"{position.iteration}, which was in epoch {state['epoch']}, is in epoch {position.epoch}, after "
            f"{position.samples // batch} of {batches} batches."
        )
    state["epoch"] = position.epoch
    return position

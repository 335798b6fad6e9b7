"""What a sampler hands to a dataset that draws by key: not only which image, but in which epoch and where in it.

BasicSR's samplers know the epoch, its datasets don't; and with ``dataset_enlarge_ratio`` the same index comes many
times in an epoch. A dataset whose randomness is keyed needs all of it, in whatever process it runs and however far
the loader reads ahead, so it travels with the index.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class SampleKey(NamedTuple):
    """One sample to be made: of the image of this number, at this position in the order of an epoch (of all ranks)."""

    image: int
    epoch: int = 0
    position: int = 0


def takes_sample_keys(dataset: Any) -> bool:
    """Whether a dataset asks for keys instead of numbers."""
    return bool(getattr(dataset, "takes_sample_keys", False))

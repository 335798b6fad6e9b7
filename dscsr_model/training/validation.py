"""Validation shared among ranks: each takes every n-th picture, scores are computed in threads beside the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from torch import distributed
from torch.utils.data import Dataset, default_collate
from tqdm import tqdm

Pictures = Mapping[str, np.ndarray]
"""``img`` (the result) and, where there is one, ``img2`` (the ground truth): (H, W, 3) uint8 BGR."""

# More pictures than this wait for their scores nowhere: memory stays bounded where SSIM is slower than the network.
_WAITING = 4


def validate(
    dataset: Dataset[Any],
    super_resolve: Callable[[Mapping[str, Any]], Pictures],
    finish: Callable[[Pictures, str], Mapping[str, float]],
    *,
    rank: int = 0,
    world_size: int = 1,
    progress: bool = False,
) -> dict[str, float]:
    """Mean scores over a dataset, the same on every rank and for every number of ranks.

    Args:
        dataset: With a length; items are dictionaries with ``lq`` and ``lq_path``.
        super_resolve: Makes the pictures from a batch of one; runs in the calling thread.
        finish: Scores (and saves) pictures, given the item's ``lq_path``; runs in other threads.
        rank: This process takes the items rank, rank + world_size, …
        world_size: Number of processes that call this together.
        progress: Show a progress bar.

    Returns:
        Metric to mean.
    """
    indices = range(rank, len(dataset), world_size)  # type: ignore[arg-type]
    scores: dict[int, Future[Mapping[str, float]]] = {}
    with (
        ThreadPoolExecutor(1) as reader,
        ThreadPoolExecutor(2) as scorers,
        tqdm(total=len(indices), unit="image", disable=not progress, leave=False) as bar,
    ):
        following = reader.submit(_item, dataset, indices[0]) if indices else None
        for place, index in enumerate(indices):
            batch = following.result() if following is not None else _item(dataset, index)
            following = reader.submit(_item, dataset, indices[place + 1]) if place + 1 < len(indices) else None
            pictures = super_resolve(batch)
            scores[index] = scorers.submit(finish, pictures, batch["lq_path"][0])
            _wait_for(list(scores.values())[:-_WAITING])
            bar.update()
        mine = {index: dict(future.result()) for index, future in scores.items()}
    return _mean(_gather(mine))


def _item(dataset: Dataset[Any], index: int) -> dict[str, Any]:
    batch: dict[str, Any] = default_collate([dataset[index]])
    return batch


def _wait_for(futures: Sequence[Future[Any]]) -> None:
    for future in futures:
        future.result()


def _gather(mine: dict[int, dict[str, float]]) -> dict[int, dict[str, float]]:
    if not (distributed.is_available() and distributed.is_initialized()):
        return mine
    everyone: list[dict[int, dict[str, float]]] = [{} for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(everyone, mine)
    return {index: scores for part in everyone for index, scores in part.items()}


def _mean(scores: dict[int, dict[str, float]]) -> dict[str, float]:
    """In the order of the dataset, so that the sum does not depend on who computed what."""
    ordered = [scores[index] for index in sorted(scores)]
    return {name: float(np.mean([each[name] for each in ordered])) for name in ordered[0]} if ordered else {}

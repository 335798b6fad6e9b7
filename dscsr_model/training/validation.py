"""Validation shared among ranks: each takes every n-th image, scores are computed in threads beside the network."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from torch import distributed, nn
from torch.utils.data import Dataset, default_collate
from tqdm import tqdm

from dscsr_model.read_ahead import read_ahead
from dscsr_model.training.stopping import Stopped

Images = Mapping[str, np.ndarray]
"""``img`` (the result) and, where there is one, ``img2`` (the ground truth): (H, W, 3) uint8 BGR."""
Scores = Mapping[str, float | str]
"""Metric to value; to words, if it could not be computed."""

# So many images may wait for their scores: memory stays bounded where SSIM is slower than the network.
_WAITING = 4


def validate(
    dataset: Dataset[Any],
    super_resolve: Callable[[Mapping[str, Any]], Images],
    finish: Callable[[Images, str], Scores],
    *,
    rank: int = 0,
    world_size: int = 1,
    progress: bool = False,
    asked: Callable[[], int] = lambda: 0,
) -> dict[str, float | str]:
    """Mean scores over a dataset, the same on every rank and for every number of ranks.

    Args:
        dataset: With a length; items are dictionaries with ``lq`` and ``lq_path``.
        super_resolve: Makes the images from a batch of one; runs in the calling thread.
        finish: Scores (and saves) images, given the item's ``lq_path``; runs in other threads.
        rank: This process takes the items rank, rank + world_size, …
        world_size: Number of processes that call this together.
        progress: Show a progress bar, where there is a terminal.
        asked: The signal that has asked this process to stop, or 0.

    Returns:
        Metric to mean; to words, if an image could not be scored by it: a mean of the others would be another number.

    Raises:
        Stopped: On every rank, after the image in work, when one of them was asked to stop.
    """
    indices = range(rank, len(dataset), world_size)  # type: ignore[arg-type]
    scores: dict[int, dict[str, float | str]] = {}
    waiting: deque[tuple[int, Future[Scores]]] = deque()
    with (
        ThreadPoolExecutor(2) as scorers,
        tqdm(total=len(indices), unit="image", disable=None if progress else True, leave=False) as bar,
    ):
        for index, batch in zip(indices, read_ahead(partial(_item, dataset), indices), strict=True):
            if asked():
                break
            waiting.append((index, scorers.submit(finish, super_resolve(batch), batch["lq_path"][0])))
            while len(waiting) > (_WAITING if index != indices[-1] else 0):
                scored, future = waiting.popleft()
                scores[scored] = dict(future.result())
                bar.update()
    everyone = _gathered((asked(), scores))
    if signal_number := max(number for number, _ in everyone):
        raise Stopped(signal_number)
    return _mean({index: each for _, part in everyone for index, each in part.items()})


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """``network`` in eval mode inside; afterwards each of its modules is in the mode it was in."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        network.train(modes[0][1])  # also what follows it without being a module of it, such as CSSRNet's students
        for module, training in modes:
            module.training = training


def _item(dataset: Dataset[Any], index: int) -> dict[str, Any]:
    batch: dict[str, Any] = default_collate([dataset[index]])
    return batch


def _gathered(mine: Any) -> list[Any]:
    if not (distributed.is_available() and distributed.is_initialized()):
        return [mine]
    everyone = [mine] * distributed.get_world_size()
    distributed.all_gather_object(everyone, mine)
    return everyone


def _mean(scores: dict[int, dict[str, float | str]]) -> dict[str, float | str]:
    """In the order of the dataset, so that the sum does not depend on who computed what."""
    ordered = [scores[index] for index in sorted(scores)]
    means: dict[str, float | str] = {}
    for name in ordered[0] if ordered else ():
        values = [each[name] for each in ordered]
        faults = [value for value in values if isinstance(value, str)]
        means[name] = faults[0] if faults else float(np.mean(np.array(values, float)))
    return means

"""Validation shared among ranks: each takes every n-th image, scores are computed in threads beside the network.

And what is remembered of validations: the best score of each metric, and when each set was validated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset, default_collate
from tqdm import tqdm

from dscsr_model.read_ahead import read_ahead
from dscsr_model.training.ranks import gathered
from dscsr_model.training.stopping import Stopped

Image = NDArray[np.uint8]
"""(H, W, 3) BGR, or (H, W) of one channel."""
Results = Mapping[str, Image]
"""An image super-resolved in every way that is validated, by the label of the way."""
Scores = Mapping[str, float | str]
"""Metric to value; to words, if it could not be computed."""

# So many images may wait for their scores: memory stays bounded where SSIM is slower than the network.
_WAITING = 4


def validate(
    dataset: Dataset[Any],
    super_resolve: Callable[[Mapping[str, Any]], tuple[Results, Image | None]],
    finish: Callable[[Results, Image | None, str], Scores],
    *,
    rank: int = 0,
    world_size: int = 1,
    progress: bool = False,
    asked: Callable[[], int] = lambda: 0,
) -> dict[str, float | str]:
    """Mean scores over a dataset, the same on every rank and for every number of ranks.

    Args:
        dataset: With a length; items are dictionaries with ``lq`` and ``lq_path``.
        super_resolve: Gives results and ground truth, where there is one, of a batch of one; runs in the calling
            thread.
        finish: Scores (and saves) these, given the item's ``lq_path``, too; runs in other threads.
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

    def made() -> Iterator[tuple[Results, Image | None, str]]:
        for batch in read_ahead(partial(_item, dataset), indices):
            if asked():
                return
            yield (*super_resolve(batch), batch["lq_path"][0])

    finished = read_ahead(lambda images: dict(finish(*images)), made(), ahead=_WAITING, threads=2)
    bar = tqdm(finished, total=len(indices), unit="image", disable=None if progress else True, leave=False)
    scores = dict(zip(indices, bar, strict=False))
    everyone = gathered((asked(), scores))
    if signal_number := max(number for number, _ in everyone):
        raise Stopped(signal_number)
    return _mean({index: each for _, share in everyone for index, each in share.items()})


class BestResults:
    """The best score of each metric on each validation set, and in which iteration each set was validated last.

    Args:
        better: Names of metrics, each with the direction that is better: ``higher`` or ``lower``.
        deciding: The metric that decides which network is best.
        sets: Names of the validation sets. The first that has been scored by this metric decides: one without ground
            truth is not.

    Attributes:
        records: Set to metric to ``better``, ``val`` and ``iter``, as BasicSR keeps them; -1 for no iteration.
        validated_at: Set to iteration.
    """

    def __init__(self, better: Mapping[str, str], deciding: str, sets: Sequence[str]) -> None:
        self.records: dict[str, dict[str, dict[str, Any]]] = {}
        self.validated_at: dict[str, int] = {}
        self._better, self._deciding, self._sets = better, deciding, sets

    def update(self, dataset: str, scores: Mapping[str, float], iteration: int) -> None:
        """Take note of a validation. A tie is no new best."""
        known = self.records.setdefault(dataset, {})
        for metric, score in scores.items():
            better, sign = self._better[metric], 1 if self._better[metric] == "higher" else -1
            if known.get(metric, {}).get("better") != better:  # none, or that of another direction before a resume
                known[metric] = {"better": better, "val": -sign * math.inf, "iter": -1}
            if sign * (score - known[metric]["val"]) > 0:
                known[metric].update(val=score, iter=iteration)

    def of(self, dataset: str, iteration: int) -> dict[str, Any] | None:
        """What to say of the network that this validation found to be the best one; None if it did not."""
        scored = (name for name in self._sets if self._record(name)["iter"] >= 0)
        record = self._record(dataset)
        if dataset != next(scored, None) or record["iter"] != iteration:
            return None
        return {"dataset": dataset, "metric": self._deciding, **record}

    def state(self) -> dict[str, Any]:
        """What a training state holds of it."""
        return {"best_metric_results": self.records, "validated_at": self.validated_at}

    def load_state(self, state: Mapping[str, Any], best: Mapping[str, Any] | None) -> None:
        """Go on from a `state`, and from what ``best``, the network on the disk, says of itself: it may be later."""
        self.records, self.validated_at = state.get("best_metric_results", {}), state.get("validated_at", {})
        if best and best["dataset"] in self._sets and self._better.get(best["metric"]) == best["better"]:
            self.update(best["dataset"], {best["metric"]: best["val"]}, best["iter"])

    def _record(self, dataset: str) -> dict[str, Any]:
        return self.records.get(dataset, {}).get(self._deciding, {"iter": -1})


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


def _mean(scores: dict[int, dict[str, float | str]]) -> dict[str, float | str]:
    """In the order of the dataset, so that the sum does not depend on who computed what."""
    ordered = [scores[index] for index in sorted(scores)]
    means: dict[str, float | str] = {}
    for name in ordered[0] if ordered else ():
        values = [each[name] for each in ordered]
        faults = [value for value in values if isinstance(value, str)]
        means[name] = faults[0] if faults else float(np.mean(np.array(values, float)))
    return means

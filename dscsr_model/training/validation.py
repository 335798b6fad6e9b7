"""What is kept of validations: mean scores, the best of each metric, and when each set was validated."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import nn

Scores = Mapping[str, float | str]
"""Metric to value; to words, if it could not be computed."""


def mean_scores(scores: Mapping[int, Scores]) -> dict[str, float | str]:
    """Means over a data set; words, if an image could not be scored: a mean of the others would be another number.

    Args:
        scores: Of each image, by its place in the data set. In this order they are added up, so that the sum does not
            depend on which rank computed what.
    """
    ordered = [scores[index] for index in sorted(scores)]
    means: dict[str, float | str] = {}
    for name in ordered[0] if ordered else ():
        values = [each[name] for each in ordered]
        faults = [value for value in values if isinstance(value, str)]
        means[name] = faults[0] if faults else float(np.mean(np.array(values, float)))
    return means


class BestResults:
    """The best score of each metric on each validation set, and in which iteration each set was validated last.

    Args:
        better: Names of metrics, each with the direction that is better: ``higher`` or ``lower``.
        deciding: The metric that decides which network is best, in the first set that has been scored by it: one
            without ground truth is not.
        sets: Names of the validation sets.
    """

    def __init__(self, better: Mapping[str, str], deciding: str, sets: Sequence[str]) -> None:
        self.records: dict[str, dict[str, dict[str, Any]]] = {}  # by set and metric, as BasicSR keeps them
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

    @property
    def decided(self) -> dict[str, Any] | None:
        """Data set, metric, value and iteration of the network that is best so far; None before any was scored."""
        scored = (name for name in self._sets if self._record(name)["iter"] >= 0)
        dataset = next(scored, None)
        return None if dataset is None else {"dataset": dataset, "metric": self._deciding, **self._record(dataset)}

    def of(self, dataset: str, iteration: int) -> dict[str, Any] | None:
        """What to say of the network that this validation found to be the best one; None if it did not."""
        best = self.decided
        return best if best and (best["dataset"], best["iter"]) == (dataset, iteration) else None

    def line(self, dataset: str, scores: Mapping[str, float], iteration: int) -> str:
        """What a person reads of a validation that `update` has taken note of."""
        parts = []
        for metric, score in scores.items():
            best = self.records[dataset][metric]
            so_far = "best so far" if best["iter"] == iteration else f"best {best['val']:.4f} at {best['iter']:,}"
            parts.append(f"{metric} {score:.4f} ({so_far})")
        return f"validation {iteration:,}: {dataset} {', '.join(parts)}"

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

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
        endings: What ends the names of metrics, for each network that is validated: a trained one, its average.

    Attributes:
        preferred: The ending of the network that the last such score decided for; the last ending before there is one.
    """

    def __init__(
        self, better: Mapping[str, str], deciding: str, sets: Sequence[str], endings: Sequence[str] = ("",)
    ) -> None:
        self.records: dict[str, dict[str, dict[str, Any]]] = {}  # by set and metric, as BasicSR keeps them
        self.validated_at: dict[str, int] = {}
        self.preferred = endings[-1]
        self._better = {f"{metric}{ending}": way for metric, way in better.items() for ending in endings}
        self._deciding = {ending: f"{deciding}{ending}" for ending in endings}
        self._sets = sets

    @classmethod
    def of_options(
        cls, opt: Mapping[str, Any], deciding: str | None, labels: Sequence[str], endings: Sequence[str]
    ) -> BestResults:
        """Those of a run; ``labels`` end metrics, as `ValidatingSRModel` has them: by default the first one decides."""
        metrics = (opt.get("val") or {}).get("metrics") or {}
        directions = {name: section.get("better", "higher") for name, section in metrics.items()}
        deciding = deciding or next(iter(metrics), "")
        return cls(
            {f"{name}{label}": better for name, better in directions.items() for label in labels},
            f"{deciding}{labels[0]}" if deciding in metrics else deciding,
            [section["name"] for phase, section in opt["datasets"].items() if phase.split("_")[0] == "val"],
            endings,
        )

    def update(self, dataset: str, scores: Mapping[str, float], iteration: int) -> None:
        """Take note of a validation. A tie is no new best."""
        known = self.records.setdefault(dataset, {})
        for metric, score in scores.items():
            better, sign = self._better[metric], 1 if self._better[metric] == "higher" else -1
            if known.get(metric, {}).get("better") != better:  # none, or that of another direction before a resume
                known[metric] = {"better": better, "val": -sign * math.inf, "iter": -1}
            if sign * (score - known[metric]["val"]) > 0:
                known[metric].update(val=score, iter=iteration)
        best = self.decided
        if best and best["dataset"] == dataset and all(name in scores for name in self._deciding.values()):
            sign = 1 if best["better"] == "higher" else -1
            found = {ending: sign * scores[name] for ending, name in self._deciding.items()}
            self.preferred = max(found, key=lambda one: (found[one] == found[one], found[one], one == self.preferred))

    @property
    def decided(self) -> dict[str, Any] | None:
        """Data set, metric, value and iteration of the network that is best so far; None before any was scored."""
        for dataset in self._sets:
            known = [(name, self.records.get(dataset, {}).get(name)) for name in self._deciding.values()]
            scored = [{"metric": name, **record} for name, record in known if record and record["iter"] >= 0]
            if scored:
                sign = 1 if scored[0]["better"] == "higher" else -1
                return {"dataset": dataset, **max(scored, key=lambda one: (sign * one["val"], -one["iter"]))}
        return None

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
        return {"best_metric_results": self.records, "validated_at": self.validated_at, "preferred": self.preferred}

    def load_state(self, state: Mapping[str, Any], best: Mapping[str, Any] | None) -> None:
        """Go on from a `state`, and from what ``best``, the network on the disk, says of itself: it may be later."""
        self.records, self.validated_at = state.get("best_metric_results", {}), state.get("validated_at", {})
        if state.get("preferred") in self._deciding:
            self.preferred = state["preferred"]
        if best and best["dataset"] in self._sets and self._better.get(best["metric"]) == best["better"]:
            self.update(best["dataset"], {best["metric"]: best["val"]}, best["iter"])


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

"""Resuming under BasicSR's train loop: the newest checkpoint that is whole, and the place inside the epoch.

BasicSR takes the newest training state by its name alone, starts the epoch again in which training stopped, and draws
crops from generators whose state depends on all that was drawn before. Its loop is not touched: names that its train
module looks up when it runs are replaced there, in the module that runs (`basicsr.train`, or `__main__` for
`python basicsr/train.py`).
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from dscsr_arch.errors import DscsrError
from dscsr_model.data.draws import takes_draws


class ResumeError(DscsrError):
    """No checkpoint to resume from is whole."""


def install(namespace: dict[str, Any]) -> None:
    """Let the train loop in this module's ``namespace`` resume well. A repeat, or a module without it, is let be."""
    load, sampler, build = map(namespace.get, ("load_resume_state", "EnlargedSampler", "build_dataset"))
    if load is None or sampler is None or build is None or hasattr(load, "dscsr_resumes"):
        return
    place: dict[str, int] = {}
    namespace["load_resume_state"] = _whole_checkpoint(load, place)
    namespace["EnlargedSampler"] = _continuing(sampler, place)
    namespace["build_dataset"] = _keyed(build, place)


def _whole_checkpoint(load_resume_state: Callable[..., Any], place: dict[str, int]) -> Callable[..., Any]:
    from dscsr_model.training.checkpoints import iterations, newest_whole

    @functools.wraps(load_resume_state)
    def wrapper(opt: dict[str, Any]) -> Any:
        if opt.get("auto_resume"):
            experiment = Path("experiments", opt["name"])  # as BasicSR looks for it
            states = experiment / "training_states"
            newest, passed_over = newest_whole(states, experiment / "models")
            if opt["rank"] == 0:
                for line in passed_over:
                    print(f"dscsr: {line}", file=sys.stderr)
            if newest is not None:
                opt["auto_resume"], opt["path"]["resume_state"] = False, str(newest)
            elif iterations(states):
                raise ResumeError(
                    f"Expected a whole checkpoint in {experiment}, but none of them opens. Move the folder away to "
                    "train anew."
                )
        state = load_resume_state(opt)
        place.clear()
        if state is not None:
            _take_seed(opt, state.get("manual_seed"))
            train_opt = opt["datasets"]["train"]
            devices = 1 if opt["dist"] else max(1, opt["num_gpu"])
            place.update(epoch=state["epoch"], iter=state["iter"], batch=train_opt["batch_size_per_gpu"] * devices)
        place["seed"] = opt["manual_seed"]
        return state

    wrapper.dscsr_resumes = True  # type: ignore[attr-defined]
    return wrapper


def _take_seed(opt: dict[str, Any], seed: int | None) -> None:
    """Go on with the seed of the run, which BasicSR draws anew at every start if the options give none."""
    from basicsr.utils import set_random_seed

    if seed is not None and seed != opt["manual_seed"]:
        opt["manual_seed"] = seed
        set_random_seed(seed + opt["rank"])


def _continuing(enlarged_sampler: Any, place: dict[str, int]) -> Any:
    class ContinuingSampler(enlarged_sampler):
        """BasicSR's sampler in its order, without what was seen before the checkpoint."""

        def __iter__(self) -> Iterator[Any]:
            begin = samples_seen(self.num_samples, self.epoch, place)
            return islice(super().__iter__(), begin, None)

    return functools.wraps(enlarged_sampler, updated=())(ContinuingSampler)


def samples_seen(samples: int, epoch: int, place: dict[str, int]) -> int:
    """Samples of ``epoch`` that were used before the checkpoint.

    Args:
        samples: Samples of this rank in every epoch; those that do not fill a batch are dropped.
        epoch: The epoch that begins.
        place: ``epoch`` and ``iter`` of the checkpoint and samples per ``batch``; without them nothing is resumed.
    """
    if epoch != place.get("epoch"):
        return 0
    batches = samples // place["batch"]
    done = place["iter"] - epoch * batches
    # Outside: the run had another batch size or data set before, or was resumed by a loop that starts epochs again.
    return done * place["batch"] if 0 <= done <= batches else 0


def _keyed(build_dataset: Callable[[dict[str, Any]], Any], place: dict[str, int]) -> Callable[[dict[str, Any]], Any]:
    from dscsr_model.data.keyed_dataset import KeyedDataset

    @functools.wraps(build_dataset)
    def wrapper(opt: dict[str, Any]) -> Any:
        dataset = build_dataset(opt)
        if opt["phase"] != "train" or takes_draws(dataset):
            return dataset
        return KeyedDataset(dataset, place["seed"])

    return wrapper

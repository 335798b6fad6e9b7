"""The training set of a run: a loader that draws by key, and where in its epochs the training is.

That follows from the iteration, whatever batches, data set and stages it had before. A stage begins with an epoch, so
the last epoch of the one before may be short; epochs are counted through all of them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.data import IterableDataset

from dscsr_arch.errors import DscsrError
from dscsr_arch.words import many
from dscsr_model.data.keyed_samples import KeyedDataset, KeyedSampler, takes_sample_keys
from dscsr_model.training import stopping
from dscsr_model.training.stages import Stage


def build_keyed_dataloader(build: Callable[..., Any], dataset: Any, dataset_opt: Any, *args: Any, **kwargs: Any) -> Any:
    """BasicSR's, but a training set that takes sample keys gets them; others get numbers as ever."""
    loader = build(dataset, dataset_opt, *args, **kwargs)
    if dataset_opt["phase"] == "train" and takes_sample_keys(dataset):
        loader.batch_sampler.sampler = KeyedSampler(loader.batch_sampler.sampler)
    return loader


def build_train_loader(
    seed: int, build: Callable[..., Any], dataset: Any, dataset_opt: Any, /, *args: Any, **kwargs: Any
) -> Any:
    """The same of any training set, drawn with this seed and nothing else."""
    if not takes_sample_keys(dataset) and not isinstance(dataset, IterableDataset):
        dataset = KeyedDataset(dataset, seed)
    loader = build_keyed_dataloader(build, dataset, dataset_opt, *args, **kwargs)
    # A loader draws a number whenever an epoch starts: from torch's generator, which belongs to the network, it
    # would take one that a run resumed at the end of an epoch does not see.
    loader.generator = torch.Generator()
    loader.generator.manual_seed(seed)
    loader.worker_init_fn = partial(stopping.start_worker, loader.worker_init_fn)
    return loader


@dataclass(frozen=True)
class StageEpochs:
    """How a stage goes through its data.

    Attributes:
        stage: The stage.
        first: Its first epoch.
        batches: In a whole epoch.
        batch: Samples of a batch on each rank.
    """

    stage: Stage
    first: int
    batches: int
    batch: int

    @property
    def end(self) -> int:
        """The first epoch behind it."""
        return self.first + math.ceil((self.stage.until - self.stage.first + 1) / self.batches)

    def samples(self, epoch: int) -> int:
        """Of an epoch, on each rank."""
        left = self.stage.until - self.stage.first + 1 - (epoch - self.first) * self.batches
        return min(left, self.batches) * self.batch

    def after(self, iteration: int) -> tuple[int, int]:
        """In which epoch the training is after an iteration, and how many batches of it were used."""
        epoch, used = divmod(iteration - self.stage.first + 1, self.batches)
        return self.first + epoch, used


class TrainEpochs:
    """The epochs of a training: how many samples the loader reads in each, in which batches, and how large.

    Args:
        stages: Of the training.
        loader: BasicSR's, whose sampler gives sample keys; its batches are those of ``batch_size_per_gpu``.
        batch_size_per_gpu: Of the data set's own section.

    Raises:
        DscsrError: An epoch would have no batch.
    """

    def __init__(self, stages: Sequence[Stage], loader: Any, batch_size_per_gpu: int) -> None:
        self._batches = loader.batch_sampler
        self._sampler: KeyedSampler = loader.batch_sampler.sampler
        samples, devices = len(self._sampler), self._batches.batch_size // batch_size_per_gpu
        self.stages: list[StageEpochs] = []
        for stage in stages:
            batch = int(stage.data["batch_size_per_gpu"]) * devices
            if samples < batch:
                remedy = "Lower `batch_size_per_gpu`, or raise `dataset_enlarge_ratio`."
                got = f"{many(samples, 'sample')} for batches of {batch}"
                raise DscsrError("an epoch of at least one batch", got, remedy)
            first = self.stages[-1].end if self.stages else 0
            self.stages.append(StageEpochs(stage, first, samples // batch, batch))
        self.begin(0)

    def __len__(self) -> int:
        return self.stages[-1].end

    def begin(self, epoch: int) -> None:
        """Before the loader starts an epoch."""
        own = next(each for each in reversed(self.stages) if each.first <= epoch)
        self._batches.batch_size = own.batch
        self._sampler.gt_size = own.stage.gt_size
        self._sampler.end = None if own is self.stages[-1] else own.samples(epoch)

    def resume(self, state: dict[str, Any]) -> None:
        """Leave out what was seen; where epochs were longer or shorter before, tell BasicSR's loop by ``state``."""
        own = next((each for each in self.stages if state["iter"] < each.stage.until), self.stages[-1])
        epoch, used = own.after(state["iter"])
        ended = used == 0  # saved at the end of the epoch before
        if state["epoch"] not in (epoch, epoch - ended):
            logging.getLogger("basicsr").info(
                "Epochs are counted anew, since the batch, the data set or the stages changed: iteration "
                f"{state['iter']}, which was in epoch {state['epoch']}, is in epoch {epoch}, after {used} of "
                f"{many(own.batches, 'batch')}."
            )
        state["epoch"] = epoch
        self._sampler.resumed_epoch, self._sampler.seen = epoch, used * own.batch
        self.begin(epoch)

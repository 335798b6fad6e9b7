"""Resuming under BasicSR's train loop: the newest checkpoint that is whole, and the position inside the epoch.

BasicSR takes the newest training state by its name alone, starts the epoch again in which training stopped, and draws
crops from generators whose state depends on all that was drawn before. Its loop is not touched: names that its train
module looks up when it runs are replaced there, in the module that runs (`basicsr.train`, or `__main__` for
`python basicsr/train.py`).
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import IterableDataset

from dscsr_arch.errors import DscsrError
from dscsr_model.data.keyed_dataset import KeyedDataset
from dscsr_model.data.sample_keys import takes_sample_keys
from dscsr_model.host.patches import Patches
from dscsr_model.host.sampling import DrawSampler, handing_out_draws
from dscsr_model.host.stopping import start_worker


@dataclass
class Run:
    """What the names that are replaced know of the run.

    Attributes:
        seed: From which its samples are drawn.
        batch: Samples of an iteration on this rank.
        state: The training state it goes on from, if any.
    """

    seed: int = 0
    batch: int = 1
    state: dict[str, Any] | None = None


def install(loop: Patches, namespace: dict[str, Any]) -> None:
    """Let the train loop in this module's ``namespace`` resume well, until ``loop`` is undone."""
    load, build = namespace.get("load_resume_state"), namespace.get("build_dataloader")
    if load is None or build is None:
        return
    run = Run()
    loop.set(namespace, "load_resume_state", _whole_checkpoint(load, run))
    loop.set(namespace, "build_dataloader", _continuing(handing_out_draws(build), run))


def _whole_checkpoint(load_resume_state: Callable[..., Any], run: Run) -> Callable[..., Any]:
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
                raise DscsrError(
                    f"Expected a whole checkpoint in {experiment}, but none of them opens. Move the folder away to "
                    "train anew."
                )
        state = load_resume_state(opt)
        if state is not None:
            _take_seed(opt, state.get("manual_seed"))
            _check_total(state["iter"], opt)
        devices = 1 if opt["dist"] else max(1, opt["num_gpu"])
        run.seed = opt["manual_seed"]
        run.batch = opt["datasets"]["train"]["batch_size_per_gpu"] * devices
        run.state = state
        return state

    return wrapper


def _take_seed(opt: dict[str, Any], seed: int | None) -> None:
    """Go on with the seed of the run, which BasicSR draws anew at every start if the options give none."""
    from basicsr.utils import set_random_seed

    if seed is not None and seed != opt["manual_seed"]:
        if opt["rank"] == 0:
            why = "samples are drawn from the seed that the run began with"
            print(f"dscsr: `manual_seed` stays {seed}: {why}.", file=sys.stderr)
        opt["manual_seed"] = seed
        set_random_seed(seed + opt["rank"])


def _check_total(iteration: int, opt: dict[str, Any]) -> None:
    total = int(opt["train"]["total_iter"])
    if iteration > total:
        raise DscsrError(
            f"Expected `train: total_iter` to be more than the iteration of {opt['path']['resume_state']}, "
            f"but got {total}. Raise it, or name an earlier one as `path: resume_state`, without `--auto_resume`."
        )
    if iteration == total and opt["rank"] == 0:
        print(f"dscsr: this run has made its {total} iterations; a larger `total_iter` goes on.", file=sys.stderr)


def position(samples: int, batch: int, state: dict[str, Any]) -> tuple[int, int]:
    """Where training goes on: the epoch, and the samples of it that were used before the checkpoint.

    Iterations are counted from the start of the training, epochs by today's batch and data set: where these were
    others before, the epoch gets another number, which is told and which BasicSR's loop reads from the state.

    Args:
        samples: Samples of this rank in every epoch; those that do not fill a batch are dropped.
        batch: Samples of an iteration on this rank.
        state: ``iter`` of the checkpoint, and ``epoch``, which is set.
    """
    from basicsr.utils import get_root_logger

    epoch, done = divmod(state["iter"], samples // batch)
    if state["epoch"] not in (epoch, epoch - (done == 0)):
        get_root_logger().info(
            f"Epochs are counted anew, since the batch or the data set changed: iteration {state['iter']}, which was "
            f"in epoch {state['epoch']}, is in epoch {epoch}, after {done} of {samples // batch} batches."
        )
    state["epoch"] = epoch
    return epoch, done * batch


def _continuing(build_dataloader: Callable[..., Any], run: Run) -> Callable[..., Any]:
    """Every training set is drawn from by key, by a loader that leaves out what was seen before the checkpoint."""

    @functools.wraps(build_dataloader)
    def wrapper(dataset: Any, dataset_opt: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        training = dataset_opt["phase"] == "train"
        if training and not takes_sample_keys(dataset) and not isinstance(dataset, IterableDataset):
            dataset = KeyedDataset(dataset, run.seed)
        loader = build_dataloader(dataset, dataset_opt, *args, **kwargs)
        if training:
            # A loader draws a number whenever an epoch starts: from torch's generator, which belongs to the network,
            # it would take one that a run resumed at the end of an epoch does not see.
            loader.generator = torch.Generator()
            loader.generator.manual_seed(run.seed)
            loader.worker_init_fn = functools.partial(start_worker, loader.worker_init_fn)
            sampler = loader.batch_sampler.sampler
            if isinstance(sampler, DrawSampler) and run.state is not None and len(sampler) >= run.batch:
                sampler.resumed_epoch, sampler.seen = position(len(sampler), run.batch, run.state)
        return loader

    return wrapper

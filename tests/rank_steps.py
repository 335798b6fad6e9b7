"""The same steps on one process and on two ranks, of which each has half of the batch."""

import gc
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import forks
import small_models
import torch

from dscsr_arch.checkpoint import read_pickle, save_state_dict


def one_and_two(
    folder: Path, changes: Callable[[int], Mapping[str, Any]], train: Callable[[Any, int, int], dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What training finds in one process, and in the first of two.

    Args:
        folder: The working directory; the runs are in ``1`` and ``2``.
        changes: Of the options of `small_models`, by the number of ranks.
        train: Makes the steps: takes the model in float64, the rank and the number of ranks.
    """

    def run() -> None:
        from basicsr.utils.dist_util import init_dist

        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        if world > 1:
            init_dist("pytorch")
        torch.set_default_dtype(torch.float64)
        options = small_models.options(folder / str(world), **changes(world))
        options.update(dist=world > 1, rank=rank, world_size=world)
        model = small_models.build(options)
        torch.manual_seed(rank)  # as BasicSR does
        found = train(model, rank, world)
        if rank == 0:
            save_state_dict(found, folder / str(world) / "found.pth")
        if world > 1:  # without the network, and together: else torch 2.13 with gloo aborts now and then while it ends
            del model
            gc.collect()
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()

    for world in (1, 2):
        for done in forks.ranks(run, folder, world):
            assert done.returncode == 0, done.stderr
            assert "Warning" not in done.stderr, done.stderr
    one, two = (read_pickle(folder / str(world) / "found.pth") for world in (1, 2))
    return one, two


def share(batch: Mapping[str, torch.Tensor], rank: int, world: int) -> dict[str, torch.Tensor]:
    """What a rank sees of a batch, in float64."""
    return {name: tensor.double()[rank::world] for name, tensor in batch.items()}

"""One script on one process and on two ranks: what both begin and end with, and the test's side of it.

A script calls `begin`, trains what it gets, and hands its findings to `end`. `one_and_two` runs it both ways.
"""

import gc
import runpy
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import small_models
import torch
import yaml
from training_runs import ENV

from dscsr_arch.checkpoint import read_pickle, save_state_dict


def begin(**changes: Any) -> tuple[Any, int, int]:
    """(model in float64 with the options of changes.yml and these, rank, number of ranks)."""
    from basicsr.utils.dist_util import get_dist_info, init_dist

    launcher, folder = sys.argv[1], Path(sys.argv[2])
    if launcher != "none":
        init_dist(launcher)
    rank, world = get_dist_info()
    torch.set_default_dtype(torch.float64)
    given = yaml.safe_load(Path("changes.yml").read_text())
    options = small_models.options(folder, **given, **changes)
    options.update(dist=world > 1, rank=rank, world_size=world)
    return small_models.build(options), rank, world


def end(rank: int, world: int, found: Mapping[str, Any]) -> None:
    """Keep what rank 0 found, and leave the group together; the script has no model any more."""
    if rank == 0:
        save_state_dict(dict(found), Path(sys.argv[2]) / "result.pth")
    if world > 1:  # with the network gone, and together: else torch 2.13 with gloo aborts now and then while it ends
        gc.collect()
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def one_and_two(
    folder: Path, monkeypatch: pytest.MonkeyPatch, script: str, changes: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the script found in one process, and in the first of two that torchrun started."""
    (folder / "changes.yml").write_text(yaml.safe_dump(dict(changes)))
    (folder / "ranks.py").write_text(script)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["ranks.py", "none", "one"])
    try:
        runpy.run_path("ranks.py")
    finally:
        torch.set_default_dtype(torch.float32)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "ranks.py", "pytorch", "two"],
        env={**ENV, "PYTHONPATH": str(Path(__file__).resolve().parent)},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    one, two = (read_pickle(folder / name / "result.pth") for name in ("one", "two"))
    return one, two

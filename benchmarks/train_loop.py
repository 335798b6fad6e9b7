"""Claim: training with EfficientSRModel on raw LMDBs does at least 4 times the iterations per second of BasicSR.

    python benchmarks/train_loop.py [--gt DIR] [--seconds N]

SPAN x4 with 26 channels, 16 patches of 32x32 LR pixels with flips and rotations, L1, Adam, EMA, fp32, two cores.
Reading the data is part of an iteration. Both ways take the same sub-images of 480 pixels and go through what
BasicSR's loop is made of (its builders, its sampler, its prefetcher, the body of the loop), each with its own best
number of workers:

    BasicSR   SRModel, SPAN with all four convolutions of every layer (tests/plain_span.py), PairedImageDataset on png
    dscsr     EfficientSRModel, SPAN, PairedCropDataset on raw pixels

First both are given the same weights and batches, and their losses compared, also with the plain network in float64.
The first step shows rounding alone; Adam, which divides by the gradient, then carries it on. Then they train in turns
of a few iterations, so that whatever else the machine does meets both alike; a ratio comes from each pair of turns.
The workers of the way that waits are stopped: they neither read ahead nor take time from the other.
"""

import argparse
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import skimage
import torch

from dscsr_model import register
from dscsr_model.data.prepare import prepare
from dscsr_model.data.prepare_job import PrepareJob

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from plain_span import PlainSPAN

SCALE, SEED = 4, 0
PHOTOGRAPHS = ("astronaut.png", "hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png", "retina.jpg")
WAYS: dict[str, dict[str, Any]] = {
    "BasicSR": {
        "model": "SRModel",
        "network": {"type": "PlainSPAN", "upscale": SCALE},
        "dataset": {"type": "PairedImageDataset"},
        "format": "png",
    },
    "dscsr": {
        "model": "EfficientSRModel",
        "network": {"type": "SPAN", "upscale": SCALE},
        "dataset": {"type": "PairedCropDataset", "output": "uint8"},
        "format": "raw",
    },
}


class Setting(NamedTuple):
    """What is trained on what; ``device`` is cpu or cuda."""

    device: str = "cpu"
    channels: int = 26
    batch: int = 16
    patch: int = 32


SETTING = Setting()
"""Of the claim."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gt", type=Path, help="folder of photographs (default: those inside scikit-image)")
    parser.add_argument("--seconds", type=float, default=90, help="for the turns that count (default 90)")
    parser.add_argument("--iterations", type=int, default=5, help="per turn (default 5)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="num_worker_per_gpu to try")
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(len(cores))
    register_plain_span()
    with tempfile.TemporaryDirectory() as folder:
        sub_images = prepare_both(args.gt or photographs(Path(folder, "photographs")), Path(folder))
        print(
            f"torch {torch.__version__}, {len(cores)} cores, SPAN-{SETTING.channels} x{SCALE}, batch {SETTING.batch}, ",
            end="",
        )
        print(f"{SETTING.patch}x{SETTING.patch} LR, EMA, {sub_images} sub-images")
        compare_losses(Path(folder), steps=10)
        compare_speed(Path(folder), args)


def register_plain_span() -> None:
    register()
    from basicsr.utils.registry import ARCH_REGISTRY

    ARCH_REGISTRY.register(PlainSPAN)


def photographs(folder: Path) -> Path:
    folder.mkdir()
    for name in PHOTOGRAPHS:
        shutil.copy(Path(skimage.__file__).parent / "data" / name, folder)
    return folder


def prepare_both(gt: Path, folder: Path, **job: Any) -> int:
    """The same sub-images as png and as raw LMDBs; returns how many. ``job``: more of `PrepareJob`."""
    formats = [way["format"] for way in WAYS.values()]
    pairs = {prepare(PrepareJob(gt, folder / name, SCALE, image_format=name, **job)).pairs for name in formats}
    return pairs.pop()


def options(way: str, folder: Path, workers: int = 0, setting: Setting = SETTING) -> dict:
    """What BasicSR would make of an option file of this way; on a GPU it prefetches as BasicSR's options for it do."""
    cuda = setting.device == "cuda"
    data = folder / WAYS[way]["format"]
    train = {
        **{"phase": "train", "name": "photographs", "scale": SCALE, "io_backend": {"type": "lmdb"}},
        **{"dataroot_gt": str(data / "GT.lmdb"), "dataroot_lq": str(data / f"LQ_X{SCALE}.lmdb")},
        **{"gt_size": SCALE * setting.patch, "use_hflip": True, "use_rot": True, "pin_memory": cuda},
        **{"num_worker_per_gpu": workers, "batch_size_per_gpu": setting.batch, "dataset_enlarge_ratio": 100},
        **WAYS[way]["dataset"],
    }
    return {
        **{"name": way, "model_type": WAYS[way]["model"], "scale": SCALE, "num_gpu": int(cuda), "is_train": True},
        **{"dist": False, "rank": 0, "world_size": 1, "manual_seed": SEED, "logger": {}},
        "path": {"models": "", "training_states": ""},
        "datasets": {"train": train},
        "network_g": {**WAYS[way]["network"], "feature_channels": setting.channels},
        "train": {
            **WAYS[way].get("train", {}),
            "ema_decay": 0.999,
            "optim_g": {"type": "Adam", "lr": 5e-4, "weight_decay": 0, "betas": [0.9, 0.99]},
            "scheduler": {"type": "MultiStepLR", "milestones": [100_000], "gamma": 0.5},
            "total_iter": 200_000,
            "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
        },
    }


def build_data(opt: dict):
    """Loader and sampler as BasicSR's train loop builds them; ours as that loop does it under `dscsr train`."""
    from basicsr import train as loop
    from basicsr.data import build_dataloader, build_dataset
    from basicsr.data.data_sampler import EnlargedSampler

    ours = opt["model_type"] != "SRModel"
    section = opt["datasets"]["train"]
    torch.manual_seed(SEED)
    dataset = (loop.build_dataset if ours else build_dataset)(section)
    sampler = (loop.EnlargedSampler if ours else EnlargedSampler)(dataset, 1, 0, section["dataset_enlarge_ratio"])
    return build_dataloader(dataset, section, num_gpu=0, sampler=sampler, seed=opt["manual_seed"]), sampler


def build_model(opt: dict):
    """The model, from weights that are the same both ways."""
    from basicsr.models import build_model

    torch.manual_seed(SEED)
    weights = PlainSPAN(opt["network_g"]["feature_channels"], SCALE).state_dict()
    model = build_model(opt)
    model.net_g.load_state_dict(weights)
    model.model_ema(0)
    return model


class Training:
    """A training that goes on for some iterations whenever it is its turn."""

    def __init__(self, opt: dict) -> None:
        from basicsr.data.prefetch_dataloader import CPUPrefetcher, CUDAPrefetcher

        others = set(multiprocessing.active_children())
        self.model = build_model(opt)
        loader, self.sampler = build_data(opt)
        self.sampler.set_epoch(0)
        self.prefetcher = CUDAPrefetcher(loader, opt) if opt["num_gpu"] else CPUPrefetcher(loader)
        self.workers = set(multiprocessing.active_children()) - others
        self.iteration = self.epoch = 0
        self._signal(signal.SIGSTOP)

    def turn(self, iterations: int) -> float:
        """Train; returns seconds per iteration."""
        self._signal(signal.SIGCONT)
        start = time.perf_counter()
        for _ in range(iterations):
            batch = self._batch()
            self.iteration += 1
            self.model.update_learning_rate(self.iteration, warmup_iter=-1)
            self.model.feed_data(batch)
            self.model.optimize_parameters(self.iteration)
        self.model.get_current_log()
        seconds = time.perf_counter() - start
        self._signal(signal.SIGSTOP)
        return seconds / iterations

    def _batch(self) -> dict:
        batch = self.prefetcher.next()
        while batch is None:
            self.epoch += 1
            self.sampler.set_epoch(self.epoch)
            self.prefetcher.reset()
            batch = self.prefetcher.next()
        return batch

    def _signal(self, number: signal.Signals) -> None:
        for worker in self.workers:
            os.kill(worker.pid, number)

    def end(self) -> None:
        """Let the workers go."""
        self._signal(signal.SIGCONT)
        self.workers = set()
        self.prefetcher = None


def compare_losses(folder: Path, steps: int) -> None:
    """Print the loss of both ways on the same batches, how far apart they were, and how far from float64."""
    loader, sampler = build_data(options("dscsr", folder))
    sampler.set_epoch(0)
    models = {way: build_model(options(way, folder)) for way in WAYS}
    exact = exact_step()
    losses = {way: [] for way in (*WAYS, "float64")}
    for step, batch in zip(range(1, steps + 1), loader, strict=False):
        floats = {name: batch[name].float() / 255 for name in ("lq", "gt")}
        for way, model in models.items():
            model.update_learning_rate(step)
            model.feed_data(batch if way == "dscsr" else floats)
            model.optimize_parameters(step)
            losses[way].append(next(iter(model.get_current_log().values())))
        losses["float64"].append(exact(floats["lq"].double(), floats["gt"].double()))

    def apart(one: str, other: str) -> str:
        relative = [abs(a / b - 1) for a, b in zip(losses[one], losses[other], strict=True)]
        return f"{relative[0]:.0e} ({max(relative):.0e})"

    ends = (f"{losses[way][-1]:.6f} {way}" for way in losses)
    print(f"same weights and batches: loss {losses['BasicSR'][0]:.6f}, after {steps} steps {', '.join(ends)}")
    print(
        f"  relative difference, of the first step (of the worst): BasicSR to dscsr {apart('dscsr', 'BasicSR')}, ",
        end="",
    )
    print(f"to float64: BasicSR {apart('BasicSR', 'float64')}, dscsr {apart('dscsr', 'float64')}")


def exact_step():
    """A training step of the plain network in float64, outside BasicSR; it returns the loss."""
    torch.manual_seed(SEED)
    network = PlainSPAN(SETTING.channels, SCALE).double()
    section = options("BasicSR", Path())["train"]["optim_g"]
    optimizer = torch.optim.Adam(network.parameters(), lr=section["lr"], betas=section["betas"])

    def step(lq: torch.Tensor, gt: torch.Tensor) -> float:
        optimizer.zero_grad()
        loss = (network(lq) - gt).abs().mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def compare_speed(folder: Path, args: argparse.Namespace) -> None:
    """Print which number of workers suits each way best, then iterations per second and their ratio."""
    trials = {(way, workers): Training(options(way, folder, workers)) for way in WAYS for workers in args.workers}
    seconds = {trial: [] for trial in trials}
    for turn in range(3):
        for trial, training in trials.items():
            taken = training.turn(3 if turn else 1)
            if turn:  # not the first: caches, workers that start
                seconds[trial].append(taken)
    best = {way: min((min(seconds[way, workers]), workers) for workers in args.workers)[1] for way in WAYS}
    chosen = {way: trials.pop((way, best[way])) for way in WAYS}
    for training in trials.values():
        training.end()
    rounds, end = [], time.perf_counter() + args.seconds
    while time.perf_counter() < end or len(rounds) < 3:
        rounds.append({way: training.turn(args.iterations) for way, training in chosen.items()})
    for training in chosen.values():
        training.end()
    times = {way: [each[way] for each in rounds] for way in WAYS}
    for way, seconds in times.items():
        rate = 1 / median(seconds)
        print(
            f"{way:>8}  {rate:6.2f} iterations/s  {rate * SETTING.batch:6.1f} images/s  num_worker_per_gpu {best[way]}"
        )
    ratios = sorted(slow / fast for slow, fast in zip(*times.values(), strict=True))
    print(
        f"   ratio  {median(ratios):5.2f}x  (median of {len(ratios)}, from {ratios[0]:.2f} to {ratios[-1]:.2f}; ",
        end="",
    )
    print(f"of the fastest turns {min(times['BasicSR']) / min(times['dscsr']):.2f})")


if __name__ == "__main__":
    main()

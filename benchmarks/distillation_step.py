"""What a teacher costs in a step: none, one that runs, one over eight orientations, and outputs that are stored.

    python benchmarks/distillation_step.py [--device cuda] [--batch 4] [--size 40] [--steps 20]

Whole steps of DistillationModel (crops of an LMDB, forward, losses, backward, Adam, average), a SPAN-26 x4 with random
weights taught by a SPAN-28: L1 to the truth, and to the teacher. Data are 16 pairs in a temporary folder, and what the
teacher makes of them, stored as `dscsr prepare --teacher` does. The ways are timed in turn, step by step, so that
whatever else the machine does meets all alike.
"""

import argparse
import logging
import tempfile
from pathlib import Path

import numpy as np
import torch
from _measure import seconds_of

import dscsr_model
from dscsr_arch import SPAN
from dscsr_arch.checkpoint import save_state_dict
from dscsr_model.cli import main as dscsr
from dscsr_model.data.bicubic import downscale
from dscsr_model.data.keyed_samples import SampleKey
from dscsr_model.data.lmdb_store import LmdbWriter, encode
from dscsr_model.data.paired_crop_dataset import PairedCropDataset

WAYS = {"no teacher": {}, "live": {}, "live, self-ensembled": {"self_ensemble": True}, "stored": {}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=40, help="side of the LR patches")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), args)
        steps = {way: step_of(Path(folder), way, args) for way in WAYS}
        seconds = seconds_of(steps, args.steps, args.device != "cpu")
    device = torch.cuda.get_device_name() if args.device != "cpu" else f"CPU, {args.threads} threads"
    print(f"torch {torch.__version__}, {device}, batch {args.batch}, {args.size}x{args.size} LR, x4, ", end="")
    print(f"SPAN-26 taught by SPAN-28, median of {args.steps} steps")
    for way, time in seconds.items():
        print(f"{way:>22}  {time * 1e3:8.1f} ms  {time / seconds['no teacher']:5.2f}x")


def prepare(folder: Path, args: argparse.Namespace) -> None:
    """Pairs, a teacher, and what it makes of them."""
    torch.manual_seed(0)
    save_state_dict({"params": SPAN(feature_channels=28).state_dict()}, folder / "teacher.pth")
    draw, side = np.random.default_rng(0), 4 * max(64, args.size)
    with LmdbWriter(folder / "GT.lmdb") as gt, LmdbWriter(folder / "LQ_X4.lmdb") as lq:
        for number in range(16):
            image = draw.integers(0, 256, (side, side, 3), dtype=np.uint8)
            gt.add([encode(f"{number}", image)])
            lq.add([encode(f"{number}", downscale(image, 4))])
    assert dscsr(["prepare", "--out", str(folder), "--teacher", str(folder / "teacher.pth"), "--self-ensemble"]) == 0


def step_of(folder: Path, way: str, args: argparse.Namespace):
    """A step of a model of this way, its batch read from the LMDBs."""
    dscsr_model.register()
    from basicsr.models import build_model

    stored = {"dataroot_teacher": str(folder / "TEACHER_X4.lmdb")} if way == "stored" else {}
    data = {
        "phase": "train", "scale": 4, "seed": 0, "dataroot_gt": str(folder / "GT.lmdb"), "name": "random",
        "dataroot_lq": str(folder / "LQ_X4.lmdb"), "io_backend": {"type": "lmdb"}, "gt_size": 4 * args.size,
        "use_hflip": True, "use_rot": True, "output": "uint8", "type": "PairedCropDataset", **stored,
    }  # fmt: skip
    train = {
        "ema_decay": 0.999, "total_iter": 1000, "channels_last": True, "optim_g": {"type": "Adam", "lr": 1e-4},
        "scheduler": {"type": "MultiStepLR", "milestones": [900]}, "pixel_opt": {"type": "L1Loss"},
    }  # fmt: skip
    if way != "no teacher":
        train["teacher_opt"] = {"type": "L1Loss", "target": "teacher"}
    model = build_model(
        {
            "is_train": True, "dist": False, "rank": 0, "world_size": 1, "num_gpu": int(args.device != "cpu"),
            "model_type": "DistillationModel", "scale": 4, "name": "benchmark", "train": train, "val": {},
            "network_g": {"type": "SPAN", "feature_channels": 26, "upscale": 4}, "datasets": {"train": data},
            "teacher": {"weights": str(folder / "teacher.pth"), **WAYS[way]}, "logger": {},
            "path": {"pretrain_network_g": None, "models": "nowhere", "training_states": "nowhere"},
        }
    )  # fmt: skip
    dataset, count = PairedCropDataset(data), iter(range(1, 10**9))

    def step() -> None:
        number = next(count)
        keys = [SampleKey(index % 16, number, index) for index in range(args.batch)]
        samples = dataset.__getitems__(keys)
        model.feed_data(torch.utils.data.default_collate(samples))
        model.optimize_parameters(number)

    return step


if __name__ == "__main__":
    main()

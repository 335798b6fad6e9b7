"""Claim: a training sample costs PairedCropDataset a 20th (uint8) and a 12th (float32) of BasicSR's PairedImageDataset.

    python benchmarks/loader.py [--gt DIR]

One core, 480-pixel sub-images, crops of 256 pixels, flips and rotations; the data are the photographs inside
scikit-image, or those of --gt, prepared twice: as png for BasicSR, which decodes whole sub-images, and raw for ours.
Before anything is timed, both cut the same windows in the same orientations, and their samples must be equal.
The datasets are timed in turn, and the shortest round of each counts.
"""

# ruff: noqa: E402 - the number of threads is fixed before numpy is imported
import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import argparse
import itertools
import random
import shutil
import tempfile
import time
from pathlib import Path
from unittest import mock

import cv2
import skimage
import torch
from basicsr.data.paired_image_dataset import PairedImageDataset
from torch.utils.data import Dataset

from dscsr_model.data import paired_crop_dataset
from dscsr_model.data.crops import Crop
from dscsr_model.data.paired_crop_dataset import PairedCropDataset
from dscsr_model.data.prepare import prepare
from dscsr_model.data.prepare_job import PrepareJob

SCALE, CROP = 4, 256
PHOTOGRAPHS = ("astronaut.png", "hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png", "retina.jpg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gt", type=Path, help="folder of photographs, all at least 480 pixels high and wide")
    parser.add_argument("--samples", type=int, default=200, help="per round")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        stock, ours = build(args.gt or photographs(Path(folder, "photographs")), Path(folder))
        print(
            f"{len(stock)} sub-images, x{SCALE}, crop {CROP}, one core, best of {args.rounds} x {args.samples} samples"
        )
        print(f"equal samples of equal windows: {count_equal(stock, ours['float32'])}")
        print(f"{'':>8}  {'BasicSR':>9}  {'ours':>9}  {'ratio':>6}")
        times = measure({"BasicSR": stock, **ours}, args)
        for name in ours:
            slow, fast = times["BasicSR"], times[name]
            print(f"{name:>8}  {slow * 1e3:6.3f} ms  {fast * 1e3:6.3f} ms  {slow / fast:5.1f}x")


def photographs(folder: Path) -> Path:
    folder.mkdir()
    for name in PHOTOGRAPHS:
        shutil.copy(Path(skimage.__file__).parent / "data" / name, folder)
    return folder


def build(gt: Path, folder: Path) -> tuple[PairedImageDataset, dict[str, PairedCropDataset]]:
    """BasicSR's dataset on png, ours on raw with both outputs; the same images in all."""

    def options(image_format, **more):
        lmdbs = {"dataroot_gt": "GT.lmdb", "dataroot_lq": f"LQ_X{SCALE}.lmdb"}
        return {
            **{name: str(folder / image_format / lmdb) for name, lmdb in lmdbs.items()},
            **{"io_backend": {"type": "lmdb"}, "phase": "train", "scale": SCALE},
            **{"gt_size": CROP, "use_hflip": True, "use_rot": True, "seed": 0},
            **more,
        }

    for image_format in ("png", "raw"):
        prepare(PrepareJob(gt, folder / image_format, SCALE, image_format=image_format))
    ours = {output: PairedCropDataset(options("raw", output=output)) for output in ("uint8", "float32")}
    return PairedImageDataset(options("png")), ours


def count_equal(stock: PairedImageDataset, ours: PairedCropDataset) -> int:
    """Compare samples of the same random windows, in all eight orientations; raises where one differs."""
    count = 0
    for index, turns in itertools.product(range(0, len(stock), 4), itertools.product((False, True), repeat=3)):
        top, left = (random.randint(0, 120 - CROP // SCALE) for _ in range(2))
        with (
            mock.patch("random.randint", side_effect=[top, left]),
            mock.patch("random.random", side_effect=[0.0 if turn else 1.0 for turn in turns]),
            mock.patch.object(paired_crop_dataset, "draw_crop", return_value=Crop(top, left, *turns)),
        ):
            theirs, own = stock[index], ours[index]
        if theirs.keys() != own.keys() or any(
            not torch.equal(theirs[key], own[key]) if torch.is_tensor(own[key]) else theirs[key] != own[key]
            for key in own
        ):
            raise SystemExit(f"sample {index} differs for the window {top}, {left}, {turns}")
        count += 1
    return count


def measure(datasets: dict[str, Dataset], args: argparse.Namespace) -> dict[str, float]:
    """Seconds per sample of each dataset."""
    seconds = {name: [] for name in datasets}
    for _ in range(args.rounds):
        for name, dataset in datasets.items():
            indices = [random.randrange(len(dataset)) for _ in range(args.samples)]
            start = time.perf_counter()
            for index in indices:
                dataset[index]
            seconds[name].append((time.perf_counter() - start) / args.samples)
    return {name: min(values) for name, values in seconds.items()}


if __name__ == "__main__":
    main()

"""Claim: bicubic shrinking by matrix products is at least 3 times as fast as BasicSR's `imresize`, on one core.

    python benchmarks/bicubic.py [--height 1356] [--width 2040] [--scale 4]

Both get the same float32 image, and the largest difference of their results is printed beside the ratio. The second
line is the job as `dscsr prepare` does it, 8-bit image in and 8-bit image out. The two are timed in turn, so that
whatever else the machine does meets both alike; the shortest time of each counts.
"""

# ruff: noqa: E402 - the number of threads is fixed before numpy is imported
import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import argparse
import time

import numpy as np
import torch
from basicsr.utils.matlab_functions import imresize

from dscsr_model.data.bicubic import downscale, resize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=1356)
    parser.add_argument("--width", type=int, default=2040)
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    levels = np.random.default_rng(0).integers(0, 256, (args.height, args.width, 3), dtype=np.uint8)
    image = levels.astype(np.float32) / 255

    def plain_levels():
        return (imresize(levels.astype(np.float32) / 255, 1 / args.scale) * 255).round().clip(0, 255).astype(np.uint8)

    print(f"{args.width}x{args.height}, x{args.scale} smaller, one core, best of {args.repeats}")
    print(f"{'':>8}  {'imresize':>9}  {'ours':>9}  {'ratio':>6}  largest difference")
    compare("float32", lambda: imresize(image, 1 / args.scale), lambda: resize(image, 1 / args.scale), args.repeats)
    compare("8 bit", plain_levels, lambda: downscale(levels, args.scale), args.repeats)


def compare(label, plain, ours, repeats) -> None:
    """Print one row: milliseconds of both ways, their ratio and how far their results differ."""
    difference = np.abs(plain().astype(float) - ours()).max()
    seconds = [[], []]
    for _ in range(repeats):
        for function, times in zip((plain, ours), seconds, strict=True):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
    slow, fast = (min(times) for times in seconds)
    print(f"{label:>8}  {slow * 1e3:6.1f} ms  {fast * 1e3:6.1f} ms  {slow / fast:5.2f}x  {difference:.1e}")


if __name__ == "__main__":
    main()

"""Data of the experiments in docs/results.md: 360 photographs to train on, 40 held out, Set5, and the released weights.

    python datasets/bsds400.py ASSETS [--shipped]

ASSETS holds ``bsds400/*.jpg`` (the photographs of BSDS500's train and test parts), ``set5/HR``, ``set5/LRbicx4`` and
``weights/*.pth``. Written, in the working directory:

    datasets/bsds400/GT.lmdb, LQ_X4.lmdb   training pairs x4, raw; every photograph whole and at half its size, since
                                           the noise of JPEG is averaged away in the halves
    datasets/bsds400/held_out/GT, LQ       every tenth photograph, for validation
    datasets/bsds400/few/GT, LQ            every tenth of those that are trained on, to prune with
    datasets/Set5/HR, LRbicx4              copies
    datasets/weights/                      copies

With ``--shipped``, as the networks that come with the package were trained (options/train_shipped_*.yml):

    datasets/bsds400_x2, datasets/bsds400_x3   the photographs themselves, for x2 and x3
    datasets/Set5/HRx2, LRbicx2, …         Set5 for these scales
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dscsr_arch.errors import DscsrError
from dscsr_model.cli import main as dscsr
from dscsr_model.data.bicubic import downscale
from dscsr_model.data.image_io import read_rgb

SCALE = 4
HOLD_OUT_EVERY = 10
DATA = Path("datasets/bsds400")


def main(argv: list[str] | None = None) -> int:
    """Collect everything below the working directory; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("assets", type=Path, metavar="ASSETS", help="the folder with bsds400, set5 and weights")
    parser.add_argument("--shipped", action="store_true", help="also the data of options/train_shipped_*.yml")
    args = parser.parse_args(argv)
    try:
        return collect(args.assets) or (shipped() if args.shipped else 0)
    except DscsrError as error:
        print(f"bsds400: error: {error}", file=sys.stderr)
        return 1


def collect(assets: Path) -> int:
    """Everything that the module's docstring lists, from ``assets``; returns the exit code of ``dscsr prepare``."""
    photographs = sorted((assets / "bsds400").glob("*.jpg"))
    if len(photographs) < HOLD_OUT_EVERY:
        remedy = "Give the folder that has bsds400, set5 and weights in it."
        raise DscsrError(f"at least {HOLD_OUT_EVERY} photographs in {assets / 'bsds400'}", len(photographs), remedy)
    training = DATA / "photographs"
    for folder in (training, *(DATA / name / side for name in ("held_out", "few") for side in ("GT", "LQ"))):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    for number, path in enumerate(photographs, start=1):
        image = read_rgb(path)
        if number % HOLD_OUT_EVERY < 2:
            pair = DATA / ("few" if number % HOLD_OUT_EVERY else "held_out")
            write(pair / f"GT/{path.stem}.png", cropped(image, SCALE))
            write(pair / f"LQ/{path.stem}.png", downscale(cropped(image, SCALE), SCALE))
        if number % HOLD_OUT_EVERY:
            write(training / f"{path.stem}.png", cropped(image, SCALE))
            write(training / f"{path.stem}_half.png", cropped(downscale(cropped(image, 2), 2), SCALE))
    for source, target in (("set5/HR", "Set5/HR"), ("set5/LRbicx4", "Set5/LRbicx4"), ("weights", "weights")):
        copy(assets / source, Path("datasets") / target)
    return prepare(training, DATA, SCALE)


def shipped() -> int:
    """The data of ``options/train_shipped_*.yml``, from what `collect` wrote; returns the exit code of ``dscsr``."""
    for scale in (2, 3):
        hr, lr = Path(f"datasets/Set5/HRx{scale}"), Path(f"datasets/Set5/LRbicx{scale}")
        hr.mkdir(exist_ok=True)
        lr.mkdir(exist_ok=True)
        for path in sorted(Path("datasets/Set5/HR").glob("*.png")):
            image = cropped(read_rgb(path), scale)
            write(hr / path.name, image)
            write(lr / path.name, downscale(image, scale))
        if code := prepare(DATA / "photographs", Path(f"{DATA}_x{scale}"), scale):
            return code
    return 0


def prepare(gt: Path, out: Path, scale: int) -> int:
    """``dscsr prepare`` of whole photographs; returns its exit code."""
    command = ["prepare", "--gt", gt, "--out", out, "--scale", scale, "--crop-size", 0, "--force"]
    return dscsr([str(part) for part in command])


def copy(source: Path, target: Path) -> None:
    """Copy the files of one folder, not its permissions: assets may be read-only."""
    target.mkdir(parents=True, exist_ok=True)
    for file in filter(Path.is_file, source.iterdir()):
        shutil.copyfile(file, target / file.name)


def cropped(image: NDArray[np.uint8], multiple: int) -> NDArray[np.uint8]:
    """The upper left part of (H, W, 3) whose sides ``multiple`` divides."""
    height, width = (side // multiple * multiple for side in image.shape[:2])
    return image[:height, :width]


def write(path: Path, image: NDArray[np.uint8]) -> None:
    """Write (H, W, 3) RGB uint8 as a PNG."""
    cv2.imwrite(str(path), image[:, :, ::-1])


if __name__ == "__main__":
    sys.exit(main())

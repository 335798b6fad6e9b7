"""The demo's photographs: real ones that any machine has, because scikit-image carries them."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dscsr_arch.errors import DscsrError
from dscsr_model.data.bicubic import downscale

HELD_OUT = ("chelsea.png", "coffee.png", "rocket.jpg")
TRAINING = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "retina.jpg",
)


def collect(training: Path, held_out: Path, scale: int) -> None:
    """Copy the training photographs, and the held-out ones with their bicubic LR versions, into new folders.

    Args:
        training: Folder for the training photographs.
        held_out: Folder that gets ``GT/`` and ``LQ/`` with PNG files of one name each.
        scale: The held-out photographs are cropped to a multiple of it, and shrunk by it.

    Raises:
        DscsrError: scikit-image, or a photograph in it, is missing.
    """
    source = _source()
    for folder in (training, held_out / "GT", held_out / "LQ"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    for name in TRAINING:
        shutil.copyfile(source / name, training / name)
    for name in HELD_OUT:
        image = load(source / name)
        height, width = (side // scale * scale for side in image.shape[:2])
        png = f"{Path(name).stem}.png"
        cv2.imwrite(str(held_out / "GT" / png), image[:height, :width])
        cv2.imwrite(str(held_out / "LQ" / png), downscale(image[:height, :width], scale))


def load(path: Path) -> NDArray[np.uint8]:
    """An image, (H, W, 3) BGR uint8.

    Raises:
        DscsrError: It does not open.
    """
    image = cv2.imread(str(path))
    if image is None:
        raise DscsrError(f"Expected an image at {path}, but it does not open. Run `make clean`, then `make demo`.")
    return image.astype(np.uint8, copy=False)


def _source() -> Path:
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise DscsrError(
            "Expected scikit-image, inside which the demo's photographs are (BasicSR brings it), but it is not "
            "installed. Run `make demo`, which builds the environment first."
        )
    folder = Path(spec.origin).parent / "data"
    if missing := [name for name in (*TRAINING, *HELD_OUT) if not (folder / name).is_file()]:
        raise DscsrError(
            f"Expected the photographs {', '.join(missing)} in {folder}, but they are not there. "
            "Install the scikit-image that constraints.txt names."
        )
    return folder

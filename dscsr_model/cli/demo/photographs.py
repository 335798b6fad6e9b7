"""The demo's photographs: real ones that any machine has, because scikit-image carries them."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from PIL import Image

from dscsr_arch.errors import DscsrError
from dscsr_model.data.bicubic import downscale
from dscsr_model.data.image_io import read_rgb

HELD_OUT = ("chelsea.png", "coffee.png", "rocket.jpg")
TRAINING = (
    *("astronaut.png", "brick.png", "camera.png", "coins.png", "grass.png", "gravel.png"),
    *("hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png", "motorcycle_right.png", "retina.jpg"),
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
        image = read_rgb(source / name)
        height, width = (side // scale * scale for side in image.shape[:2])
        png = f"{Path(name).stem}.png"
        Image.fromarray(image[:height, :width]).save(held_out / "GT" / png)
        Image.fromarray(downscale(image[:height, :width], scale)).save(held_out / "LQ" / png)


def _source() -> Path:
    spec = importlib.util.find_spec("skimage")
    folder = Path(spec.origin if spec and spec.origin else "skimage").parent / "data"
    if missing := [name for name in (*TRAINING, *HELD_OUT) if not (folder / name).is_file()]:
        raise DscsrError(
            "scikit-image with its photographs (BasicSR brings it)",
            f"none, or one without {', '.join(missing)}",
            "Run `make demo`, which builds the environment with the one that constraints.txt names.",
        )
    return folder

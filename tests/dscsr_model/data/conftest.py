"""Small real photographs, and LMDB pairs made of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dscsr_model.data.bicubic import downscale
from dscsr_model.data.image_io import in_channels
from dscsr_model.data.lmdb_store import LmdbWriter, encode

IMAGES = ("astronaut.png", "chelsea.png", "coffee.png", "ihc.png", "rocket.jpg")


@pytest.fixture(scope="session")
def photographs() -> list[np.ndarray]:
    """Five photographs, (H, W, 3) RGB uint8, of about 200×160 pixels, each of another size."""
    skimage = pytest.importorskip("skimage", reason="its photographs are the test images")
    folder = Path(skimage.__file__).parent / "data"
    return [
        np.asarray(Image.open(folder / name).convert("RGB"))[40 : 200 + 7 * n, 60 : 270 + 5 * n]
        for n, name in enumerate(IMAGES)
    ]


@pytest.fixture
def make_pair(photographs, tmp_path):
    """Write the photographs, cropped to multiples of 12, as a pair of LMDBs; returns dataset options."""

    def make(image_format="raw", scale=4, name="data", channels=3):
        for root, factor in (("GT", 1), (f"LQ_X{scale}", scale)):
            (tmp_path / name).mkdir(exist_ok=True)
            with LmdbWriter(tmp_path / name / f"{root}.lmdb") as writer:
                for number, image in enumerate(photographs):
                    image = in_channels(image[: image.shape[0] // 12 * 12, : image.shape[1] // 12 * 12], channels)
                    image = image if factor == 1 else downscale(image, factor)
                    writer.add([encode(f"photo{number}", image, image_format)])
        return {
            "name": "test",
            "type": "PairedCropDataset",
            "dataroot_gt": str(tmp_path / name / "GT.lmdb"),
            "dataroot_lq": str(tmp_path / name / f"LQ_X{scale}.lmdb"),
            "io_backend": {"type": "lmdb"},
            "phase": "train",
            "scale": scale,
            "gt_size": 48,
            "use_hflip": True,
            "use_rot": True,
            "seed": 7,
        }

    return make

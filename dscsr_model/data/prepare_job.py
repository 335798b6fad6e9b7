"""What `prepare` is to make, and what it has made."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from dscsr_arch.errors import DscsrError
from dscsr_model.data.lmdb_store import FORMATS
from dscsr_model.data.workers import available_cores

COLORS = ("auto", "rgb", "gray")


@dataclass(frozen=True)
class Job:
    """What to make of which images.

    Attributes:
        gt: Folder of HR images; folders inside are searched too.
        out: Where the LMDBs go; made if it is missing.
        scale: Whole number from 1 on.
        lq: Folder of LR images; None to make them by MATLAB's bicubic.
        crop_size: Side of the HR sub-images, rounded down to a multiple of ``scale``; 0 keeps images whole.
        step: Distance of neighbouring sub-images, rounded likewise.
        thresh_size: More HR pixels than this left over at the right or lower edge get one more sub-image.
        color: ``rgb``, ``gray`` (one channel, the luma from 0 to 255), or ``auto``: gray if all images are.
        image_format: ``raw`` or ``png``.
        compression: Of png, 0 to 9.
        force: Replace LMDBs that are there.
        strict: Stop at a broken image instead of leaving it out.
        workers: Processes; all cores by default.
    """

    gt: Path
    out: Path
    scale: int
    lq: Path | None = None
    crop_size: int = 480
    step: int = 240
    thresh_size: int = 0
    color: str = "auto"
    image_format: str = "raw"
    compression: int = 1
    force: bool = False
    strict: bool = False
    workers: int = field(default_factory=available_cores)

    @property
    def effective_crop(self) -> int:
        """``crop_size`` as it is used."""
        return self.crop_size // self.scale * self.scale

    @property
    def targets(self) -> tuple[Path, Path]:
        """The two LMDBs."""
        return self.out / "GT.lmdb", self.out / f"LQ_X{self.scale}.lmdb"

    def check(self) -> None:
        """Raise `DscsrError` at the first value that makes no sense."""
        at_least = {"--scale": (self.scale, 1), "--crop-size": (self.crop_size, 0)}
        at_least |= {"--thresh-size": (self.thresh_size, 0), "--workers": (self.workers, 1)}
        for name, (value, least) in at_least.items():
            if value < least:
                raise DscsrError(f"Expected {name} to be at least {least}, but got {value}.")
        if 0 < self.crop_size < self.scale or self.step < self.scale:
            raise DscsrError(
                f"Expected --crop-size and --step to be at least the scale {self.scale}, one LR pixel, but got "
                f"{self.crop_size} and {self.step}. Take 480 and 240, or --crop-size 0 to keep images whole."
            )
        if self.color not in COLORS:
            raise DscsrError(f"Expected --color to be one of {', '.join(COLORS)}, but got {self.color!r}.")
        if self.image_format not in FORMATS:
            raise DscsrError(f"Expected --format to be one of {', '.join(FORMATS)}, but got {self.image_format!r}.")
        if not 0 <= self.compression <= 9:
            raise DscsrError(f"Expected --compression to be from 0 to 9, but got {self.compression}.")


@dataclass(frozen=True)
class Summary:
    """What was made: counts, bytes on the disk (GT, LQ), seconds, and the broken images that were left out.

    ``shortest`` is the shortest side of all HR sub-images in pixels, ``small`` the number of images shorter than the
    crop, ``alpha`` the number of those that had an alpha channel. ``channels`` are those of the LMDBs; ``recolored``
    counts files, HR and LR, that had others, ``sixteen_bit`` those of which 8 bits are kept, ``left_out`` those that
    are no images, by kind.
    """

    images: int
    pairs: int
    bytes: tuple[int, int]
    seconds: float
    skipped: tuple[str, ...]
    shortest: int
    small: int
    alpha: int
    channels: int
    recolored: int
    sixteen_bit: int
    left_out: Counter[str]

"""What `prepare` is to make: its values, checked, and where the sub-images of an image lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from dscsr_arch.errors import DataError, DscsrError
from dscsr_model.data.degrade import Step, read_steps
from dscsr_model.data.workers import available_cores


class SubImage(NamedTuple):
    """A part of an image, in its pixels."""

    top: int
    left: int
    height: int
    width: int

    def times(self, scale: int) -> SubImage:
        """The same part of an image that is ``scale`` times as large."""
        return SubImage(*(scale * value for value in self))


@dataclass(frozen=True)
class PrepareJob:
    """What to make of which images: the options of ``dscsr prepare``, whose help says what they are.

    With ``teacher`` there is one whose outputs are stored.
    """

    gt: Path
    out: Path
    scale: int
    lq: Path | None = None
    crop_size: int = 480
    step: int = 240
    thresh_size: int = 0
    hold_out: int = 0
    color: str = "auto"
    image_format: str = "raw"
    compression: int = 1
    degrade: Sequence[str] = ()
    teacher: bool = False
    force: bool = False
    strict: bool = False
    workers: int = field(default_factory=available_cores)

    @property
    def effective_crop(self) -> int:
        """``crop_size`` as it is used."""
        return self.crop_size // self.scale * self.scale

    @property
    def targets(self) -> tuple[Path, ...]:
        """The LMDBs: of GT, of LQ, and of a teacher's outputs if there is one."""
        pair = self.out / "GT.lmdb", self.out / f"LQ_X{self.scale}.lmdb"
        return (*pair, self.stored) if self.teacher else pair

    @property
    def stored(self) -> Path:
        """The LMDB of a teacher's outputs."""
        return outputs_lmdb(self.out, self.scale)

    @property
    def validation(self) -> tuple[Path, Path]:
        """The two folders of held-out images."""
        return self.out / "GT_val", self.out / f"LQ_X{self.scale}_val"

    @property
    def whole(self) -> PrepareJob:
        """The same of whole images in PNG, as held-out ones are kept."""
        return replace(self, crop_size=0, image_format="png")

    @property
    def steps(self) -> list[Step]:
        """What LQ images go through."""
        return read_steps(self.degrade)

    def check(self) -> None:
        """Raise `DscsrError` at the first value that makes no sense."""
        for name, least in {"scale": 1, "crop_size": 0, "thresh_size": 0, "workers": 1, "hold_out": 0}.items():
            if (value := getattr(self, name)) < least:
                raise DscsrError(f"--{name.replace('_', '-')} to be at least {least}", value)
        if 0 < self.crop_size < self.scale or self.step < self.scale:
            expected = f"--crop-size and --step to be at least the scale {self.scale}, one LR pixel"
            remedy = "Take 480 and 240, or --crop-size 0 to keep images whole."
            raise DscsrError(expected, f"{self.crop_size} and {self.step}", remedy)
        if not 0 <= self.compression <= 9:
            raise DscsrError("--compression to be from 0 to 9", self.compression)
        read_steps(self.degrade)
        self._check_hold_out()
        self._check_stored()

    def _check_hold_out(self) -> None:
        """What is held out must not come back as something to train on."""
        held = self.validation[0]
        if not self.hold_out and held.exists():
            remedy = f"Add it, choose another --out, or remove {held}."
            raise DataError(f"--hold-out, since {held} validates what is trained here", "none", remedy)
        for source in filter(None, (self.gt, self.lq)):
            if self.hold_out and self.out.resolve().is_relative_to(source.resolve()):
                expected = f"--out outside of {source}, where the next run would find the held-out images"
                raise DataError(expected, self.out, "Choose another --out.")

    def _check_stored(self) -> None:
        """What a teacher has made of other pairs must not stay beside these."""
        if not self.teacher and self.stored.exists():
            remedy = f"Add it, choose another --out, or remove {self.stored}."
            raise DataError(f"--teacher, since {self.stored} was made of the pairs that are here", "none", remedy)

    def windows(self, height: int, width: int) -> list[SubImage]:
        """All sub-images of an LR image of this size, row by row; one window over everything for whole images."""
        if self.crop_size == 0:
            return [SubImage(0, 0, height, width)]
        crop, step, thresh = (size // self.scale for size in (self.crop_size, self.step, self.thresh_size))
        size = min(crop, height), min(crop, width)
        return [
            SubImage(top, left, *size)
            for top in _starts(height, crop, step, thresh)
            for left in _starts(width, crop, step, thresh)
        ]


def outputs_lmdb(out: Path, scale: int) -> Path:
    """Where a teacher's outputs lie beside a pair."""
    return out / f"TEACHER_X{scale}.lmdb"


def common_size(hr_size: tuple[int, int], lr_size: tuple[int, int] | None, scale: int) -> tuple[int, int] | None:
    """Height and width of what HR and LR images have in common, in LR pixels; None if the two do not fit together.

    An HR side that ``scale`` does not divide loses its last pixels. An LR side made from it may be rounded up or down;
    without ``lr_size`` it is still to be made.
    """
    floor = (hr_size[0] // scale, hr_size[1] // scale)
    if lr_size is not None and not all(
        low <= side <= -(-high // scale) for low, side, high in zip(floor, lr_size, hr_size, strict=True)
    ):
        return None
    return floor


def _starts(length: int, crop: int, step: int, thresh: int) -> list[int]:
    """First pixels of the sub-images along one axis, as BasicSR's ``extract_subimages`` lays them.

    A last one flush with the end is added when more than ``thresh`` pixels would be left over. An axis shorter than
    ``crop``, where BasicSR fails, gives one sub-image, as long as the axis.
    """
    if length <= crop:
        return [0]
    first = list(range(0, length - crop + 1, step))
    if length - (first[-1] + crop) > thresh:
        first.append(length - crop)
    return first

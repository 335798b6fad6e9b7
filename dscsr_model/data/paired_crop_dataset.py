"""PairedCropDataset: pairs of HR and LR images for training and validation, without reading more than is used.

In place of BasicSR's ``PairedImageDataset``, with the same options and the same dictionary. Different from it:

- From an LMDB of bare pixels (``dscsr prepare``, format raw) only the pixels of the crop are read.
- Crops, flips and rotations depend on seed and draw alone (see ``sample_keys.py``), not on the number of workers
  or on what was drawn before, so that a stopped and resumed run sees the samples that it would have seen.
- Train and validation may use one LMDB, and the dataset can be pickled at any time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from dscsr_arch.errors import DataError
from dscsr_model.data.crops import Crop, cut, draw_crop, planes
from dscsr_model.data.image_io import in_channels
from dscsr_model.data.sample_keys import SampleKey
from dscsr_model.data.sources import ImageSource, MemorySource, open_pair

Sample = dict[str, Any]


class PairedCropDataset(Dataset):
    """Pairs of HR (``gt``) and LR (``lq``) images.

    A sample is a dictionary: ``lq`` and ``gt``, (3, H, W) RGB or (1, H, W) gray, float32 in [0, 1] or uint8;
    ``lq_path`` and ``gt_path``, file names, or keys of the LMDB. In phase train the images are crops, in any other they
    are whole, the GT without what exceeds the LR image.

    Args:
        opt: A dataset section of a BasicSR option file:

            - ``dataroot_gt``, ``dataroot_lq``: LMDBs or folders, as ``io_backend: {type: lmdb | disk}`` says.
            - ``filename_tmpl``, ``meta_info_file``: for folders, as in BasicSR.
            - ``phase``, ``scale``: BasicSR adds them.
            - ``color``: ``rgb`` or ``gray``, one channel from 0 to 255 (see `in_channels`). By default what LMDBs hold:
              ``gray`` if all their images have one channel; ``rgb`` for folders.
            - ``gt_size``, ``use_hflip``, ``use_rot``: crops and their orientations, phase train only.
            - ``output``: ``float32`` (default), or ``uint8`` to have it converted on the device.
            - ``augment``: ``cpu`` (default), or ``device``: crops come as they lie in the image, and a sample says in
              ``orientation`` (0 to 7, see `crops.Crop.orientation`) how ``EfficientSRModel`` is to turn them there.
            - ``repeat_crops``: n samples in a row of a batch come from one image, which is read once. For images
              that have to be decoded (png, folders); an epoch has as many samples as before.
            - ``cache``: ``ram`` keeps all images, decoded, in memory (forked workers share it).
            - ``seed``: of crops and orientations; by default the run's, which BasicSR sets from ``manual_seed``.

    Raises:
        DscsrError: An option has no sense; no pairs; images smaller than the crop.
    """

    takes_sample_keys = True

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self.opt = opt
        self.scale = _whole_number(opt, "scale")
        self.train = opt["phase"] == "train"
        self.output = _choice(opt, "output", ("float32", "uint8"))
        self.augment = _choice(opt, "augment", ("cpu", "device"))
        self.repeat_crops = _whole_number(opt, "repeat_crops", 1)
        _refuse(opt, ("mean", "std"))
        self.gt, self.lq = open_pair(opt)
        self.channels = _channels(opt, self.gt, self.lq)
        if _choice(opt, "cache", (None, "ram")) == "ram":
            self.gt, self.lq = MemorySource(self.gt), MemorySource(self.lq)
        self.shapes = self.lq.shapes()
        if self.train:
            self.size = _crop_size(opt, self.scale)
            self._check_sizes()
        self.flips = bool(opt.get("use_hflip", False)), bool(opt.get("use_rot", False))
        self.seed = _run_seed() if opt.get("seed") is None else int(opt["seed"])
        self.epoch: int | None = None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of samples asked for by a bare index; in BasicSR's loop every index comes as a draw.

        Call it before a loader is iterated over. Workers that outlive an epoch do not hear of it. Until it is called,
        a bare index gives another crop each time, from torch's generator.
        """
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.gt)

    def __getitem__(self, index: int | SampleKey) -> Sample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int | SampleKey]) -> list[Sample]:
        """The samples of one batch; the loader calls it."""
        wanted = [self._draw(index) for index in indices]
        groups = [wanted[first : first + self.repeat_crops] for first in range(0, len(wanted), self.repeat_crops)]
        for group in groups:
            self._expect(group)
        return [sample for group in groups for sample in self._samples(group)]

    def _draw(self, index: int | SampleKey) -> SampleKey:
        if isinstance(index, SampleKey):
            return index
        if self.epoch is None and self.train:
            return SampleKey(index, int(torch.randint(2**31, ())))  # a worker's generator differs from epoch to epoch
        return SampleKey(index, self.epoch or 0)

    def _expect(self, wanted: Sequence[SampleKey]) -> None:
        """Let the rows of all crops be on their way from the disk before the first is cut."""
        index = wanted[0].image
        if self.shapes is None:
            return
        height, width = (int(side) for side in self.shapes[index, :2])
        crops = [self._crop(draw, height, width) for draw in wanted] if self.train else []
        for top, rows in [(crop.top, self.size) for crop in crops] or [(0, height)]:
            self.gt.expect(index, self.scale * top, self.scale * rows)
            self.lq.expect(index, top, rows)

    def _samples(self, wanted: Sequence[SampleKey]) -> list[Sample]:
        """A sample for each draw, all from the image of the first."""
        index = wanted[0].image
        names = {"lq_path": self.lq.name(index), "gt_path": self.gt.name(index)}
        with self.lq.pixels(index) as lq, self.gt.pixels(index) as gt:
            self._check_pair(lq.shape, gt.shape, names["gt_path"])
            cuts = [self._cut(lq, gt, draw) if self.train else self._whole(lq, gt) for draw in wanted]
        return [{"lq": self._tensor(lq), "gt": self._tensor(gt), **names, **more} for lq, gt, more in cuts]

    def _crop(self, draw: SampleKey, height: int, width: int) -> Crop:
        key = (self.seed, draw.epoch, draw.image, draw.position)
        return draw_crop(key, height, width, self.size, *self.flips)

    def _cut(self, lq: NDArray[np.uint8], gt: NDArray[np.uint8], draw: SampleKey) -> tuple[NDArray, NDArray, Sample]:
        crop = self._crop(draw, lq.shape[0], lq.shape[1])
        more: Sample = {}
        if self.augment == "device":
            more["orientation"] = crop.orientation
            crop = crop._replace(hflip=False, vflip=False, transpose=False)
        small = cut(lq, crop, self.size, 1, self.channels)
        return small, cut(gt, crop, self.size, self.scale, self.channels), more

    def _whole(self, lq: NDArray[np.uint8], gt: NDArray[np.uint8]) -> tuple[NDArray, NDArray, Sample]:
        gt = gt[: self.scale * lq.shape[0], : self.scale * lq.shape[1]]
        return planes(in_channels(lq, self.channels)), planes(in_channels(gt, self.channels)), {}

    def _tensor(self, image: NDArray[np.uint8]) -> Tensor:
        tensor = torch.from_numpy(image)
        return tensor if self.output == "uint8" else tensor.float().div_(255)

    def _check_sizes(self) -> None:
        """Where the sizes of all images are known, find those that do not fit before training starts."""
        if self.shapes is None or (shapes := self.gt.shapes()) is None:
            return
        gt, lq = shapes[:, :2], self.shapes[:, :2]
        for index in np.flatnonzero((gt != self.scale * lq).any(1) | (lq < self.size).any(1))[:1]:
            self._check_pair(tuple(lq[index]), tuple(gt[index]), self.gt.name(index))

    def _check_pair(self, lq: Sequence[int], gt: Sequence[int], name: str) -> None:
        wanted = self.scale * int(lq[0]), self.scale * int(lq[1])
        got = int(gt[0]), int(gt[1])
        if got != wanted if self.train else got[0] < wanted[0] or got[1] < wanted[1]:
            raise DataError(
                f"Expected the GT `{name}` to be {self.scale} times as large as its LQ, {wanted}, but got {got}. "
                "Set `scale` to that of the data, or prepare them again."
            )
        if self.train and min(got) < self.scale * self.size:
            raise DataError(
                f"Expected images of at least {self.scale * self.size} pixels (`gt_size`), but `{name}` is {got}. "
                "Lower `gt_size`, or remove the image."
            )


def _whole_number(opt: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = opt.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise DataError(f"Expected `{name}` to be a whole number, at least 1, but got {value!r}.")
    return value


def _channels(opt: Mapping[str, Any], *sources: ImageSource) -> int:
    color = opt.get("color")
    if color not in (None, "rgb", "gray"):
        raise DataError(
            f"Expected `color` to be rgb or gray, but got {color!r}. "
            "BasicSR's `y` has levels from 16 to 235; `gray` has all from 0 to 255."
        )
    if color is None:
        shapes = [source.shapes() for source in sources]
        return 1 if all(each is not None and (each[:, 2] == 1).all() for each in shapes) else 3
    return 1 if color == "gray" else 3


def _choice(opt: Mapping[str, Any], name: str, values: tuple[str | None, ...]) -> str | None:
    value = opt.get(name, values[0])
    if value not in values:
        raise DataError(f"Expected `{name}` to be one of {values}, but got {value!r}.")
    return value


def _refuse(opt: Mapping[str, Any], names: Sequence[str]) -> None:
    found = [name for name in names if opt.get(name) is not None]
    if found:
        raise DataError(
            f"Expected none of BasicSR's {', '.join(names)} (PairedCropDataset gives levels in [0, 1]), but got "
            f"`{found[0]}`. Leave it out, or use PairedImageDataset."
        )


def _crop_size(opt: Mapping[str, Any], scale: int) -> int:
    size = _whole_number(opt, "gt_size")
    if size % scale:
        raise DataError(
            f"Expected `gt_size` to be a multiple of the scale {scale}, but got {size}. Take {size // scale * scale}."
        )
    return size // scale


def _run_seed() -> int:
    """BasicSR seeds every rank with `manual_seed` + rank; crops must not depend on the rank."""
    rank = (
        torch.distributed.get_rank() if torch.distributed.is_available() and torch.distributed.is_initialized() else 0
    )
    return (torch.initial_seed() - rank) % 2**63

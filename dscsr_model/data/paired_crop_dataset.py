"""PairedCropDataset: pairs of HR and LR images for training and validation, without reading more than is used.

In place of BasicSR's ``PairedImageDataset``, with the same options and the same dictionary. Different from it:

- From an LMDB of raw pixels (``dscsr prepare``, format raw) only the pixels of the crop are touched.
- Crops, flips and rotations depend on the seed and the `SampleKey` alone, not on the number of workers or on what was
  drawn before, so that a stopped and resumed run sees the samples that it would have seen.
- Train and validation may use one LMDB, and the dataset can be pickled at any time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed
from torch.utils.data import Dataset

from dscsr_arch.errors import DataError
from dscsr_model.data.crops import Crop, cut, draw_crop, planes
from dscsr_model.data.image_io import in_channels
from dscsr_model.data.keyed_samples import SampleKey
from dscsr_model.data.noise import noisy
from dscsr_model.data.sources import ImageSource, MemorySource, open_pair, open_teacher
from dscsr_model.options import datasets as sections
from dscsr_model.stored_values import as_values

Sample = dict[str, Any]


class PairedCropDataset(Dataset):
    """Pairs of HR (``gt``) and LR (``lq``) images.

    A sample is a dictionary: ``lq`` and ``gt``, (3, H, W) RGB or (1, H, W) gray, float32 in [0, 1] or uint8;
    ``lq_path`` and ``gt_path``, file names, or keys of the LMDB. In phase train the images are crops, in any other they
    are whole, the GT without what exceeds the LR image. With ``noise`` the ``lq`` is float32, neither clipped nor
    rounded; in training each sample has noise of its own, else each image, by its name, always the same.
    With ``dataroot_teacher`` there is also ``teacher_image``, the same crop of what a teacher made of the whole LR
    image: float32, or int16 of `stored_values` beside uint8.

    Args:
        opt: A dataset section of a BasicSR option file, as `dscsr_model.options.datasets.PairedCropDataset` declares
            it; ``phase`` and ``scale``, which BasicSR adds; and ``seed``, of crops and orientations, by default the
            run's, which BasicSR sets from ``manual_seed``. With ``augment: device`` a sample says in ``orientation``
            (see `Crop.orientation`) how ``EfficientSRModel`` is to turn it. With ``repeat_crops: n``, n samples in a
            row of a batch come from one image, which is read once: for images that have to be decoded.

    Raises:
        DscsrError: An option has no sense; no pairs; images smaller than the crop.
    """

    takes_sample_keys = True

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self.opt = opt
        self.scale = int(opt["scale"])
        self.train = opt["phase"] == "train"
        _refuse_stock_options(opt)
        self.options = options = sections.PairedCropDataset.parse(opt)
        self.gt, self.lq = open_pair(opt, options)
        self.channels = 1 if options.color == "gray" or (options.color is None and _gray(self.gt, self.lq)) else 3
        self.teacher = open_teacher(options, (self.gt, self.lq), self.scale, self.channels) if self.train else None
        if options.cache == "ram":
            both = {source: MemorySource(source) for source in (self.gt, self.lq)}  # one, if GT plus noise is LQ
            self.gt, self.lq = both[self.gt], both[self.lq]
            self.teacher = self.teacher and MemorySource(self.teacher)
        if self.train:
            self.size = _crop_size(options.gt_size, self.scale)
            self._check_sizes()
        self.seed = _run_seed() if opt.get("seed") is None else int(opt["seed"])
        self.epoch: int | None = None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of samples asked for by a number; in BasicSR's loop they are asked for by key.

        Call it before a loader is iterated over. Workers that outlive an epoch do not hear of it. Until it is called,
        a number gives another crop each time, from torch's generator.
        """
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.gt)

    def __getitem__(self, index: int | SampleKey) -> Sample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int | SampleKey]) -> list[Sample]:
        """The samples of one batch; the loader calls it."""
        keys, together = [self._key(index) for index in indices], self.options.repeat_crops
        groups = [keys[first : first + together] for first in range(0, len(keys), together)]
        return [sample for group in groups for sample in self._samples(group)]

    def _key(self, index: int | SampleKey) -> SampleKey:
        if isinstance(index, SampleKey):
            return index
        if self.epoch is None and self.train:
            return SampleKey(index, int(torch.randint(2**31, ())))  # a worker's generator differs from epoch to epoch
        return SampleKey(index, self.epoch or 0)

    def _size(self, key: SampleKey) -> int:
        """Side of a crop in LR pixels; 0 for whole images."""
        return 0 if not self.train else self.size if key.gt_size is None else _crop_size(key.gt_size, self.scale)

    def _samples(self, keys: Sequence[SampleKey]) -> list[Sample]:
        """A sample for each key, all from the image of the first."""
        index, size = keys[0].image, self._size(keys[0])
        names = {"lq_path": self.lq.name(index), "gt_path": self.gt.name(index)}
        stored = nullcontext() if self.teacher is None else self.teacher.pixels(index)
        with self.lq.pixels(index) as lq, self.gt.pixels(index) as gt, stored as teacher:
            self._check_pair(lq.shape, gt.shape, names["gt_path"], size)
            cuts = [self._cut(lq, gt, teacher, key) if self.train else self._whole(lq, gt) for key in keys]
        samples = [{"lq": self._tensor(lq), "gt": self._tensor(gt), **names, **more} for lq, gt, more in cuts]
        if self.options.noise is not None:
            for key, sample in zip(keys, samples, strict=True):
                drawn_by = (self.seed, *key[:3]) if self.train else (Path(names["gt_path"]).stem,)
                sample["lq"] = torch.from_numpy(noisy(sample["lq"].numpy(), self.options.noise, *drawn_by))
        return samples

    def _cut(
        self, lq: NDArray[np.uint8], gt: NDArray[np.uint8], teacher: NDArray[np.int16] | None, key: SampleKey
    ) -> tuple[NDArray, NDArray, Sample]:
        numbers = (self.seed, key.epoch, key.image, key.position)
        (height, width), size = lq.shape[:2], self._size(key)
        crop = draw_crop(numbers, height, width, size, self.options.use_hflip, self.options.use_rot)
        more: Sample = {}
        if self.options.augment == "device":
            more["orientation"] = crop.orientation
            crop = Crop(crop.top, crop.left)
        if teacher is not None:
            more["teacher_image"] = self._tensor(cut(teacher, crop, size, self.scale, self.channels))
        small = cut(lq, crop, size, 1, self.channels)
        return small, cut(gt, crop, size, self.scale, self.channels), more

    def _whole(self, lq: NDArray[np.uint8], gt: NDArray[np.uint8]) -> tuple[NDArray, NDArray, Sample]:
        gt = gt[: self.scale * lq.shape[0], : self.scale * lq.shape[1]]
        return planes(in_channels(lq, self.channels)), planes(in_channels(gt, self.channels)), {}

    def _tensor(self, image: NDArray) -> Tensor:
        tensor = torch.from_numpy(image)
        if self.options.output == "uint8":
            return tensor
        return as_values(tensor) if tensor.dtype == torch.int16 else tensor.float().div_(255)

    def _check_sizes(self) -> None:
        """Where the sizes of all images are known, find those that do not fit before training starts."""
        gt, lq = self.gt.shapes(), self.lq.shapes()
        if gt is None or lq is None:
            return
        unfitting = (gt[:, :2] != self.scale * lq[:, :2]).any(1) | (lq[:, :2] < self.size).any(1)
        for index in np.flatnonzero(unfitting)[:1]:
            self._check_pair(lq[index].tolist(), gt[index].tolist(), self.gt.name(index), self.size)

    def _check_pair(self, lq: Sequence[int], gt: Sequence[int], name: str, size: int) -> None:
        wanted, got = (self.scale * lq[0], self.scale * lq[1]), (gt[0], gt[1])
        if got != wanted if self.train else got[0] < wanted[0] or got[1] < wanted[1]:
            remedy = "Set `scale` to that of the data, or prepare them again."
            raise DataError(f"the GT to be {self.scale} times as large as its LQ, {wanted}", got, remedy, name)
        if min(got) < self.scale * size:
            remedy = "Lower `gt_size`, or remove the image."
            raise DataError(f"images of at least {self.scale * size} pixels (`gt_size`)", got, remedy, name)


def _refuse_stock_options(opt: Mapping[str, Any]) -> None:
    for name in ("mean", "std"):
        if opt.get(name) is not None:
            remedy = "Levels are in [0, 1] here: leave it out, or use PairedImageDataset."
            raise DataError(f"none of BasicSR's {name}", opt[name], remedy)
    if opt.get("color") == "y":
        remedy = "BasicSR's `y` has levels from 16 to 235; `gray` has all from 0 to 255."
        raise DataError("`color` to be rgb or gray", "'y'", remedy)


def _gray(*sources: ImageSource) -> bool:
    shapes = [source.shapes() for source in sources]
    return all(each is not None and bool((each[:, 2] == 1).all()) for each in shapes)


def _crop_size(size: int | None, scale: int) -> int:
    if size is None or size % scale:
        remedy = "" if size is None else f"Take {size // scale * scale}."
        raise DataError(f"`gt_size` to be a multiple of the scale {scale}", size or "nothing", remedy)
    return size // scale


def _run_seed() -> int:
    """BasicSR seeds every rank with `manual_seed` + rank; crops must not depend on the rank."""
    rank = distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
    return (torch.initial_seed() - rank) % 2**63

"""Sections of `datasets:`: what BasicSR's data loader reads, and what the datasets that are known read beside it."""

from __future__ import annotations

from typing import Literal

from dscsr_model.options.section import Section, TypedSection, option
from dscsr_model.options.values import Bool, Count, Noise, Numbers, Path, Ratio, Template, Text, Workers


class BackendSection(Section):
    """`io_backend:`: where images come from."""

    type: Literal["disk", "lmdb"] = option("how images are stored", needed="always")


class LoopDataset(TypedSection):
    """A section of `datasets:`, as BasicSR's data loader reads it."""

    name: Text = option("name in logs and result folders", needed="always")
    type: Text = option("dataset class, for example PairedImageDataset", needed="always")
    batch_size_per_gpu: Count = option("samples per GPU and step", needed="train")
    num_worker_per_gpu: Workers = option("reading processes per GPU; 0: the training process reads", needed="train")
    dataset_enlarge_ratio: Ratio = option("how often an epoch repeats the data", 1)
    prefetch_mode: Literal["cpu", "cuda"] | None = option("where batches wait; `~` for none")
    num_prefetch_queue: Count = option("batches that wait with `prefetch_mode: cpu`", 1)
    pin_memory: Bool = option("page-locked memory; needed by `prefetch_mode: cuda`", False)
    persistent_workers: Bool = option("keep reading processes between epochs", False)
    use_shuffle: Bool = option("in BasicSR's option files; BasicSR itself does not read it")


class _Images(LoopDataset):
    model_config = Section.model_config

    dataroot_lq: Path = option("folder or .lmdb of the low-quality images", needed="always")
    io_backend: BackendSection = option("type: disk or lmdb", needed="always")
    meta_info_file: Path | None = option("list of the images to use")


class _Stock(Section):
    mean: Numbers | None = option("subtracted from the images")
    std: Numbers | None = option("divides the images")
    color: Literal["y"] | None = option("`y`: only the Y channel")


class _Pairs(_Images):
    dataroot_gt: Path = option("folder or .lmdb of the ground truth", needed="always")
    filename_tmpl: Template = option("LQ's file name from GT's, like '{}x4'", "{}")
    gt_size: Count = option("side of the training patches, in GT pixels", needed="train")
    use_hflip: Bool = option("flip patches at random", False, needed="train")
    use_rot: Bool = option("rotate patches at random", False, needed="train")


class SingleImageDataset(_Images, _Stock):
    """BasicSR's dataset of images without ground truth."""


class PairedImageDataset(_Pairs, _Stock):
    """BasicSR's dataset of image pairs."""


class PairedCropDataset(_Pairs):
    """Our dataset of image pairs."""

    dataroot_teacher: Path | None = option(
        "for training: .lmdb of a teacher's outputs, by `dscsr prepare --teacher`, for losses with `target: teacher`"
    )
    color: Literal["rgb", "gray"] | None = option("`gray`: one channel, 0 to 255; by default what LMDBs hold")
    output: Literal["float32", "uint8"] = option(
        "float32: what BasicSR's dataset gives; uint8: less to move", "float32"
    )
    augment: Literal["cpu", "device"] = option("device: EfficientSRModel turns the crops where it trains", "cpu")
    repeat_crops: Count = option("crops taken of an image that was read", 1)
    noise: Noise | None = option("sigma, in levels of 0 to 255, of Gaussian noise added to LQ, which may be the GT")
    cache: Literal["ram"] | None = option("`ram` keeps all images in memory")


DATASETS: dict[str, type[LoopDataset]] = {
    kind.__name__: kind for kind in (PairedImageDataset, SingleImageDataset, PairedCropDataset)
}
"""Dataset types whose options are known. Of others, `LoopDataset` and their dataroots are checked."""

"""Tiny datasets, weights and option files for tests of options: made in a temporary folder, a few KB each."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import torch
import yaml

import dscsr_model
from dscsr_model.data.lmdb_store import LmdbReader
from dscsr_model.data.store_outputs import store_outputs
from dscsr_model.data.teacher_store import Source, StoringTeacher, TeacherRecord
from dscsr_model.host.options.check import Fault, OptionsError, check_options
from dscsr_model.stored_values import ZERO

REMOVED = object()  # as a value of `changed`: the key is taken out


def write_images(folder: Path, names: list[str], size: tuple[int, int]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        cv2.imwrite(str(folder / name), _image(number, size))
    return folder


def write_lmdb(folder: Path, keys: list[str], size: tuple[int, int], *, encoded: bool = True) -> Path:
    """An LMDB with BasicSR's meta_info.txt; ``encoded=False`` stores bare pixels."""
    env = lmdb.open(str(folder), map_size=1 << 24, sync=False)
    with env.begin(write=True) as transaction:
        for number, key in enumerate(keys):
            image = _image(number, size)
            value = cv2.imencode(".png", image)[1].tobytes() if encoded else image.tobytes()
            transaction.put(key.encode(), value)
    env.close()
    lines = [f"{key}.png ({size[0]},{size[1]},3) 1\n" for key in keys]
    (folder / "meta_info.txt").write_text("".join(lines))
    return folder


def _image(seed: int, size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def images_of(reader: LmdbReader) -> dict[str, np.ndarray]:
    """All that an LMDB holds, by key."""
    images = {}
    for index, key in enumerate(reader.keys):
        with reader.pixels(index) as image:
            images[key] = image.copy()
    return images


def make_data(root: Path, scale: int = 4) -> Path:
    """Under ``root``: GT.lmdb and LQ.lmdb (6 pairs, GT 48×48), and folders gt and lq (3 pairs)."""
    root.mkdir(exist_ok=True)
    keys = [f"{i:04d}_s001" for i in range(6)]
    write_lmdb(root / "GT.lmdb", keys, (48, 48))
    write_lmdb(root / "LQ.lmdb", keys, (48 // scale, 48 // scale))
    names = ["baby.png", "bird.png", "head.png"]
    write_images(root / "gt", names, (24 * scale, 20 * scale))
    write_images(root / "lq", names, (24, 20))
    return root


def training_options(data: Path) -> dict[str, Any]:
    """Options that train a small EDSR and have no fault."""
    return {
        "name": "tiny",
        "model_type": "SRModel",
        "scale": 4,
        "num_gpu": 0,
        "manual_seed": 0,
        "datasets": {
            "train": {
                "name": "tiny",
                "type": "PairedImageDataset",
                "dataroot_gt": str(data / "GT.lmdb"),
                "dataroot_lq": str(data / "LQ.lmdb"),
                "io_backend": {"type": "lmdb"},
                "gt_size": 32,
                "use_hflip": True,
                "use_rot": True,
                "num_worker_per_gpu": 0,
                "batch_size_per_gpu": 2,
                "dataset_enlarge_ratio": 1,
                "prefetch_mode": None,
            },
            "val": paired("Set", data),
        },
        "network_g": edsr(),
        "path": {"pretrain_network_g": None, "strict_load_g": True, "resume_state": None},
        "train": {
            "ema_decay": 0.999,
            "optim_g": {"type": "Adam", "lr": 1.0e-4, "weight_decay": 0, "betas": [0.9, 0.99]},
            "scheduler": {"type": "MultiStepLR", "milestones": [8, 9], "gamma": 0.5},
            "total_iter": 10,
            "warmup_iter": -1,
            "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
        },
        "val": {
            "val_freq": 5000.0,
            "save_img": False,
            "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 4, "test_y_channel": True}},
        },
        "logger": {"print_freq": 1, "save_checkpoint_freq": 5, "use_tb_logger": False, "wandb": None},
        "dist_params": {"backend": "nccl", "port": 29500},
    }


def testing_options(data: Path) -> dict[str, Any]:
    """Options that test a small EDSR on two datasets and have no fault."""
    return {
        "name": "tiny_test",
        "model_type": "SRModel",
        "scale": 4,
        "num_gpu": "auto",
        "datasets": {"test_1": paired("one", data), "test_2": paired("two", data)},
        "network_g": edsr(),
        "path": {"pretrain_network_g": None},
        "val": {
            "save_img": True,
            "suffix": None,
            "metrics": {"ssim": {"type": "calculate_ssim", "crop_border": 4, "better": "higher"}},
        },
    }


def paired(name: str, data: Path) -> dict[str, Any]:
    roots = {"dataroot_gt": str(data / "gt"), "dataroot_lq": str(data / "lq")}
    return {"name": name, "type": "PairedImageDataset", **roots, "io_backend": {"type": "disk"}}


def edsr() -> dict[str, Any]:
    return {"type": "EDSR", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_block": 1, "upscale": 4}


def changed(options: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy with ``{"train:total_iter": 5, …}`` set, or taken out with `REMOVED`."""
    options = copy.deepcopy(options)
    for key, value in changes.items():
        *sections, last = key.split(":")
        section = options
        for name in sections:
            section = section.setdefault(name, {})
        if value is REMOVED:
            del section[last]
        else:
            section[last] = copy.deepcopy(value)  # a later change may reach into it
    return options


def faults_of(file: Path, *, is_train: bool = True, **arguments: Any) -> list[Fault]:
    """What the check says of an option file; it must leave the folder of the file as it is."""
    before, error = sorted(file.parent.rglob("*")), None
    try:
        check_options(file, is_train=is_train, **arguments)
    except OptionsError as exc:
        error = exc
    if sorted(file.parent.rglob("*")) != before:
        raise AssertionError("the check wrote files")
    return error.faults if error else []


def write_options(file: Path, options: dict[str, Any]) -> Path:
    file.write_text(yaml.safe_dump(options, sort_keys=False))
    return file


def build(section: dict[str, Any]) -> torch.nn.Module:
    dscsr_model.register()
    from basicsr.archs import build_network

    return build_network({key: value for key, value in section.items() if key != "lora"})


def make_weights(root: Path, weights: str | None, param_key: str | None, network: torch.nn.Module) -> None:
    """The file that an option names, unless it is there already (a base may be its own teacher)."""
    if weights is not None and not (root / weights).exists():
        (root / weights).parent.mkdir(parents=True, exist_ok=True)
        state = network.state_dict()
        torch.save(state if param_key is None else {param_key: state}, root / weights)


def make_dataset(folder: Path, dataset: dict[str, Any], scale: int, stages: Sequence[dict[str, Any]] = ()) -> None:
    """Tiny data of the kind that ``dataset`` reads, in stages or without; its dataroots are changed to it."""
    side = max(stage.get("gt_size", 0) for stage in ({"gt_size": dataset.get("gt_size", 12 * scale)}, *stages))
    template = dataset.get("filename_tmpl", "{}")
    folder.mkdir()
    for name, size in (("dataroot_gt", side), ("dataroot_lq", side // scale)):
        stems = [f"{i:04d}" if name == "dataroot_gt" else template.format(f"{i:04d}") for i in range(8)]
        if dataset["io_backend"]["type"] == "lmdb":
            made = write_lmdb(folder / f"{name}.lmdb", stems, (size, size))
        else:
            made = write_images(folder / name, [f"{stem}.png" for stem in stems], (size, size))
        dataset[name] = str(made)
    if "dataroot_teacher" in dataset:
        dataset["dataroot_teacher"] = str(store_teacher(Path(dataset["dataroot_lq"]), folder, scale))


def store_teacher(lq: Path, out: Path, scale: int, sources: Sequence[Source] = ()) -> Path:
    """Stored outputs of what repeats each pixel of the LMDB ``lq``, a level lower, as those of these teachers."""
    record = TeacherRecord(teachers=list(sources), self_ensemble=True, scale=scale, channels=3)
    run = lambda image: image.repeat(scale, 0).repeat(scale, 1).astype(np.int16) * 171 + ZERO - 171  # noqa: E731
    out.mkdir(exist_ok=True)
    return store_outputs(lq, out, StoringTeacher(run, record), True).path


# --- options of the models of ours, as changes of those above; ``@name`` stands for a file of weights ---

BASE = {"type": "SPAN", "feature_channels": 8, "upscale": 4}
AFFINITY = {"type": "SpatialAffinityLoss", "layers": ["block_1", "block_6"]}
CSSR = {"type": "CSSRNet", "backbone": edsr(), "widths": [0.25, 0.5]}
CONTRAST = {"type": "ContrastiveLoss", "loss_weight": 200, "num_negatives": 2, "features": "teacher"}
L1 = {"type": "L1Loss", "loss_weight": 1.0}

MODELS: dict[str, dict[str, Any]] = {
    "SRModel": {},
    "EfficientSRModel": {"model_type": "EfficientSRModel"},
    "raw crops": {
        "model_type": "EfficientSRModel",
        "datasets:train:type": "PairedCropDataset",
        "datasets:train:dataroot_gt": "@GT_raw.lmdb",
        "datasets:train:dataroot_lq": "@LQ_raw.lmdb",
    },
    "DistillationModel": {
        "model_type": "DistillationModel",
        "network_g": BASE,
        "teacher": {"weights": "@teacher.pth"},
        "train:teacher_opt": {"type": "L1Loss", "target": "teacher"},
        "train:affinity_opt": AFFINITY,
    },
    "CSDModel": {
        "model_type": "CSDModel",
        "network_g": CSSR,
        "path:pretrain_network_g": "@edsr.pth",
        "train:teacher_opt": {**L1, "output_of": "teacher", "end_iter": 5},
        "train:contrastive_opt": CONTRAST,
    },
}

"""Models of BasicSR's kind, small enough to train for some steps inside a test."""

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import option_files
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dscsr_model
from dscsr_arch.checkpoint import read_pickle
from dscsr_arch.conv_lora import lora_layers
from dscsr_model.data.teacher_store import TeacherRecord

SPAN = {"type": "SPAN", "feature_channels": 8, "upscale": 2}
EDSR = {"type": "EDSR", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_block": 2, "upscale": 2}

SWINIR = {
    "type": "SwinIR", "upscale": 2, "img_size": 16, "window_size": 8, "depths": [2], "embed_dim": 8, "num_heads": [1],
    "mlp_ratio": 2, "upsampler": "pixelshuffledirect", "drop_path_rate": 0,
}  # fmt: skip
LARGE_WINDOWS = {**SWINIR, "upscale": 4, "img_size": 24, "window_size": 12}


NETWORKS = {
    "CARN": {"num_feat": 8, "upscale": 2},
    "DSCLoRA": {"feature_channels": 8, "upscale": 2},
    "EDSR": {"num_feat": 8, "num_block": 2, "upscale": 3},
    "RCAN": {"num_feat": 8, "num_group": 2, "num_block": 2, "squeeze_factor": 2, "upscale": 2},
    "SPAN": {"feature_channels": 8, "upscale": 2},
    "SPANF": {"feature_channels": 8, "upscale": 2, "tail_channels": 6},
    "SPANV2": {"feature_channels": 8, "upscale": 2},
}
"""Of each of our networks its arguments."""


def with_updates(network: Any, std: float = 1.0) -> Any:
    """The network itself, with updates of its ConvLoRA layers that are not zero."""
    for layer in lora_layers(network).values():
        nn.init.normal_(layer.lora_B, std=std)
    return network


class Windows(nn.Module):
    """Adds to each pixel the mean of its window of ``side``×``side`` pixels: sides must be multiples of that."""

    def __init__(self, side: int = 8, scale: int = 2) -> None:
        super().__init__()
        self.side, self.scale = side, scale
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        windows = x.view(batch, channels, height // self.side, self.side, width // self.side, self.side)
        means = windows.mean((3, 5), keepdim=True).expand_as(windows).reshape(x.shape)
        return F.interpolate(self.conv(x) + means, scale_factor=self.scale)


def options(root: Path, model_type: str = "EfficientSRModel", **changes: Any) -> dict[str, Any]:
    """Options as BasicSR's parse_options hands them to a model; ``changes`` as in `option_files.changed`."""
    for name in ("models", "training_states", "visualization"):
        (root / name).mkdir(parents=True, exist_ok=True)
    return option_files.changed(
        {
            "name": "small", "model_type": model_type, "scale": 2, "num_gpu": 0, "manual_seed": 0, "dist": False,
            "rank": 0, "world_size": 1, "is_train": True, "network_g": dict(EDSR),
            "path": {name: str(root / name) for name in ("models", "training_states", "visualization")},
            "datasets": {"train": {}, "val": {"name": "Set"}},
            "train": {
                "ema_decay": 0.9,
                "optim_g": {"type": "Adam", "lr": 1e-3, "betas": [0.9, 0.99]},
                "scheduler": {"type": "MultiStepLR", "milestones": [8, 16], "gamma": 0.5},
                "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
            },
            "val": {"metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 2, "test_y_channel": True}}},
            "logger": {},
        },
        changes,
    )  # fmt: skip


def stored_teacher(root: Path) -> dict[str, Any]:
    """Changes of the options: batches have a teacher's outputs, as ``teacher_image``."""
    folder = root / "T.lmdb"
    folder.mkdir(exist_ok=True)
    record = TeacherRecord(teachers=[], self_ensemble=True, scale=2, channels=3)
    (folder / "teacher.json").write_text(record.model_dump_json())
    return {"datasets:train:dataroot_teacher": str(folder)}


def build(opt: dict[str, Any]) -> Any:
    """The model, from the seed 0."""
    dscsr_model.register()
    from basicsr.models import build_model

    torch.manual_seed(0)
    return build_model(opt)


def batch(step: int, size: int = 4) -> dict[str, torch.Tensor]:
    """The same images for the same step."""
    draw = torch.Generator().manual_seed(step)
    return {"lq": torch.rand(size, 3, 9, 9, generator=draw), "gt": torch.rand(size, 3, 18, 18, generator=draw)}


def train(model: Any, steps: Iterable[int], warmup: int = -1) -> Any:
    """As BasicSR's loop does it; gives the model back."""
    for step in steps:
        model.update_learning_rate(step, warmup_iter=warmup)
        model.feed_data(batch(step))
        model.optimize_parameters(step)
    return model


def resumed(opt, iteration: int):
    """A new model that goes on from a checkpoint, as BasicSR's train_pipeline starts it."""
    models, states = (Path(opt["path"][name]) for name in ("models", "training_states"))
    opt = copy.deepcopy(opt)
    opt["path"]["pretrain_network_g"] = str(models / f"net_g_{iteration}.pth")
    model = build(opt)
    model.resume_training(read_pickle(states / f"{iteration}.state"))
    return model


def weights(model: Any) -> dict[str, torch.Tensor]:
    """Network and average together, copied."""
    named = {"": model.net_g, "ema.": getattr(model, "net_g_ema", None)}
    return {
        prefix + name: tensor.clone()
        for prefix, net in named.items()
        if net is not None
        for name, tensor in model.get_bare_model(net).state_dict().items()
    }


def distance(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    """The largest difference of any weight."""
    if one.keys() != two.keys():
        raise AssertionError(f"other names: {one.keys() ^ two.keys()}")
    return max(float((one[name] - two[name]).abs().max()) for name in one)


def loader_of(section: dict[str, Any]) -> Any:
    """The dataset of a section behind the loader that BasicSR makes for it."""
    dscsr_model.register()
    from basicsr.data import build_dataloader, build_dataset

    return build_dataloader(build_dataset(dict(section)), section)


def pair_loader(root: Path) -> Any:
    """Two pairs of images (LQ of 21×19 pixels) behind BasicSR's own dataset, to validate with."""
    names = ["image0.png", "image1.png"]
    roots = {
        f"dataroot_{name}": str(option_files.write_images(root / name, names, size))
        for name, size in (("gt", (38, 42)), ("lq", (19, 21)))
    }
    pair = {"name": "Set", "type": "PairedImageDataset", "phase": "val", "scale": 2, "io_backend": {"type": "disk"}}
    return loader_of(pair | roots)


LEARNING = {
    "train:teacher_opt": {"type": "L1Loss", "target": "teacher"},
    "train:affinity_opt": {"type": "SpatialAffinityLoss", "layers": ["block_1", "block_6"]},
    "train:hint_opt": {"type": "MSELoss", "layers": ["block_2"], "regress": True, "loss_weight": 0.01},
}
ATTENTION = {"train:attention_opt": {"type": "AttentionTransferLoss", "layers": ["block_3"]}}
EVERYTHING: dict[str, dict[str, Any]] = {
    "EfficientSRModel": {"network_g": SPAN, "train:frequency_opt": {"type": "FrequencyLoss", "loss_weight": 0.05}},
    "DistillationModel": {"network_g": SPAN, **LEARNING, **ATTENTION},
    "DSCLoRAModel": {"network_g": {**SPAN, "type": "DSCLoRA"}, **LEARNING},
    "CSDModel": {
        "network_g": {"type": "CSSRNet", "backbone": EDSR, "widths": [0.5]},
        "train:teacher_opt": {"type": "L1Loss", "output_of": "teacher"},
        "train:contrastive_opt": {"type": "ContrastiveLoss", "num_negatives": 2, "features": "teacher"},
    },
}
"""Of each model, changes of `options` that use what it has."""


def everything(root: Path, model: str, **changes: Any) -> dict[str, Any]:
    """Options of a model with all that it has; its teacher is in ``root``."""
    from dscsr_arch import SPAN as Teacher  # noqa: N811
    from dscsr_arch.checkpoint import save_state_dict

    if "train:hint_opt" in EVERYTHING[model]:
        torch.manual_seed(1)
        save_state_dict({"params": Teacher(feature_channels=6, upscale=2).state_dict()}, root / "teacher.pth")
        changes = {"teacher": {"weights": str(root / "teacher.pth")}, **changes}
    return options(root, model, **copy.deepcopy({**EVERYTHING[model], **changes}))

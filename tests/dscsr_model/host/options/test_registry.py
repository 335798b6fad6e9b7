"""Types that are named, and arguments of constructors: ours, BasicSR's, torch's and those of other plugins."""

import pytest
import torch
from option_files import REMOVED

import dscsr_model
from dscsr_model.host.options import networks

OURS = "EfficientSRModel"


def test_types_that_are_not_registered(check_all):
    meant = {
        "datasets:train:type": ("PairedImageDatset", "PairedImageDataset"),
        "network_g:type": ("EDRS", "EDSR"),
        "train:pixel_opt:type": ("L1", "L1Loss"),
        "val:metrics:psnr:type": ("calculate_psn", "calculate_psnr"),
        "train:optim_g:type": ("adam", "Adam"),
        "train:scheduler:type": ("MultistepLR", "MultiStepLR"),
    }
    expected = {key.replace(":", ": "): f"Did you mean `{name}`?" for key, (_, name) in meant.items()}
    check_all({key: wrong for key, (wrong, _) in meant.items()}, expected)
    check_all({"model_type": "SRModell"}, {"model_type": "Did you mean `SRModel`?"})
    named = "name that at the top: `import: my_file.py`."
    check_all({"model_type": "zzz"}, {"model_type": named})
    strange = {"network_g": named, "train: optim_g": "This BasicSR knows `Adam`", "train: scheduler": "It knows `Multi"}
    check_all({f"{key.replace(': ', ':')}:type": "zzz" for key in strange},
              {f"{key}: type": text for key, text in strange.items()})  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "key", "text"),
    [
        ({"network_g": {"type": "RRDBNet", "num_in_ch": 3}}, "network_g: num_out_ch", "RRDBNet has no default"),
        ({"train:optim_g:betas": [0.9, 2.0]}, "train: optim_g", "others: Invalid beta"),
        ({"train:pixel_opt:reduction": "none"}, "train: pixel_opt", "one number of L1Loss to minimize, but"),
        ({"train:scheduler": {"type": "CosineAnnealingRestartLR", "periods": [0]}}, "train: scheduler", "values that"),
        ({"train:scheduler:restarts": [0, 5]}, "train: scheduler", "do not match"),
        ({"train:scheduler": {"type": "CosineAnnealingRestartLR", "periods": [5], "restart_weights": [1]}},
         "train: scheduler: periods", "lengthen"),
        # SRModel's perceptual loss is a pair
        ({"train:perceptual_opt": {"type": "L1Loss"}}, "train: perceptual_opt", "SRModel can use as perceptual"),
        ({"network_g:num_feat": 10**6}, "network_g", "a network that fits into memory, but got weights of"),
        ({"network_g:num_block": 10**9}, "network_g", "others: more than 1,000 layers"),
        ({"network_g": {"type": "SPAN", "feature_channels": 10**6}}, "network_g", "a network that fits into memory"),
        ({"datasets:val:type": "SingleImageDataset", "datasets:val:dataroot_gt": REMOVED}, "val: metrics: psnr",
         "`datasets: val` without it (SingleImageDataset). Remove the metric, or take EfficientSRModel"),
    ],
)  # fmt: skip
def test_constructors_of_srmodel(check_all, monkeypatch, changes, key, text):
    monkeypatch.setattr(networks, "_MOST_LAYERS", 1000)  # 100,000 take ten seconds
    check_all(changes, {key: text})


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16", "channels_last": True, "compile": "max-autotune", "accumulate_steps": 2},
        {"optim_g": {"type": "AdamW", "lr": 1e-3, "weight_decay": 0.1, "amsgrad": True}, "compile": True},
        {"optim_g": {"type": "SGD", "lr": 1e-3, "momentum": 0.9, "nesterov": True}, "ema_warmup": False},
        {"scheduler": {"type": "CosineAnnealingLR", "T_max": 10}, "grad_clip_norm": 0.5, "max_bad_steps": 10},
        {"scheduler": {"type": "CosineAnnealingRestartLR", "periods": [10]}},
        {"pixel_opt": REMOVED, "edge_opt": {"type": "WeightedTVLoss"}, "b_opt": None},
    ],
)
def test_what_our_models_take(check_all, changes):
    val = {"val:tile": 64, "val:tile_overlap": 0, "val:self_ensemble": True, "val:best_metric": "psnr"}
    train = {f"train:{key}": value for key, value in changes.items()}
    check_all({**train, **val, "logger:keep_checkpoints": 3}, {}, OURS)


@pytest.mark.parametrize(
    ("changes", "key", "text"),
    [
        ({"optim_g:type": "LBFGS"}, "optim_g: type", "an optimizer of EfficientSRModel, but got the text 'LBFGS'"),
        ({"optim_g:momentun": 0.9}, "optim_g: momentun", "Expected an argument of Adam, but got `momentun`"),
        ({"scheduler:type": "CosineAnealingLR"}, "scheduler: type", "Did you mean `CosineAnnealingLR`?"),
        ({"scheduler:type": "ReduceLROnPlateau"}, "scheduler: type", "a schedule of EfficientSRModel"),
        ({"scheduler": {"type": "OneCycleLR", "max_lr": 0.1, "total_steps": 4}}, "scheduler",
         "but got 4 steps, fewer than `total_iter"),
        ({"scheduler": {"type": "CosineAnnealingLR", "eta_min": 0.0}}, "scheduler: T_max", "CosineAnnealingLR has no"),
        ({"pixel_opt": None, "edge_opt": None}, "pixel_opt", "Expected a loss"),
    ],
)  # fmt: skip
def test_constructors_of_our_models(check_all, changes, key, text):
    check_all({f"train:{name}": value for name, value in changes.items()}, {f"train: {key}": text}, OURS)


def test_sets_without_ground_truth(check_all, data):
    single = {"name": "one", "type": "SingleImageDataset", "dataroot_lq": str(data / "lq")}
    single["io_backend"] = {"type": "disk"}
    test = {"datasets:test_1": single}
    check_all(test, {"val: metrics: ssim": "`datasets: test_1` without it"}, is_train=False)
    check_all({**test, "val:metrics": None}, {}, is_train=False)
    check_all(test, {}, OURS, is_train=False)
    check_all({"datasets:val": single}, {"val: metrics: psnr": "without it (SingleImageDataset). Add a set"}, OURS)
    check_all({"datasets:val_2": single}, {}, OURS)


# --- types of others ---


@pytest.fixture
def their_types(monkeypatch):
    """A model, a dataset and a network of another plugin in BasicSR's registries."""
    dscsr_model.register()
    from basicsr.utils import registry

    class TheirArch(torch.nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()

    for target, name, cls in (
        (registry.MODEL_REGISTRY, "TheirModel", type("TheirModel", (), {})),
        (registry.DATASET_REGISTRY, "TheirDataset", type("TheirDataset", (), {})),
        (registry.ARCH_REGISTRY, "TheirArch", TheirArch),
    ):
        monkeypatch.setitem(target._obj_map, name, cls)


THEIR_DATASET = {"name": "t", "type": "TheirDataset", "num_worker_per_gpu": 0, "batch_size_per_gpu": 2}


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "TheirModel", "their_key": 1, "path:their_path": "x", "val:their_metric": {"x": 1},
         "network_t": {"type": "TheirArch", "width": 8}, "train:their_opt": {"type": "TheirLoss"}},
        {"model_type": "TheirModel", "train:optim_g:type": "Lion", "train:scheduler:type": "Theirs"},
        {"model_type": "RealESRGANModel", "l1_gt_usm": True, "resize_prob": [0.2, 0.7, 0.1], "train:net_d_iters": 1},
        {"datasets:train": {**THEIR_DATASET, "their_key": 1, "dataroot_gt": "s3://bucket/x"}},
    ],
    ids=", ".join,
)  # fmt: skip
def test_types_of_others_keep_their_keys(check_all, their_types, changes):
    check_all(changes, {})


def test_what_is_known_of_types_of_others(check_all, their_types):
    changes = {"network_g": {"type": "TheirArch", "widht": 8}}
    check_all(changes, {"network_g: widht": "an argument of TheirArch, but got `widht`. Did you mean `width`?"})
    check_all({"model_type": "TheirModel", "train:total_iter": REMOVED}, {"train: total_iter": "no such key"})
    missing = {"datasets: train: dataroot_gt": "'nowhere', which does not exist"}
    check_all({"datasets:train": {**THEIR_DATASET, "dataroot_gt": "nowhere"}}, missing)

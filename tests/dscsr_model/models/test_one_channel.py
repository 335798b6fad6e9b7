"""One channel the whole way: trained by every model, validated, read from its file, and enlarged to the same levels."""

import cv2
import numpy as np
import pytest
import torch
from small_models import build, options

from dscsr_arch import SPAN, load_model
from dscsr_arch.checkpoint import save_state_dict
from dscsr_model.data.lmdb_store import LmdbWriter, encode
from dscsr_model.inference.engines import torch_engine
from dscsr_model.inference.tiles import Upscaler

GRAY = {"type": "SPAN", "num_in_ch": 1, "num_out_ch": 1, "feature_channels": 4, "upscale": 2}
PSNR, SSIM, NIQE = (
    {"type": f"calculate_{name}", "crop_border": 2, "test_y_channel": True} for name in ("psnr", "ssim", "niqe")
)
KINDS = {
    "EfficientSRModel": {"val:metrics:niqe": NIQE},
    "DistillationModel": {"teacher": {"weights": "start.pth"}, "train:kd_opt": {"type": "L1Loss", "target": "teacher"}},
    "DSCLoRAModel": {"network_g": {**GRAY, "type": "DSCLoRA"}, "path:pretrain_network_g": "start.pth"},
    "CSDModel": {
        "network_g": {"type": "CSSRNet", "backbone": GRAY, "widths": [0.5]},
        "path:pretrain_network_g": "start.pth",
        "train:contrastive_opt": {"type": "ContrastiveLoss", "vgg_weights": "random", "num_negatives": 1},
    },
}


@pytest.fixture
def pair(tmp_path):
    """Two images of all levels, of 196 pixels a side, so that NIQE has enough of them."""
    draw = np.random.default_rng(0)
    for root, side in (("GT", 196), ("LQ", 98)):
        with LmdbWriter(tmp_path / f"{root}.lmdb") as writer:
            for key in "ab":
                writer.add([encode(key, draw.integers(0, 256, (side, side, 1), dtype=np.uint8))])
    roots = {f"dataroot_{name}": str(tmp_path / f"{name.upper()}.lmdb") for name in ("gt", "lq")}
    return {"name": "Set", "scale": 2, "io_backend": {"type": "lmdb"}, **roots}


@pytest.mark.parametrize("kind", KINDS)
def test_one_channel(tmp_path, monkeypatch, pair, kind):
    torch.manual_seed(1)
    save_state_dict({"params": SPAN(1, 1, 4, 2).state_dict()}, tmp_path / "start.pth")
    monkeypatch.chdir(tmp_path)
    changes = {"network_g": GRAY, "val:metrics": {"psnr": PSNR, "ssim": SSIM}, "train:ema_decay": 0, **KINDS[kind]}
    model = build(options(tmp_path, kind, **changes))
    from basicsr.data import build_dataloader, build_dataset

    train = build_dataset({**pair, "type": "PairedCropDataset", "phase": "train", "gt_size": 32})
    model.feed_data(torch.utils.data.default_collate([train[0], train[1]]))
    assert model.lq.shape == (2, 1, 16, 16)
    model.optimize_parameters(1)
    model.save(0, 1)
    section = {**pair, "type": "PairedCropDataset", "phase": "val"}
    model.validation(build_dataloader(build_dataset(section), section), 1, None, save_img=True)
    assert {name.partition("_")[0] for name in model.metric_results} == set(model.opt["val"]["metrics"])
    assert all(np.isfinite(value) for value in model.metric_results.values())

    student = kind == "CSDModel"
    network = load_model(tmp_path / "models" / ("student_w0.5_1.pth" if student else "net_g_1.pth"))
    with train.lq.pixels(0) as image:
        enlarged = Upscaler(torch_engine(network, device="cpu"))(image)
    saved = cv2.imread(str(tmp_path / f"visualization/a/a{'_w0.5' if student else ''}_1.png"), cv2.IMREAD_UNCHANGED)
    assert saved.shape == (196, 196)
    assert np.abs(saved.astype(int) - enlarged[:, :, 0]).max() <= 1  # rounding: one of the two is fused

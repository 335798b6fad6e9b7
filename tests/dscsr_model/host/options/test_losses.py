"""Losses of an option file, and what CSDModel's need: backbone, widths, teacher, negatives."""

import sys
from pathlib import Path
from typing import Any

import option_files
import pytest
from option_files import CONTRAST, CSSR, L1, REMOVED

EDSR = option_files.edsr()
VGG = {**CONTRAST, "features": "vgg19", "vgg_weights": "random"}
PIXEL, LOSS, WIDTHS = "train:pixel_opt", "train:contrastive_opt", "network_g:widths"
CSD = "CSDModel"
ALONE = {"train:teacher_opt": REMOVED, LOSS: REMOVED}

GOOD: dict[str, dict[str, Any]] = {
    "VGG": {LOSS: VGG},
    "layers": {LOSS: {**CONTRAST, "feature_layers": ["conv_first", "body.0"], "vgg_weights": "nowhere.pth"}},
    "distillation": {LOSS: REMOVED, "train:kd_opt": {**L1, "target": "teacher", "start_iter": 2}},
    "student from scratch": {**ALONE, "path:pretrain_network_g": None},
    "SPAN": {"network_g": {"type": "CSSRNet", "backbone": {"type": "SPAN", "feature_channels": 8}, "widths": [0.5]},
             "path:pretrain_network_g": None, LOSS: VGG},
    "validation": {"val:widths": [0.5, 1], "val:best_metric": "psnr_w0.5", "val:tile": 16, "val:self_ensemble": True},
    "affinity": {"train:affinity_opt": {"type": "SpatialAffinityLoss", "pool": 2, "reduction": "sum"}},
    "frequency": {"train:frequency_opt": {"type": "FrequencyLoss", "loss_weight": 0.05, "norm": "ortho"}},
    "one of one": {LOSS: {**CONTRAST, "num_negatives": 1}, "datasets:train:batch_size_per_gpu": 1},
}  # fmt: skip


@pytest.mark.parametrize("case", GOOD)
def test_what_csd_takes(check_all, case):
    check_all(GOOD[case], {}, CSD)


def test_csd_in_a_test(check_all):
    check_all({"val:widths": [0.25], "val:best_metric": "ssim"}, {}, CSD, is_train=False)
    check_all({"val:widths": [0.75]}, {"val: widths": "Expected widths among 0.25"}, CSD, is_train=False)
    check_all({"model_type": "SRModel"}, {}, CSD, is_train=False)  # its smallest student


def backbone(**changes: Any) -> dict[str, Any]:
    return {"network_g": {**CSSR, "backbone": {**EDSR, **changes}}}


BAD: list[tuple[dict[str, Any], str, str]] = [
    # widths
    ({WIDTHS: [0.3]}, "network_g", "width 0.3 to leave a whole number of channels, from 1, but got 2.4 of `num_feat:"),
    ({"val:widths": [0.75]}, "val: widths", "Expected widths among 0.25, 0.5, 1.0, but got [0.75]"),
    ({"val:widths": "all"}, "val: widths", "Expected a list of numbers, but got the text 'all'"),
    ({"val:best_metric": "psnr_w0.75"}, "val: best_metric", "`psnr`, `psnr_w0.25`, `psnr_w0.5`, `psnr_w1.0`, but got"),
    # the backbone
    (backbone(num_fet=8), "network_g: backbone: num_fet", "Did you mean `num_feat`?"),
    ({"network_g": {**CSSR, "backbone": "EDSR"}}, "network_g", "Expected `backbone` to be a network section"),
    ({"network_g": {"type": "CSSRNet"}}, "network_g: backbone", "Add `backbone:`"),
    ({"network_g": EDSR}, "network_g: type", "Expected CSSRNet, as CSDModel trains students, but got the text 'EDSR'"),
    ({"network_g": {**CSSR, "lora": {"layers": {"*": [1, 1]}}}}, "network_g: lora", "a model type that knows `lora"),
    # the teacher
    ({"path:pretrain_network_g": "@smaller.pth"}, "path: pretrain_network_g", "Expected weights of this CSSRNet"),
    ({"path:pretrain_network_g": None}, "path: pretrain_network_g", "Expected a trained teacher, as its first layers"),
    # the losses
    ({f"{LOSS}:num_negatives": 3}, "train: contrastive_opt: num_negatives",
     "Expected a batch of at least 3 negatives, but got 2"),
    ({"train:accumulate_steps": 2}, "train: contrastive_opt: num_negatives",
     "1, as `batch_size_per_gpu: 2` in 2 parts (`accumulate_steps`). Take larger batches, or `num_negatives: 1`"),
    ({LOSS: {**CONTRAST, "num_negatives": 1, "exclude_self": True}, "datasets:train:batch_size_per_gpu": 1},
     "train: contrastive_opt: exclude_self", "another sample to compare a negative with, but got a batch of one"),
    ({"datasets:train:gt_size": 12, LOSS: VGG},
     "datasets: train: gt_size", "Expected patches of at least 16×16 pixels, as VGG-19 compares them, but got 12"),
    ({f"{LOSS}:feature_layers": ["body.7"]}, "train: contrastive_opt: feature_layers", "a layer of EDSR"),
    ({f"{LOSS}:output_of": "teacher"}, "train: contrastive_opt", "to draw students to the teacher"),
    ({f"{LOSS}:num_negative": 3}, "train: contrastive_opt: num_negative", "Did you mean `num_negatives`?"),
    ({f"{LOSS}:features": "vgg16"}, "train: contrastive_opt", "`features` to be one of"),
    ({f"{LOSS}:layer_weights": [1, 1], f"{LOSS}:features": "vgg19", f"{LOSS}:vgg_weights": "random"},
     "train: contrastive_opt", "5 `layer_weights`"),
    ({f"{LOSS}:num_negatives": 0}, "train: contrastive_opt", "`num_negatives`"),
    ({f"{LOSS}:distance": "l2"}, "train: contrastive_opt", "`distance`"),
    ({LOSS: {**VGG, "input_range": 255}}, "train: contrastive_opt", "`input_range` to be 1"),
    ({"train:affinity_opt": {"type": "SpatialAffinityLoss", "pool": 0}}, "train: affinity_opt", "`pool` to be a whole"),
    ({"train:affinity_opt": {"type": "SpatialAffinityLoss", "reduction": "none"}}, "train: affinity_opt",
     "`reduction` to be one of ('mean', 'sum'), but got 'none'. (`none` would be the N×N matrices that"),
    ({"train:fft_opt": {"type": "FrequencyLos"}}, "train: fft_opt: type", "Did you mean `FrequencyLoss`?"),
    ({"train:fft_opt": {"type": "FrequencyLoss", "nrm": "ortho"}}, "train: fft_opt: nrm", "Did you mean `norm`?"),
    ({"train:fft_opt": {"type": "FrequencyLoss", "norm": "forward"}}, "train: fft_opt", "`norm` to be one of"),
    ({"train:fft_opt": {"type": "FrequencyLoss", "reduction": "none"}}, "train: fft_opt", "`reduction` to be one of"),
    ({"train:ms_opt": {"type": "MSSSIMLoss", "window": 4}}, "train: ms_opt", "`window` to be an odd number"),
    ({"train:ms_opt": {"type": "MSSSIMLoss", "window": 3}}, "datasets: train: gt_size",
     "Expected patches of at least 33 pixels, as MS-SSIM compares them in a window of 3, but got 32. Take larger"),
    ({"train:ms_opt": {"type": "MSSSIMLoss"}, "datasets:train:gt_size": 48}, "datasets: train: gt_size",
     "161 pixels, as MS-SSIM compares them in a window of 11, but got 48. Take larger patches, or `window: 3`."),
    ({f"{PIXEL}:output_of": "studnt"}, "train: pixel_opt: output_of", "Did you mean `student`?"),
    ({f"{PIXEL}:outputof": "student"}, "train: pixel_opt: outputof", "Expected an argument of L1Loss"),
    ({f"{PIXEL}:start_iter": -1}, "train: pixel_opt: start_iter", "a whole number of at least 1"),
    ({f"{PIXEL}:start_iter": 5, f"{PIXEL}:end_iter": 4}, "train: pixel_opt", "`end_iter` to be at least `start_iter"),
    ({f"{PIXEL}:start_iter": 7, LOSS: REMOVED}, "train: total_iter",
     "Expected a loss in every iteration, but got none in iteration 6 of 10"),
    ({**ALONE, f"{PIXEL}:every": 2}, "train: total_iter", "none in iteration 1 of 10. Correct `start_iter`, `e"),
    # other models
    ({"train:quantize": {"method": "pams", "bits": 4}}, "train: quantize", "(`DistillationModel`, `EfficientSRModel`)"),
    ({**ALONE, "model_type": "EfficientSRModel"}, "model_type",
     "Expected CSDModel, as CSSRNet has several widths, but got `EfficientSRModel`"),
    ({"train:teacher_opt": REMOVED, LOSS: VGG, "model_type": "EfficientSRModel", "network_g": EDSR},
     "train: contrastive_opt: type", "a teacher and negatives (`CSDModel`), but got `model_type: EfficientSRModel`"),
    ({**ALONE, "model_type": "EfficientSRModel", "network_g": EDSR, "train:pix_opt": L1}, "train: pix_opt",
     "`pix_opt` beside `pixel_opt`, both logged as `l_pix`. Rename `pix_opt`."),
    ({**ALONE, "model_type": "EfficientSRModel", "network_g": EDSR, f"{PIXEL}:output_of": "student"},
     "train: pixel_opt: output_of", "Expected an argument of L1Loss, but got `output_of`"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "key", "text"), BAD)
def test_each_fault_is_found_with_one_message(check_all, changes, key, text):
    check_all(changes, {key: text}, CSD)


def test_weights_of_vgg(check_all, tmp_path, data):
    """What is not there is named with its source; nothing is downloaded."""
    key = "train: contrastive_opt: vgg_weights"
    for weights, text in {
        "imagenet": "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
        "no.pth": "'no.pth', which does not exist",
        "@other.pth": "whose layers differ",
        "@broken.pth": "broken.pth",
    }.items():
        check_all({LOSS: {**VGG, "vgg_weights": weights}}, {key: text}, CSD)
    by_default = {name: value for name, value in VGG.items() if name != "vgg_weights"}
    check_all({LOSS: by_default}, {key: str(Path(tmp_path, "torch"))}, CSD)


def test_ms_ssim_with_a_teacher_whose_border_is_left_out(check_all):
    """And with its layers, and without its library."""
    loss = {"type": "MSSSIMLoss", "window": 3}
    patches = {"datasets:train:gt_size": 48, "teacher:border": 2}
    check_all({**patches, "train:ms_opt": loss}, {}, "DistillationModel")
    check_all({**patches, "train:ms_opt": {**loss, "target": "teacher"}},
              {"datasets: train: gt_size": "at least 49 pixels, as MS-SSIM compares them in a window of 3, but got 48, "
               "less 16 of `teacher: border`. Take larger patches."}, "DistillationModel")  # fmt: skip
    layers = {"train: ms_opt: layers": "images for MS-SSIM, in [0, 1], but got layers"}
    check_all({"train:ms_opt": {**loss, "layers": ["block_1"]}}, layers, "DistillationModel")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "pytorch_msssim", None)
        check_all({"train:ms_opt": loss}, {"train: ms_opt: type": "pip install 'dscsr[losses]'"}, "EfficientSRModel")

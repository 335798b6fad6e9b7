"""Validation beside BasicSR's own: scores, files, log; tiles, orientations, the best network."""

from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import cv2
import option_files
import pytest
import small_models
import torch
from small_models import SPAN, SWINIR, build, options, train

from dscsr_arch.checkpoint import read_pickle, read_state_dict
from dscsr_model.models import efficient_sr_model

METRICS = {
    "psnr": {"type": "calculate_psnr", "crop_border": 2, "test_y_channel": True},
    "ssim": {"type": "calculate_ssim", "crop_border": 2, "test_y_channel": True, "better": "higher"},
    "rgb": {"type": "calculate_psnr", "crop_border": 0, "better": "higher"},
}


@pytest.fixture
def loader(tmp_path):
    return small_models.pair_loader(tmp_path)


def span(tmp_path, model_type="EfficientSRModel", **changes):
    return build(options(tmp_path, model_type, network_g=SPAN, **{"val:metrics": METRICS, **changes}))


def edsr(tmp_path, **changes):
    return build(options(tmp_path, **{"val:metrics": METRICS, **changes}))


def test_scores_images_and_log_are_srmodels(tmp_path, loader, logged):
    said, written, scores = [], [], []
    for model_type in ("SRModel", "EfficientSRModel"):
        model = train(span(tmp_path / model_type, model_type, **{"train:ema_decay": 0}), range(1, 4))
        writer, before = Mock(), len(logged())
        model.validation(loader, 3, writer, save_img=True)
        said.append([line for line in logged()[before:] if "Validation" in line])
        folder = tmp_path / model_type / "visualization"
        written.append({str(f.relative_to(folder)): cv2.imread(str(f)).astype(int) for f in folder.rglob("*.png")})
        assert {call.args[0] for call in writer.add_scalar.mock_calls} == {f"metrics/Set/{name}" for name in METRICS}
        scores.append(model.metric_results)
    assert len(written[0]) == 2
    assert written[0].keys() == written[1].keys()
    assert all((written[0][name] == written[1][name]).all() for name in written[0])
    assert said[0] == said[1]
    assert scores[1] == pytest.approx(scores[0], rel=1e-12)


@pytest.mark.parametrize("suffix", [None, "ours"])
def test_results_of_a_test_are_named_as_basicsr_names_them(tmp_path, loader, suffix, logged):
    for model_type in ("SRModel", "EfficientSRModel"):
        opt = options(tmp_path / model_type, model_type, is_train=False, **{"val:suffix": suffix, "name": "run"})
        before = len(logged())
        build(opt).validation(loader, "run", None, save_img=True)
    assert "Best" not in "".join(logged()[before:])  # where SRModel says: @ run iter
    folders = [tmp_path / model_type / "visualization" for model_type in ("SRModel", "EfficientSRModel")]
    stock, ours = ({str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*.png")} for folder in folders)
    assert stock == ours
    assert f"Set/image0_{suffix or 'run'}.png" in ours
    assert not list((folders[1].parent / "models").iterdir())  # no best network: nothing was trained


PLAIN = {"type": "SPAN", "feature_channels": 4, "upscale": 2}


@pytest.mark.parametrize(
    ("model_type", "network", "widths", "changes", "forwards"),
    [
        ("EfficientSRModel", PLAIN, 1, {"self_ensemble": True}, 8),
        ("DSCLoRAModel", {**PLAIN, "type": "DSCLoRA"}, 1, {}, 1),
        ("CSDModel", {"type": "CSSRNet", "backbone": PLAIN, "widths": [0.5, 0.75]}, 3, {"tile": 12}, 4),
    ],
)
def test_the_network_runs_once_for_each_image(tmp_path, loader, model_type, network, widths, changes, forwards):
    """Two LQ images of 21×19 pixels; CSDModel tests two students and their teacher."""
    changes = {f"val:{name}": value for name, value in changes.items()}
    model, runs = build(options(tmp_path, model_type, is_train=False, network_g=network, **changes)), []
    assert model.size_requirements  # found once for all images, by runs on small ones
    model.net_g.register_forward_pre_hook(lambda *_: runs.append(1))
    model.validation(loader, "run", None, save_img=False)
    assert len(runs) == 2 * widths * forwards


def super_resolved(model, x):
    model.feed_data({"lq": x})
    model.test()
    return model.output


def test_tiles_and_orientations_by_option(tmp_path):
    """float32, values up to about 300: other sizes may add up in another order."""
    x = torch.rand(1, 3, 45, 37)
    whole = span(tmp_path)
    result = super_resolved(whole, x)
    largest = float(result.abs().max())
    tiled = super_resolved(span(tmp_path, **{"val:tile": 24, "val:tile_overlap": 21}), x)
    assert (tiled - result).abs().max() <= 1e-5 * largest
    seams = super_resolved(span(tmp_path, **{"val:tile": 24, "val:tile_overlap": 0}), x)
    assert (seams - result).abs().max() > 1e-3 * largest
    eight = super_resolved(span(tmp_path, **{"val:self_ensemble": True}), x)
    assert (eight - result).abs().max() > 1e-3 * largest
    both = super_resolved(span(tmp_path, **{"val:tile": 24, "val:self_ensemble": True}), x)
    assert (both - eight).abs().max() <= 1e-5 * largest


@pytest.mark.parametrize("is_train", [True, False])
def test_windowed_networks_take_images_of_any_size(tmp_path, is_train):
    """As SwinIRModel does it; in tiles and orientations, and of images shorter than a window, too."""

    def swinir(model_type="EfficientSRModel", **changes):
        changes = {"network_g": SWINIR, "is_train": is_train, **changes}
        return build(options(tmp_path / model_type, model_type, **changes))

    x = torch.rand(1, 3, 19, 30)
    model, stock = swinir(), swinir("SwinIRModel")
    result = super_resolved(model, x)
    assert torch.equal(result, super_resolved(stock, x))
    tiled = {"val:tile": 12, "val:tile_overlap": 20}  # windows of 8, moved once: all tiles see what they need
    torch.testing.assert_close(super_resolved(swinir(**tiled), x), result, rtol=0, atol=1e-5)
    eight = super_resolved(swinir(**{"val:self_ensemble": True}), x[..., :3, :])
    assert eight.shape == (1, 3, 6, 60)
    both = super_resolved(swinir(**tiled, **{"val:self_ensemble": True}), x[..., :3, :])
    torch.testing.assert_close(both, eight, rtol=0, atol=1e-5)


def test_sizes_are_known_before_the_first_step_and_found_once(tmp_path, monkeypatch):
    ran = []
    build_network = efficient_sr_model.build_network

    def watched(section):
        network = build_network(section)
        network.register_forward_pre_hook(lambda _, inputs: ran.append(tuple(inputs[0].shape)))
        return network

    monkeypatch.setattr("basicsr.models.sr_model.build_network", watched)
    model = build(options(tmp_path, network_g=SWINIR, **{"train:ema_decay": 0}))
    assert len(ran) > 2
    ran.clear()
    super_resolved(model, torch.rand(1, 3, 8, 16))
    super_resolved(model, torch.rand(1, 3, 9, 17))
    assert ran == [(1, 3, 8, 16), (1, 3, 16, 24)]


def test_networks_are_validated_in_fp32_and_stay_in_training(tmp_path):
    x = torch.rand(1, 3, 9, 8)
    low, full = (span(tmp_path, **{"train:precision": name, "train:ema_decay": 0}) for name in ("bf16", "fp32"))
    assert torch.equal(super_resolved(low, x), super_resolved(full, x))
    assert low.net_g.training


# --- the best network -----------------------------------------------------------------------------------------------


@pytest.fixture
def validate(monkeypatch):
    """Validate with given scores instead of measured ones, as if trained up to this iteration."""
    from dscsr_model.models import validating_sr_model

    class Set(list):
        opt: dict[str, str]

    def validate(model, iteration, name="Set", **scores):
        monkeypatch.setattr(validating_sr_model, "mean_scores", lambda _: scores)
        dataset = Set()
        dataset.opt = {"name": name}
        model.iteration = iteration
        model.validation(SimpleNamespace(dataset=dataset), iteration, None, False)

    return validate


def best(root: Path) -> int:
    return int(read_pickle(root / "models/net_g_best.pth")["best"]["iter"])


def test_the_best_network_is_kept(tmp_path, validate, logged):
    model = edsr(tmp_path)
    validate(model, 5, psnr=30.0, ssim=0.9, rgb=29.0)
    assert best(tmp_path) == 5
    early = read_state_dict(tmp_path / "models/net_g_best.pth", "params")
    train(model, [1])
    validate(model, 10, psnr=29.0, ssim=0.95, rgb=31.0)  # the first metric decides
    validate(model, 15, psnr=30.0, ssim=0.9, rgb=29.0)  # a tie is no better
    assert best(tmp_path) == 5
    validate(model, 20, psnr=30.5, ssim=0.1, rgb=1.0)
    assert best(tmp_path) == 20
    kept = read_state_dict(tmp_path / "models/net_g_best.pth", "params_ema")
    assert all(torch.equal(kept[name], tensor) for name, tensor in model.net_g_ema.state_dict().items())
    assert any(not torch.equal(kept[name], early[name]) for name in kept)
    assert sum("Best psnr on Set so far: saved as net_g_best.pth." in line for line in logged()) == 2


def test_the_network_and_its_average_are_scored_in_one_pass_and_once_where_they_are_the_same(tmp_path, loader):
    model, ran = edsr(tmp_path), []
    for network in model.networks.values():
        network.register_forward_hook(lambda *_: ran.append(1))
    model.validation(loader, 0, None, save_img=True)
    assert len(ran) == len(loader.dataset)
    assert model.metric_results == {
        f"{name}{ending}": model.metric_results[name] for name in METRICS for ending in ("", "_ema")
    }
    train(model, range(1, 4))
    ran.clear()
    model.validation(loader, 3, None, save_img=True)
    assert len(ran) == 2 * len(loader.dataset)
    both = model.metric_results
    alone = build(options(tmp_path / "alone", **{"val:metrics": METRICS, "train:ema_decay": 0}))
    for ending, network in model.networks.items():
        alone.net_g.load_state_dict(network.state_dict())
        assert alone.scores_of(loader) == {name: both[f"{name}{ending}"] for name in METRICS}
    assert both["psnr"] != both["psnr_ema"]
    names = {file.name for file in (tmp_path / "visualization").rglob("*.png")}
    assert names == {f"image{n}_{iteration}.png" for n in (0, 1) for iteration in (0, 3)}


def test_a_set_without_ground_truth_is_enlarged_and_decides_nothing(tmp_path, loader, logged):
    images = option_files.write_images(tmp_path / "large", ["a.png"], (98, 98))
    single = {"name": "Lone", "type": "SingleImageDataset", "phase": "val", "scale": 2, "io_backend": {"type": "disk"}}
    lone = small_models.loader_of({**single, "dataroot_lq": str(images)})
    changes = {"network_g": SPAN, "datasets:val": {"name": "Lone"}, "datasets:val_2": {"name": "Set"}}
    model = build(options(tmp_path, **changes))
    before = len(logged())
    model.validation(lone, 6, None, save_img=True)
    assert not any("Validation" in line for line in logged()[before:])
    assert len(list((tmp_path / "visualization/a").iterdir())) == 1
    assert not (tmp_path / "models/net_g_best.pth").exists()
    model.validation(loader, 6, None, save_img=False)
    assert read_pickle(tmp_path / "models/net_g_best.pth")["best"]["dataset"] == "Set"

    niqe = {"type": "calculate_niqe", "crop_border": 0, "better": "lower"}  # needs none, but an image of some size
    model = build(options(tmp_path, **changes, **{"val:metrics": {**METRICS, "niqe": niqe}}))
    model.validation(lone, 6, None, save_img=False)
    assert list(model.metric_results) == ["niqe", "niqe_ema"]

    model = build(options(tmp_path / "none", network_g=SPAN, **{"val:metrics": None}))
    model.validation(lone, 6, None, save_img=True)
    assert len(list((tmp_path / "none").rglob("*.png"))) == 1
    assert not list((tmp_path / "none/models").iterdir())


def test_a_metric_that_fails_is_left_out_with_one_line(tmp_path, loader, logged):
    niqe = {"type": "calculate_niqe", "crop_border": 0, "better": "lower"}  # needs two blocks of 96 pixels
    model = edsr(tmp_path, **{"val:metrics": {"niqe": niqe, **METRICS}, "val:best_metric": "psnr"})
    before = len(logged())
    model.validation(loader, 6, None, save_img=False)
    assert model.metric_results.keys() == {f"{name}{ending}" for name in METRICS for ending in ("", "_ema")}
    (said,) = [line for line in logged()[before:] if "niqe" in line]
    assert "Validation Set without `niqe`, which failed: calculate_niqe of image" in said
    assert (tmp_path / "models/net_g_best.pth").exists()


# --- threads and faults -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["reading", "scoring"])
def test_a_fault_of_an_image_or_of_saving_it_stops_the_validation(tmp_path, loader, monkeypatch, where):
    model = edsr(tmp_path)
    if where == "reading":
        monkeypatch.setattr(type(loader.dataset), "__getitem__", lambda *_: 1 / 0)
    else:
        monkeypatch.setattr("dscsr_model.models.validating_sr_model.save_image", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.validation(loader, 1, None, save_img=True)
    assert not model.best.validated_at

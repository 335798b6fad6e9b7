"""Whole profiles: what is measured, and what a machine cannot do."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_profiles import run
from PIL import Image

from dscsr_arch import SPAN
from dscsr_arch.errors import DscsrError
from dscsr_model.profiling import profile as profiling
from dscsr_model.profiling.complexity import Complexity, count
from dscsr_model.profiling.profile import Settings, profile, reason
from dscsr_model.profiling.report import as_dict, table

QUICK = {"height": 12, "width": 16, "seconds": 1e-6, "device": "cpu"}


@pytest.fixture(scope="module")
def real():
    torch.manual_seed(0)
    networks = {"narrow": SPAN(feature_channels=4), "wide": SPAN(feature_channels=12)}
    return networks, profile(networks, Settings(**QUICK, variants=("eager", "bf16")))


def test_everything_is_measured(real):
    networks, result = real
    assert list(result.networks) == ["narrow", "wide"]
    for name, network in networks.items():
        each = result.networks[name]
        assert each.complexity == count(network, 12, 16)
        assert each.flops_256 == count(network).flops
        assert list(each.runs) == ["eager", "bf16"]
        assert all(run.latency.median_ms > 0 and run.fault is None for run in each.runs.values())
        # The weights, the image and the result in float32 are the least.
        assert each.runs["eager"].memory >= 4 * (each.complexity.parameters + 3 * 12 * 16 * 17)
    assert result.networks["wide"].runs["eager"].memory > result.networks["narrow"].runs["eager"].memory
    assert result.baseline.latency.median_ms > 0


def test_the_networks_stay_as_they_are(real):
    networks, _ = real
    assert all(network.training and not hasattr(network.conv_1, "weight") for network in networks.values())


def test_real_figures_become_json_and_a_table(real):
    _, result = real
    data = json.loads(json.dumps(as_dict(result), allow_nan=False))
    assert data["size"] == [12, 16]
    assert data["networks"][0]["variants"]["bf16"]["runs"] >= 3
    assert data["baseline_2026"]["network"] == "SPAN-28"
    assert "wide" in table(result)


def test_a_size_beyond_memory_is_a_fault_of_every_run():
    settings = Settings(
        **{**QUICK, "height": 9_000_000, "width": 9_000_000}, variants=("eager",), flops=False, baseline=False
    )
    result = profile({"net": SPAN(feature_channels=4)}, settings)
    assert "room for an image of 9000000×9000000" in result.networks["net"].runs["eager"].fault


class TrainsOnly(SPAN):
    def forward(self, x):
        if self.conv_cat.weight.dtype == torch.bfloat16:
            raise NotImplementedError("no kernel for bfloat16")
        return super().forward(x)


def test_what_the_machine_cannot_do_is_told_and_the_rest_measured():
    result = profile({"net": TrainsOnly(feature_channels=4)}, Settings(**QUICK, variants=("eager", "bf16", "onnx")))
    runs = result.networks["net"].runs
    assert runs["eager"].latency is not None
    assert "no kernel for bfloat16" in runs["bf16"].fault
    assert "to_onnx" in runs["onnx"].fault
    text = table(result)
    assert "Not to be had here:" in text
    assert "net, bf16: " in text


@pytest.mark.parametrize("channels", [3, 1])
def test_images_give_a_mean_time_that_the_score_takes(monkeypatch, channels):
    images = (torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 12), torch.rand(1, 3, 8, 8))
    seen = []
    monkeypatch.setattr(
        profiling.latency, "milliseconds", lambda call, device: seen.append(tuple(call().shape)) or float(len(seen))
    )
    monkeypatch.setattr(profiling.latency, "measure", lambda calls, **_: dict.fromkeys(calls, run(5.0).latency))
    settings = Settings(**QUICK, variants=("channels_last", "eager"), images=images, baseline=False)
    result = profile({"net": SPAN(channels, channels, feature_channels=4)}, settings)
    assert seen == [(1, channels, 32, 32), (1, channels, 32, 48), (1, channels, 32, 32)]
    runs = result.networks["net"].runs
    assert (runs["channels_last"].images_ms, runs["eager"].images_ms) == (2.0, None)


def test_psnr_is_measured_but_not_of_random_weights(tmp_path):
    for name, side in (("hr", 48), ("lr", 12)):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((side, side, 3), 90, np.uint8)).save(tmp_path / name / "a.png")
    data = (tmp_path / "hr", tmp_path / "lr")
    networks = {name: SPAN(feature_channels=4) for name in ("trained", "random")}
    settings = Settings(
        **QUICK, variants=("eager",), baseline=False, flops=False, data=data, untrained=frozenset({"random"})
    )
    result = profile(networks, settings)
    assert result.networks["random"].quality is None
    assert result.networks["trained"].quality.images == 1


def test_without_flops_no_fvcore_and_no_scores(monkeypatch):
    monkeypatch.setattr(profiling, "count", lambda *_: pytest.fail("counted"))
    network = SPAN(feature_channels=4)
    result = profile({"net": network}, Settings(**QUICK, variants=("eager",), flops=False, baseline=False))
    assert result.networks["net"].complexity == Complexity(count(network).parameters, 0, 0, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 0}, "at least 1×1"),
        ({"variants": ("fast",)}, "Expected variants among"),
        ({"seconds": 0}, "Expected seconds above 0 for each variant, but got 0"),
        ({"device": "abacus"}, "Expected a device among"),
        ({"data": (Path("none"), Path("none"))}, "Expected a folder of images, but got none"),
    ],
)
def test_settings_are_checked_first(change, message):
    with pytest.raises(DscsrError, match=message):
        profile({"net": object()}, Settings(**{**QUICK, **change}))


def test_reasons_are_one_line():
    assert reason(DscsrError("Expected a,\n but got b.")) == "Expected a, but got b."
    assert reason(RuntimeError("x\ny")) == "RuntimeError: x y"
    assert reason(torch.OutOfMemoryError("CUDA out of memory. Tried …")) == "not enough memory"
    assert len(reason(RuntimeError("x" * 999))) == 200

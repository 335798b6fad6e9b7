"""Whole profiles: figures, what a machine cannot do, scores, JSON, table, image."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dscsr_arch import SPAN
from dscsr_arch.errors import DscsrError
from dscsr_model.evaluation.protocol import Quality
from dscsr_model.profiling import profile as profiling
from dscsr_model.profiling.complexity import Complexity, count
from dscsr_model.profiling.latency import Latency
from dscsr_model.profiling.profile import BASELINE, Measured, Plan, Profile, Run, profile, reason
from dscsr_model.profiling.report import Given, as_dict, scores
from dscsr_model.profiling.score import BASELINES, score
from dscsr_model.profiling.table import WIDTH, aligned, labels, milliseconds, table

QUICK = {"height": 12, "width": 16, "seconds": 1e-6, "device": "cpu"}
MACHINE = {"device": "CPU", "cpu": "Some CPU", "threads": 2, "torch": "2.13.0", "python": "3.11.7"}


def run(ms, memory=3 * 2**20, images_ms=None):
    return Run(Latency(ms, 0.9 * ms, 1.2 * ms, ms, 7), memory, images_ms)


def measured(ms=10.0, parameters=150_688, flops=9_833_807_872, psnr=None, **others):
    runs = {"eager": run(ms), **others}
    return Measured(Complexity(parameters, flops, 41_680_896, 22), flops, runs, psnr and Quality(psnr, psnr + 2, 5))


def made_up(baseline=8.0, plan=None, **networks):
    return Profile(networks, MACHINE, plan or Plan(), baseline and run(baseline))


@pytest.fixture(scope="module")
def real():
    torch.manual_seed(0)
    networks = {"narrow": SPAN(feature_channels=4), "wide": SPAN(feature_channels=12)}
    return networks, profile(networks, Plan(**QUICK, variants=("eager", "bf16")))


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


def test_scores_follow_from_what_was_measured(real):
    _, result = real
    each = result.networks["wide"]
    expected = score(
        each.runs["eager"].latency.median_ms,
        each.flops_256,
        each.complexity.parameters,
        baseline_ms=result.baseline.latency.median_ms,
    )
    scored = scores(result, "wide")[2026]
    assert (scored.score, *scored[3:]) == (expected, each.runs["eager"].ms, "measured", result.baseline.ms, "measured")
    own, base = each.runs["eager"].latency, result.baseline.latency
    rest = (each.flops_256, each.complexity.parameters)
    assert scored.low == pytest.approx(score(own.low_ms, *rest, baseline_ms=base.high_ms))
    assert scored.high == pytest.approx(score(own.high_ms, *rest, baseline_ms=base.low_ms))


def test_the_networks_stay_as_they_are(real):
    networks, _ = real
    assert all(network.training and not hasattr(network.conv_1, "weight") for network in networks.values())


def test_real_figures_become_json_and_a_table(real):
    _, result = real
    data = json.loads(json.dumps(as_dict(result), allow_nan=False))
    assert data["size"] == [12, 16]
    assert data["networks"][0]["variants"]["bf16"]["runs"] >= 3
    assert data["baseline_2026"]["network"] == "SPAN-28"
    assert [line for line in table(result).splitlines() if len(line) > WIDTH] == []


def test_a_size_beyond_memory_is_a_fault_of_every_run():
    plan = Plan(**{**QUICK, "height": 9_000_000, "width": 9_000_000}, variants=("eager",), flops=False, baseline=False)
    result = profile({"net": SPAN(feature_channels=4)}, plan)
    assert "room for an image of 9000000×9000000" in result.networks["net"].runs["eager"].fault


class TrainsOnly(SPAN):
    def forward(self, x):
        if self.conv_cat.weight.dtype == torch.bfloat16:
            raise NotImplementedError("no kernel for bfloat16")
        return super().forward(x)


def test_what_the_machine_cannot_do_is_told_and_the_rest_measured():
    result = profile({"net": TrainsOnly(feature_channels=4)}, Plan(**QUICK, variants=("eager", "bf16", "onnx")))
    runs = result.networks["net"].runs
    assert runs["eager"].latency is not None
    assert "no kernel for bfloat16" in runs["bf16"].fault
    assert "to_onnx" in runs["onnx"].fault
    text = table(result)
    assert "Not to be had here:" in text
    assert "net, bf16: " in text
    assert as_dict(result)["networks"][0]["variants"]["bf16"]["median_ms"] is None


@pytest.mark.parametrize("channels", [3, 1])
def test_images_give_a_mean_time_that_the_score_takes(monkeypatch, channels):
    images = (torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 12), torch.rand(1, 3, 8, 8))
    seen = []
    monkeypatch.setattr(
        profiling.latency, "milliseconds", lambda call, device: seen.append(tuple(call().shape)) or float(len(seen))
    )
    monkeypatch.setattr(profiling.latency, "measure", lambda calls, **_: {key: run(5.0).latency for key in calls})
    plan = Plan(**QUICK, variants=("channels_last", "eager"), images=images, baseline=False)
    result = profile({"net": SPAN(channels, channels, feature_channels=4)}, plan)
    assert seen == [(1, channels, 32, 32), (1, channels, 32, 48), (1, channels, 32, 32)]
    runs = result.networks["net"].runs
    assert (runs["channels_last"].images_ms, runs["eager"].images_ms) == (2.0, None)
    assert scores(result, "net")[2025].runtime_ms == 2.0
    assert "the mean over 3 images of channels_last" in table(result)


def test_psnr_is_measured_but_not_of_random_weights(tmp_path):
    for name, side in (("hr", 48), ("lr", 12)):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((side, side, 3), 90, np.uint8)).save(tmp_path / name / "a.png")
    data = (tmp_path / "hr", tmp_path / "lr")
    networks = {name: SPAN(feature_channels=4) for name in ("trained", "random")}
    plan = Plan(**QUICK, variants=("eager",), baseline=False, flops=False, data=data, untrained=frozenset({"random"}))
    result = profile(networks, plan)
    assert result.networks["random"].quality is None
    assert result.networks["trained"].quality.images == 1


def test_without_flops_no_fvcore_and_no_scores(monkeypatch):
    monkeypatch.setattr(profiling, "count", lambda *_: pytest.fail("counted"))
    network = SPAN(feature_channels=4)
    result = profile({"net": network}, Plan(**QUICK, variants=("eager",), flops=False, baseline=False))
    assert result.networks["net"].complexity == Complexity(count(network).parameters, 0, 0, 0)
    assert scores(result, "net") == {}
    assert as_dict(result)["networks"][0]["flops"] is None
    assert "FLOPs" not in table(result)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 0}, "at least 1×1"),
        ({"variants": ("fast",)}, "Expected variants among"),
        ({"seconds": 0}, "Expected seconds above 0 for each variant, but got 0"),
        ({"device": "abacus"}, "Expected a device among"),
        ({"data": (Path("none"), Path("none"))}, "Expected a folder of images, but none is not a folder"),
    ],
)
def test_a_plan_is_checked_first(change, message):
    with pytest.raises(DscsrError, match=message):
        profile({"net": object()}, Plan(**{**QUICK, **change}))


def test_reasons_are_one_line():
    assert reason(DscsrError("Expected a,\n but got b.")) == "Expected a, but got b."
    assert reason(RuntimeError("x\ny")) == "RuntimeError: x y"
    assert reason(torch.OutOfMemoryError("CUDA out of memory. Tried …")) == "not enough memory"
    assert len(reason(RuntimeError("x" * 999))) == 200


def test_score_sources():
    result = made_up(net=measured(8.0), other=measured(8.0))
    ours = scores(result, "net")
    assert ours[2026].baseline_source == "measured"
    assert ours[2026].comparable
    assert ours[2026].score == pytest.approx(math.e**2, rel=1e-3)  # the exact counts differ from the published ones
    assert ours[2026].low < ours[2026].score < ours[2026].high
    assert (ours[2025].baseline_ms, ours[2025].baseline_source) == (16.69, "published")
    assert not ours[2025].comparable
    here = scores(result, "net", Given(baselines={2025: 20.0, 2026: 4.0}))
    assert [(each.baseline_ms, each.baseline_source) for each in here.values()] == [(20.0, "given"), (4.0, "given")]
    assert here[2025].comparable
    there = scores(result, "net", Given(runtimes={"net": 7.74}))
    assert there[2026].low == there[2026].score == there[2026].high
    assert [each.baseline_source for each in there.values()] == ["published", "published"]
    assert there[2026].comparable
    assert scores(result, "other", Given(runtimes={"net": 7.74})) == scores(result, "other")


def test_without_a_measured_baseline_the_published_one_is_declared():
    result = made_up(baseline=None, net=measured(8.0))
    assert scores(result, "net")[2026].baseline_source == "published"
    assert "2026: SPAN-28, 7.740 ms, as published, on the challenge's machine" in table(result)


def test_table_of_known_figures():
    result = made_up(span_ch28=measured(8.0, psnr=29.853, bf16=run(4.0)), bad=measured(9e3, bf16=Run(fault="too slow")))
    text = table(result, {"bad": 20.0})
    assert all(len(line) <= WIDTH for line in text.splitlines())
    lines = [line.split() for line in text.splitlines()]
    assert next(line for line in lines if line[:1] == ["span_ch28"])[1:] == (
        ["0.151", "M", "9.83", "G", "41.68", "M", "22", "29.85", "dB", "31.85", "dB", "2.76", "±0.28*", "7.39", "±3.96"]
    )
    assert next(line for line in lines if line[:1] == ["bad"])[-4:] == ["20.00", "dB", ">1e4*", ">1e4"]
    assert next(line for line in lines if line[:1] == ["bf16"]) == (
        ["bf16", "4.000", "ms", "3.600", "to", "4.800", "7", "3.0", "MiB", "2.00×"]
    )
    assert next(line for line in lines if line[:2] == ["bf16", "-"])
    assert any(line[:1] == [BASELINE.split()[0]] for line in lines)
    assert "bad, bf16: too slow" in text
    assert "* compares times of two machines" in text
    assert "Some CPU, 2 threads; torch 2.13.0" in text


def test_the_widest_table_fits():
    runs = {"compiled_bf16": run(12345.6, memory=99_999 * 2**20, images_ms=12345.6)}
    wide = measured(12345.6, 99_999_999, 999_990_000_000, psnr=29.8, **runs)
    assert max(map(len, table(made_up(**{"x" * 80: wide})).splitlines())) <= WIDTH


def test_a_table_of_comparable_scores_has_no_asterisk():
    text = table(made_up(net=measured(8.0)), given=Given(baselines={2025: 9.0}))
    assert "*" not in text


def test_json_says_where_each_score_comes_from_and_has_no_infinity():
    data = as_dict(made_up(net=measured(1e6)), {"net": 30.0})
    json.dumps(data, allow_nan=False)
    (network,) = data["networks"]
    assert network["scores"]["2026"] == {
        "score": None, "low": None, "high": None, "runtime_ms": 1e6, "runtime_source": "measured", "baseline_ms": 8.0,
        "baseline_source": "measured", "comparable": True,
    }  # fmt: skip
    assert (network["psnr"], network["psnr_source"]) == (30.0, "given")
    assert data["machine"] == MACHINE
    assert BASELINES[2026].name == data["baseline_2026"]["network"]


def test_small_parts_of_the_table():
    assert aligned([["a", "b", "c"], ["xx", "", "1"]]) == "a   c\nxx  1"
    names = ["x" * 50, *(f"experiments/{'a' * 20}{run}{'b' * 20}" for run in "12"), "short"]
    assert list(labels(names, 11).values()) == ["xxxxx…xxxxx", "…1bbbbbbbb…", "…2bbbbbbbb…", "short"]
    assert [milliseconds(value) for value in (0.1234, 12.34, 123.4, 1234.5)] == ["0.123", "12.3", "123.4", "1234"]

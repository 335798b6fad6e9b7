"""Whole profiles: what is measured, and what a machine cannot do."""

import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from dscsr_arch import SPAN
from dscsr_model.cli.backend import write
from dscsr_model.inference.backends import BACKENDS
from dscsr_model.profiling.complexity import count
from dscsr_model.profiling.profile import Settings, build, profile
from dscsr_model.profiling.report import table

QUICK = Settings(12, 16, ("eager",), "cpu", 1e-6)
BARE = replace(QUICK, flops=False, baseline=False)


def test_everything_is_measured():
    networks = {"narrow": SPAN(feature_channels=4), "wide": SPAN(feature_channels=8)}
    result = profile(networks, replace(QUICK, variants=("eager", "bf16")))
    assert list(result.networks) == ["narrow", "wide"]
    for name, network in networks.items():
        each = result.networks[name]
        assert each.complexity == count(network, 12, 16)
        assert each.flops_256 * 12 * 16 == each.complexity.flops * 256**2
        assert list(each.runs) == ["eager", "bf16"]
        assert all(run.latency.median_ms > 0 and run.fault is None for run in each.runs.values())
        # The weights, the image and the result in float32 are the least.
        assert each.runs["eager"].memory >= 4 * (each.complexity.parameters + 3 * 12 * 16 * 17)
        assert network.training, "it stays as it is"
        assert not hasattr(network.conv_1, "weight")
    assert result.networks["wide"].runs["eager"].memory > result.networks["narrow"].runs["eager"].memory
    assert result.baseline.latency.median_ms > 0
    assert "wide" in table(result)


class TrainsOnly(SPAN):
    def forward(self, x):
        if self.conv_cat.weight.dtype == torch.bfloat16:
            raise NotImplementedError("no kernel for bfloat16")
        return super().forward(x)


def test_what_the_machine_cannot_do_is_told_and_the_rest_measured(tmp_path, monkeypatch):
    """A package that is broken in its own way, too."""
    (tmp_path / "onnxruntime.py").write_text("raise TypeError('Descriptors cannot be created directly')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    result = profile({"net": TrainsOnly(feature_channels=4)}, replace(BARE, variants=("eager", "bf16", "onnx")))
    runs = result.networks["net"].runs
    assert runs["eager"].latency is not None
    assert "no kernel for bfloat16" in runs["bf16"].fault
    assert "Expected `write` to write" in runs["onnx"].fault
    text = table(result)
    assert all(f", {name} " in text for name in ("openvino", "ncnn") if find_spec(name))
    assert "Not to be had here:" in text
    assert "net, bf16: " in text


# bf16 keeps 8 bits of a number and fp16 11; `eager` and `channels_last` differ in the order of sums only.
TOLERANCE = {"eager": 1e-5, "channels_last": 1e-5, "bf16": 0.1, "fp16": 0.02}
SLOW = {"compiled": 1e-5, "compiled_bf16": 0.1, **dict.fromkeys(BACKENDS, 1e-5)}
VARIANTS = [*TOLERANCE, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


@pytest.mark.parametrize("backend", VARIANTS, indirect=True)
def test_a_variant_gives_the_networks_image_and_leaves_no_file(backend, tmp_path, monkeypatch):
    variant = backend
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    network, x = SPAN(feature_channels=8, upscale=2, img_range=1.0), torch.rand(1, 3, 9, 14)
    with torch.no_grad():
        expected = network(x)
    difference = (build(network, variant, replace(QUICK, write=write))(x) - expected).abs().max()
    assert difference <= {**TOLERANCE, **SLOW}[variant] * max(1, expected.abs().max())
    assert ("16" in variant) == (difference > 1e-4)
    assert not list(tmp_path.glob("dscsr_*"))

"""Every variant gives the network's images; wrong names are told."""

import pytest
import torch

from dscsr_arch import SPAN
from dscsr_arch.errors import DscsrError
from dscsr_model.profiling.variants import VARIANTS, build, check_variants

# bf16 keeps 8 bits of a number and fp16 11; `eager` and `channels_last` differ in the order of sums only.
TOLERANCE = {"eager": 1e-5, "channels_last": 1e-5, "bf16": 0.1, "fp16": 0.02, "onnx": 1e-5}


@pytest.fixture
def network():
    return SPAN(feature_channels=8, upscale=2, img_range=1.0)


@pytest.mark.parametrize("variant", ["eager", "channels_last", "bf16", "fp16"])
def test_a_variant_gives_the_networks_image(network, variant):
    x = torch.rand(1, 3, 9, 14)
    with torch.no_grad():
        expected = network(x)
    result = build(network, variant, "cpu")(x)
    assert (result - expected).abs().max() <= TOLERANCE[variant] * max(1, expected.abs().max())
    assert network.training, "the network stays as it is"


@pytest.mark.slow
def test_onnx_is_written_by_whoever_can_and_leaves_no_file(network, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    from dscsr_model.export.onnx import to_onnx

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    x = torch.rand(1, 3, 9, 14)
    result = build(network, "onnx", "cpu", to_onnx)(x)
    expected = build(network, "eager", "cpu")(x)
    assert (result - expected).abs().max() <= TOLERANCE["onnx"] * max(1, expected.abs().max())
    assert not list(tmp_path.glob("dscsr_*"))


def test_onnx_needs_somebody_who_writes_it(network):
    with pytest.raises(DscsrError, match=r"Expected `to_onnx` to write .* Give one"):
        build(network, "onnx", "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["compiled", "compiled_bf16"])
def test_compiled_variants(network, variant):
    x = torch.rand(1, 3, 9, 14)
    expected = build(network, "eager", "cpu")(x)
    tolerance = TOLERANCE["bf16" if "bf16" in variant else "eager"]
    assert (build(network, variant, "cpu")(x) - expected).abs().max() <= tolerance * max(1, expected.abs().max())


def test_names_come_once_and_all_means_all():
    assert check_variants(["bf16", "eager", "bf16"]) == ("bf16", "eager")
    assert check_variants(["all"]) == VARIANTS


@pytest.mark.parametrize(("names", "got"), [(["fast", "eager"], "fast"), ([], "none")])
def test_unknown_names_are_told(names, got):
    with pytest.raises(DscsrError, match=f"Expected variants among eager, .*, onnx, all, but got {got}"):
        check_variants(names)

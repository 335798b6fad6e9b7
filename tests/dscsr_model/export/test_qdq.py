"""Quantized networks as ONNX files."""

from collections import Counter

import pytest
import torch

from dscsr_arch import CARN, EDSR, SPAN
from dscsr_arch.errors import DscsrError
from dscsr_arch.quantized_conv import inject, quantized_layers
from dscsr_model.export.compare import difference
from dscsr_model.export.formats import FORMATS
from dscsr_model.export.onnx import run_onnx, to_onnx
from dscsr_model.export.ship import ship
from dscsr_model.inference.engines import onnx_engine, torch_engine
from dscsr_model.training.quantization import calibrate

KINDS = {"EDSR": (EDSR, "num_feat"), "CARN": (CARN, "num_feat"), "SPAN": (SPAN, "feature_channels")}


def quantized(kind="EDSR", method="pact", bits=4):
    torch.manual_seed(0)
    network, width = KINDS[kind]
    small = {"num_block": 2} if kind == "EDSR" else {}
    net = inject(network(**{width: 8}, upscale=2, **small).fuse(), method, bits).eval()
    calibrate(net, lambda: net(torch.rand(2, 3, 16, 16)))
    return net


@pytest.mark.parametrize(("kind", "method", "bits"), [("EDSR", "pact", 4), ("CARN", "pams", 8), ("SPAN", "pact", 8)])
def test_the_file_computes_what_the_network_does(tmp_path, kind, method, bits):
    """Where no value falls between two levels, as in these small networks, as near as any."""
    import onnx

    net = quantized(kind, method, bits)
    to_onnx(net, tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    kinds, layers = Counter(node.op_type for node in model.graph.node), quantized_layers(net)
    assert kinds["QuantizeLinear"] == len(layers)
    assert kinds["DequantizeLinear"] == 2 * len(layers)
    weights = [onnx.numpy_helper.to_array(each) for each in model.graph.initializer if each.data_type == 3]
    assert sum(weight.size for weight in weights) >= sum(layer.weight.numel() for layer in layers.values())
    assert max(abs(weight.astype(int)).max() for weight in weights) == 2 ** (bits - 1) - 1
    image = torch.rand(1, 3, 9, 11)
    with torch.no_grad():
        wanted = net(image)
        far_off = (quantized(kind, method, 12 - bits)(image) - wanted).abs().max()
    assert (run_onnx(tmp_path / "net.onnx")(image) - wanted).abs().max() < 1e-5 < far_off
    difference(net, run_onnx(tmp_path / "net.onnx"))


def test_a_layer_that_is_not_calibrated_is_written_as_a_plain_one(tmp_path):
    net = quantized()
    net.conv_after_body.input_levels = None
    to_onnx(net, tmp_path / "net.onnx")
    difference(net, run_onnx(tmp_path / "net.onnx"))


def test_another_scale_is_found(tmp_path):
    net = quantized()
    to_onnx(net, tmp_path / "net.onnx")
    net.conv_after_body.quant_clip.data.add_(0.05)
    with pytest.raises(DscsrError, match=r"to do what the network does, up to 1\.0e-04, but got a largest difference"):
        difference(net, run_onnx(tmp_path / "net.onnx"))


def test_tiles_know_how_far_a_pixel_sees(tmp_path):
    """A NaN becomes a whole number on its way: alone it would show a part of it."""
    net = quantized()
    to_onnx(net, tmp_path / "net.onnx")
    seen = onnx_engine(tmp_path / "net.onnx", device="cpu").receptive_field
    assert seen.radius == torch_engine(net, device="cpu").receptive_field.radius == 8


@pytest.mark.parametrize(("form", "half"), [("spandrel", False), ("onnx", True)])
def test_what_would_lose_the_levels_is_refused(tmp_path, form, half):
    with pytest.raises(DscsrError, match=r"full precision for .*, but got one with 5 convolutions in 4 bits"):
        ship(quantized(), tmp_path / "net.pth", FORMATS[form], half=half)
    assert not list(tmp_path.iterdir())


def test_before_it_is_calibrated_it_is_the_plain_network(tmp_path):
    net = inject(EDSR(num_feat=4, num_block=1, upscale=2), "pams", 8).eval()
    to_onnx(net, tmp_path / "net.onnx")
    assert b"QuantizeLinear" not in (tmp_path / "net.onnx").read_bytes()
    assert difference(net, run_onnx(tmp_path / "net.onnx")).largest < 1e-5

"""Quantized convolutions: what they compute, which they are, and what their files give."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dscsr_arch import CARN, EDSR, SPAN, conv_lora, load_model
from dscsr_arch.checkpoint import save_state_dict
from dscsr_arch.errors import QuantizationError, WeightsError
from dscsr_arch.quantized_conv import QuantizedConv, inject, quantized_layers
from dscsr_arch.quantizers import levels, quantize, quantize_weight


def small(kind=EDSR, **arguments):
    width = "feature_channels" if kind is SPAN else "num_feat"
    return kind(**{width: 6, **arguments}).fuse()


def calibrated(network):
    for layer in quantized_layers(network).values():
        layer.calibrate(100.0, signed=True)
    return network


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("method", ["pact", "pams"])
def test_layer_is_the_convolution_of_quantized_inputs_and_weights(method, signed):
    plain = nn.Conv2d(4, 6, 3, padding=1, stride=2).double()
    layer, x = QuantizedConv(copy.deepcopy(plain), method, 4), torch.randn(2, 4, 7, 9, dtype=torch.float64)
    assert torch.equal(layer(x), plain(x))  # not calibrated
    layer.calibrate(1.5, signed=signed)
    layer.quant_clip.data.fill_(math.log(0.8) / 10)
    inputs = quantize(x, torch.tensor(1.2, dtype=torch.float64), levels(4, signed=signed), method)
    expected = F.conv2d(inputs, quantize_weight(plain.weight, 4), plain.bias, stride=2, padding=1)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-14)
    layer(x).sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_autocast_and_half_leave_the_levels_exact():
    """bfloat16 has no 255 levels between 0 and 1."""
    layer, x, seen = QuantizedConv(nn.Conv2d(4, 6, 3), "pact", 8), torch.rand(1, 4, 32, 32), []
    layer.calibrate(1.0, signed=False)
    layer._conv_forward = lambda x, *_: seen.append(x)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x)
    assert len(seen[0].unique()) > 200
    layer.half()(x.half())
    assert seen[1].dtype == torch.float16


@pytest.mark.parametrize(
    ("kind", "full", "quantized"),
    [
        (EDSR, {"conv_first", "upsample.0", "upsample.2", "conv_last"}, "conv_after_body"),
        (CARN, {"entry", "upsample.blocks.0", "upsample.blocks.1", "exit"}, "b1.c1.conv"),
        (SPAN, {"conv_1.eval_conv", "upsampler.0"}, "conv_cat"),
    ],
)
def test_head_and_tail_stay_in_full_precision(kind, full, quantized):
    network, x = small(kind), torch.rand(1, 3, 8, 9)
    plain = network(x)
    names = {name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    state = network.state_dict()
    inject(network, "pams", 4)
    assert names - quantized_layers(network).keys() == full
    assert quantized in quantized_layers(network)
    assert state.keys() < network.state_dict().keys()  # the names of the plain network
    network.load_state_dict(state)
    assert torch.equal(network(x), plain)


def test_patterns():
    network = inject(small(), "pams", 4, ["body.*", "upsample"])
    assert quantized_layers(network).keys() == {"conv_after_body"}
    with pytest.raises(QuantizationError, match=r"patterns .* but got 'bodi', which meets none of conv_first"):
        inject(small(), "pams", 4, ["bodi"])


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (conv_lora.inject(small(), {"body": (1, 1)}), "plain network to quantize, but got one with LoRA"),
        (inject(small(), "pact", 8), "but got one with quantized layers"),
        (nn.Sequential(nn.Conv2d(3, 3, 3)), "a convolution to quantize, but got none"),
    ],
)
def test_refused(network, said):
    with pytest.raises(QuantizationError, match=said):
        inject(network, "pams", 4)


@pytest.mark.parametrize("kind", [EDSR, CARN, SPAN])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_file_gives_the_quantized_network(tmp_path, kind, bits):
    network = calibrated(inject(small(kind), "pact", bits)).eval()
    x = torch.rand(1, 3, 9, 8)
    save_state_dict({"params": network.state_dict()}, tmp_path / "net.pth")
    loaded = load_model(tmp_path / "net.pth")
    assert torch.equal(loaded(x), network(x))
    assert {layer.bits for layer in quantized_layers(loaded).values()} == {bits}


def test_a_file_of_other_bits_is_calibrated_anew():
    network = inject(small(), "pams", 4)
    eight = calibrated(inject(small(), "pams", 8))
    network.load_state_dict(eight.state_dict())
    layer = network.conv_after_body
    assert (layer.input_levels, layer.bits, float(layer.quant_max)) == (None, 4, 0)
    assert layer.quant_levels.tolist() == [-7, 7]
    assert torch.equal(layer.weight, eight.conv_after_body.weight)


def test_damaged_levels_are_refused(tmp_path):
    state = calibrated(inject(small(), "pams", 4)).state_dict()
    state["conv_after_body.quant_levels"] = torch.tensor([-3, 10**6])
    save_state_dict({"params": state}, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"levels of 4 or 8 bits, but got \(-3, 1000000\)"):
        load_model(tmp_path / "net.pth")

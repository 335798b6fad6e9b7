"""The mean of networks, against kernels averaged in float64."""

import pytest
import torch
from small_models import with_updates

from dscsr_arch import EDSR, SPAN, conv_lora, quantized_conv
from dscsr_arch.averaging import average_networks
from dscsr_arch.errors import WeightsError


def span(**arguments) -> SPAN:
    network = SPAN(**{"feature_channels": 4, "upscale": 2, **arguments})
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return network


def test_kernels_are_averaged_not_branches_whatever_form_they_come_in():
    """An expanded network, a fused one, one with LoRA."""
    networks = {
        "a": span(),
        "b": span().fuse(),
        "c": with_updates(conv_lora.inject(span().fuse(), {"block_*": (2, 4)})),
    }
    shares = [0.5, 0.2, 0.3]
    mean = average_networks(networks, shares)
    assert {name for name, _ in mean.named_modules() if "lora" in name} == set()
    kernels = [{name: each.state_dict()[name].double() for name in mean.state_dict()} for each in networks.values()]
    for layer, adapter in conv_lora.lora_layers(networks["c"]).items():
        kernels[2][f"{layer}.weight"] = (adapter.weight + adapter.delta()).detach().double()
    for name, tensor in mean.state_dict().items():
        wanted = sum(share * kernel[name] for share, kernel in zip(shares, kernels, strict=True))
        assert (tensor.double() - wanted).abs().max() <= 2e-6 * wanted.abs().max().clamp_min(1e-3), name

    two = [span(), span()]
    branches = span()
    branches.load_state_dict(
        {name: (tensor + two[1].state_dict()[name]) / 2 for name, tensor in two[0].state_dict().items()}
    )
    image = torch.rand(1, 3, 9, 7)
    with torch.no_grad():
        assert (branches(image) - average_networks(dict(enumerate(two)), [0.5, 0.5])(image)).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: span(feature_channels=6), r"SPAN, 4 channels, x2 \(a\), but got SPAN, 6 channels, x2 \(b\)"),
        (
            lambda: EDSR(num_in_ch=3, num_out_ch=3, num_feat=4, num_block=1, upscale=2),
            r"\(a\), but got EDSR, 4 channels",
        ),
        (lambda: span(img_range=1.0), r"but got img_range 255 and 1 \(b\).*--set img_range=…"),
        (lambda: span(bias=False), r"but got `.*bias` of .* and of no such shape \(b\)"),
    ],
)
def test_networks_of_two_kinds(other, message):
    with pytest.raises(WeightsError, match=message):
        average_networks({"a": span(), "b": other()}, [0.5, 0.5])


def test_networks_of_unlike_bits():
    def quantized(bits):
        network = quantized_conv.inject(span().fuse(), "pams", bits)
        for layer in quantized_conv.quantized_layers(network).values():
            layer.calibrate(1.0, signed=True)
        return network

    average_networks({"a": quantized(4), "b": quantized(4)}, [0.5, 0.5])
    with pytest.raises(WeightsError, match=r"in levels of -7 to 7 and in levels of -127 to 127 \(b\)"):
        average_networks({"a": quantized(4), "b": quantized(8)}, [0.5, 0.5])
    with pytest.raises(WeightsError, match=r"in full precision and in levels of -7 to 7 \(b\)"):
        average_networks({"a": span(), "b": quantized(4)}, [0.5, 0.5])

"""Engines beside the plain network."""

import copy

import pytest
import torch
from torch import nn

from dscsr_arch import SPAN, DSCLoRA
from dscsr_arch.errors import DscsrError
from dscsr_model.inference.engines import find_device, torch_engine


def randomised(network):
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network.eval()


@pytest.fixture
def span():
    return randomised(SPAN(feature_channels=6, upscale=2, img_range=1.0))


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(
    "build",
    [
        lambda: DSCLoRA(feature_channels=8, upscale=3, img_range=1.0),
        lambda: SPAN(num_in_ch=1, num_out_ch=1, feature_channels=4, upscale=1, rgb_mean=(0.5,), img_range=1.0),
    ],
    ids=["DSCLoRA", "gray"],
)
def test_as_the_plain_network(build, channels_last):
    network = randomised(build())
    engine = torch_engine(network, device="cpu", channels_last=channels_last)
    x = torch.rand(2, engine.channels, 17, 23)
    with torch.no_grad():
        plain = network(x)
    assert engine.scale == network.upscale
    assert plain.std() > 0.01
    # Merged kernels and another memory layout: sums in another order.
    assert (engine(x) - plain).abs().max() < 1e-5 * plain.abs().max()


def test_network_and_image_stay_as_they_are(span):
    x = torch.rand(1, 3, 8, 8)
    image, before = x.clone(), copy.deepcopy(span.state_dict())
    for precision in ("fp32", "bf16"):
        torch_engine(span, device="cpu", precision=precision, channels_last=False)(x)
    assert torch.equal(x, image)
    assert before.keys() == span.state_dict().keys()
    assert all(torch.equal(before[name], value) for name, value in span.state_dict().items())
    assert not any(layer.fused for layer in span.layers())


def test_the_image_enters_in_float32():
    """In bf16 a bright image would have fewer than 256 levels; weights of 1 show what comes through."""
    network = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.Identity())
    nn.init.dirac_(network[0].weight)
    network[0].weight.data *= 256
    x = torch.full((1, 3, 32, 32), 0.998)
    engine = torch_engine(network, device="cpu", precision="bf16")
    assert engine(x)[0, 0, 0, 0] == torch.tensor(0.998 * 256).bfloat16()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *(
            (name, f"Expected a GPU for --device {name}, but got none that PyTorch sees")
            for name in ("cuda:99", "cuda")
        ),
        *((name, "Expected a device among auto, cpu, cuda") for name in ("", "mps", "meta")),
    ],
)
def test_devices_that_are_not_there(monkeypatch, name, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DscsrError, match=message):
        find_device(name)


def test_no_such_precision(span):
    with pytest.raises(DscsrError, match="Expected a precision among fp32, bf16, fp16, but got 'int8'"):
        torch_engine(span, device="cpu", precision="int8")


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), "keeps their channels, but got Conv2d, which makes"),
        (nn.Conv2d(3, 3, 3), r"a whole number of times larger, .* \(1, 3, 62, 126\) of \(1, 3, 64, 128\)"),
    ],
)
def test_other_networks(network, message):
    with pytest.raises(DscsrError, match=message):
        torch_engine(network, device="cpu")

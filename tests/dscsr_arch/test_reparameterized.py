"""What SPAN, SPANF and SPANV2 have in common, each against the plain network that runs all of its convolutions."""

import pytest
import torch
from plain_span import PlainSPAN, PlainSPANF, PlainSPANV2

from dscsr_arch import SPAN, SPANF, SPANV2, CSSRNet, conv_lora, load_model
from dscsr_arch.checkpoint import save_state_dict
from dscsr_arch.errors import LoRAError

EXACT = {"rtol": 0, "atol": 1e-10}  # float64; values of the output reach a few hundred before training
NETWORKS = [(SPAN, PlainSPAN), (SPANF, PlainSPANF), (SPANV2, PlainSPANV2)]
KINDS = [network for network, _ in NETWORKS]


def pair(network, plain_network, **arguments):
    plain = plain_network(**arguments).double()
    net = network(**arguments).double()
    net.load_state_dict(plain.state_dict(), strict=True)
    return net, plain


def image(height=6, width=5, **kind):
    return torch.rand(1, 3, height, width, **kind)


@pytest.mark.parametrize(
    ("networks", "arguments", "size"),
    [
        (NETWORKS[0], {"upscale": 4}, (13, 17)),
        (NETWORKS[0], {"upscale": 2}, (5, 1)),
        (NETWORKS[0], {"upscale": 3}, (1, 9)),
        (NETWORKS[1], {"upscale": 4, "tail_channels": 5}, (13, 17)),
        (NETWORKS[1], {"upscale": 1, "num_blocks": 1}, (5, 1)),
        (NETWORKS[1], {"upscale": 3, "num_blocks": 3}, (1, 9)),
        (NETWORKS[2], {"upscale": 4}, (13, 17)),
        (NETWORKS[2], {"upscale": 1, "num_blocks": 2}, (5, 1)),
        (NETWORKS[2], {"upscale": 2, "num_blocks": 3}, (1, 9)),
    ],
)
def test_output_and_all_gradients_equal_the_plain_network(networks, arguments, size):
    net, plain = pair(*networks, feature_channels=12, **arguments)
    x, same = (torch.rand(2, 3, *size, dtype=torch.float64).requires_grad_() for _ in range(2))
    same.data = x.data
    out, expected = net(x), plain(same)
    assert out.shape == (2, 3, *(side * arguments["upscale"] for side in size))
    torch.testing.assert_close(out, expected, **EXACT)
    out.square().mean().backward()
    expected.square().mean().backward()
    torch.testing.assert_close(x.grad, same.grad, **EXACT)
    grads = dict(plain.named_parameters())
    assert set(grads) == {name for name, _ in net.named_parameters()}
    for name, parameter in net.named_parameters():
        scale = grads[name].grad.abs().max()
        assert scale > 0, name
        torch.testing.assert_close(parameter.grad / scale, grads[name].grad / scale, **EXACT, msg=name)


@pytest.mark.parametrize(("network", "plain_network"), NETWORKS)
def test_fused_and_unfused_again_it_makes_the_plain_networks_image(network, plain_network, tmp_path):
    net, plain = pair(network, plain_network, feature_channels=6)
    x = image(dtype=torch.float64)
    expected = plain(x)
    fused = net.fuse()
    assert not any(name.endswith("sk.weight") for name in fused.state_dict())
    torch.testing.assert_close(fused(x), expected, **EXACT)
    save_state_dict(fused.state_dict(), tmp_path / "fused.pth")
    again = load_model(tmp_path / "fused.pth").double()
    assert type(again) is network
    torch.testing.assert_close(again(x), expected, rtol=0, atol=1e-4 * expected.abs().max().item())  # was float32
    trainable = network(feature_channels=6).double()
    trainable.load_state_dict(fused.state_dict(), strict=True)
    torch.testing.assert_close(trainable(x), expected, **EXACT)
    torch.testing.assert_close(fused.unfuse()(x), expected, **EXACT)
    assert all(layer.sk is not None for layer in fused.layers())


@pytest.mark.parametrize("network", KINDS)
def test_lora_on_every_convolution_merges_and_comes_back_from_the_file_alone(network, tmp_path):
    net = network(feature_channels=6).double().fuse()
    x = image(dtype=torch.float64)
    base = net(x)
    convolutions = [name for name, layer in net.named_modules() if isinstance(layer, torch.nn.Conv2d)]
    conv_lora.inject(net, {"*": (2, 4)}, clip_ranks=True)
    assert list(conv_lora.lora_layers(net)) == convolutions
    torch.testing.assert_close(net(x), base, **EXACT)
    for layer in conv_lora.lora_layers(net).values():
        torch.nn.init.normal_(layer.lora_B, std=0.1)
    expected = net(x)
    assert not torch.allclose(expected, base)
    torch.testing.assert_close(conv_lora.merge(net)(x), expected, **EXACT)
    with pytest.raises(LoRAError, match="without ConvLoRA to unfuse"):
        net.unfuse()
    save_state_dict(net.state_dict(), tmp_path / "lora.pth")
    loaded = load_model(tmp_path / "lora.pth")
    assert list(conv_lora.lora_layers(loaded)) == convolutions
    torch.testing.assert_close(loaded.double()(x), expected, rtol=0, atol=1e-4 * expected.abs().max().item())
    torch.testing.assert_close(net.fuse()(x), expected, **EXACT)


@pytest.mark.parametrize("network", KINDS)
def test_narrow_students_are_first_channels(network):
    shared = CSSRNet({"type": network.__name__, "feature_channels": 8}, (0.5,)).double()
    x = image(dtype=torch.float64)
    student = shared.student(0.5)
    assert student.arguments["feature_channels"] == 4
    torch.testing.assert_close(shared(x, width=0.5), student(x), **EXACT)
    shared(x, width=0.5).mean().backward()
    assert all(parameter.grad is not None for parameter in shared.backbone.parameters())


@pytest.mark.parametrize("network", KINDS)
@pytest.mark.parametrize("form", ["expanded", "fused"])
def test_compiled_forward_equals_eager(network, form):
    net = network(feature_channels=4)
    if form == "fused":
        net.fuse()
    x = torch.rand(1, 3, 6, 5)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), net(x), rtol=0, atol=1e-5)

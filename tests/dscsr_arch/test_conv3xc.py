"""The layer alone; that its output and gradients are those of four convolutions, test_span_arch shows."""

import copy

import pytest
import torch

from dscsr_arch.conv3xc import Conv3XC, merge_layers
from dscsr_arch.reparameterization import unfuse_kernel

# Sums of at most a few thousand products of numbers near 1 in float64.
EXACT = {"rtol": 0, "atol": 1e-10}


def test_every_gradient_has_memory_of_its_own():
    """Else what changes gradients in place (a second backward, clipping, unscaling) would change some of them twice."""
    layer = Conv3XC(3, 4)
    x = torch.rand(2, 3, 5, 5)

    def gradients():
        layer(x).square().sum().backward()
        return {name: parameter.grad for name, parameter in layer.named_parameters()}

    once = {name: grad.clone() for name, grad in gradients().items()}
    twice = gradients()
    for name, grad in once.items():
        torch.testing.assert_close(twice[name], 2 * grad, msg=name)
    assert len({grad.data_ptr() for grad in twice.values()}) == len(twice)


def test_merge_layers_merges_mixed_shapes_and_fused_layers_in_order():
    layers = [Conv3XC(3, 4), Conv3XC(4, 4), Conv3XC(4, 4).fuse(), Conv3XC(3, 4), Conv3XC(4, 4, bias=False)]
    layers.append(Conv3XC(3, 4).double())
    for layer, kernel in zip(layers, merge_layers(layers), strict=True):
        alone = layer.kernel()
        torch.testing.assert_close(kernel.weight, alone.weight, rtol=0, atol=1e-6)  # the dtype, too
        assert (kernel.bias is None) == (alone.bias is None)


def test_the_kernel_is_merged_in_float32_under_autocast_and_in_half_precision():
    layer = Conv3XC(8, 8)
    reference = layer.kernel().weight
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(layer.kernel().weight, reference, rtol=0, atol=0)
        assert layer(torch.randn(1, 8, 4, 4)).dtype == torch.bfloat16
    half = copy.deepcopy(layer).to(torch.bfloat16)
    rounded_inputs = copy.deepcopy(half).float().kernel().weight
    assert half.kernel().weight.dtype == torch.bfloat16
    torch.testing.assert_close(half.kernel().weight, rounded_inputs.to(torch.bfloat16), rtol=0, atol=0)


def test_a_stale_eval_conv_beside_branches_is_ignored():
    layer = Conv3XC(3, 4).double()
    state = layer.state_dict()
    state["eval_conv.weight"] = torch.zeros_like(state["eval_conv.weight"])
    for target in (Conv3XC(3, 4).double(), Conv3XC(3, 4).double().fuse()):
        target.load_state_dict(state)
        torch.testing.assert_close(target.kernel().weight, layer.kernel().weight, **EXACT)


def test_a_fused_kernel_of_another_shape_is_refused():
    state = Conv3XC(3, 8).fuse().state_dict()
    with pytest.raises(
        RuntimeError, match=r"Expected a fused kernel of shape \(4, 3, 3, 3\) with bias, but got \(8, 3"
    ):
        Conv3XC(3, 4).load_state_dict(state)


def test_unfused_branches_are_as_rich_as_a_random_start():
    """None is zero, tiny or huge beside what torch starts with (w2 makes up the difference); w1, w3 have full rank."""
    found = unfuse_kernel(Conv3XC(26, 26).fuse().kernel(), gain=2)
    fresh = Conv3XC(26, 26)
    for tensor, start in zip(found[:3], fresh.conv, strict=True):
        assert 0.5 < tensor.std() / start.weight.std() < 6
    assert torch.linalg.matrix_rank(found.w1.flatten(1).view(52, 26)) == 26
    assert torch.linalg.matrix_rank(found.w3.view(26, 52)) == 26


def test_fuse_and_unfuse_keep_a_frozen_layer_frozen_and_draw_no_random_numbers():
    layer = Conv3XC(3, 4).requires_grad_(False)
    state = torch.get_rng_state()
    assert not any(parameter.requires_grad for parameter in layer.fuse().parameters())
    assert not any(parameter.requires_grad for parameter in layer.unfuse().parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.requires_grad for parameter in Conv3XC(3, 4).fuse().unfuse().parameters())

"""EDSR and RCAN are BasicSR's to the bit: arguments, names, random starts, images, gradients."""

import importlib

import pytest
import torch

from dscsr_arch import EDSR, RCAN

SMALL = {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_block": 2}
NETWORKS = [
    (EDSR, {**SMALL, "upscale": 2, "res_scale": 0.1, "img_range": 1.0, "rgb_mean": [0.1, 0.2, 0.3]}),
    (EDSR, {**SMALL, "upscale": 3}),
    (EDSR, {**SMALL, "upscale": 4}),
    (EDSR, {**SMALL, "upscale": 8}),
    (RCAN, {**SMALL, "num_group": 2, "squeeze_factor": 4, "upscale": 3, "res_scale": 0.5}),
    (RCAN, {**SMALL, "num_group": 1, "squeeze_factor": 2, "upscale": 4}),
    (RCAN, {**SMALL, "num_group": 1, "squeeze_factor": 2, "upscale": 1, "img_range": 1.0}),
]


def theirs(kind):
    return getattr(importlib.import_module(f"basicsr.archs.{kind.__name__.lower()}_arch"), kind.__name__)


@pytest.mark.parametrize(("kind", "arguments"), NETWORKS)
def test_it_is_that_of_basicsr(kind, arguments):
    torch.manual_seed(1)
    net = kind(**arguments)
    torch.manual_seed(1)
    plain = theirs(kind)(**arguments)
    assert list(net.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in net.state_dict().items())
    assert [name for name, _ in net.named_modules()] == [name for name, _ in plain.named_modules()]
    x = torch.rand(2, 3, 5, 7, dtype=torch.float64)
    out, expected = net.double()(x), plain.double()(x)
    assert torch.equal(out, expected)
    out.square().sum().backward()
    expected.square().sum().backward()
    wanted = dict(plain.named_parameters())
    assert all(torch.equal(parameter.grad, wanted[name].grad) for name, parameter in net.named_parameters())


@pytest.mark.parametrize("kind", [EDSR, RCAN])
def test_arguments_have_basicsrs_names_order_and_defaults(kind):
    import inspect

    ours, plain = (inspect.signature(each).parameters for each in (kind, theirs(kind)))
    assert list(ours) == list(plain)
    assert all(each.default in (inspect.Parameter.empty, ours[name].default) for name, each in plain.items())


def test_gray_images_have_the_luma_of_the_mean():
    net = EDSR(1, 1, 4, 1, 2, rgb_mean=(0.1, 0.2, 0.3))
    assert net.mean.flatten().tolist() == pytest.approx([0.299 * 0.1 + 0.587 * 0.2 + 0.114 * 0.3])
    assert net(torch.rand(1, 1, 5, 7)).shape == (1, 1, 10, 14)

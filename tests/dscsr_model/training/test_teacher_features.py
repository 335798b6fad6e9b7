"""Features of images in the first layers of a network: its own, and nothing behind them runs."""

import pytest
import small_models
import torch
from torch.nn import functional as F

from dscsr_arch import SPAN
from dscsr_arch.cssr_arch import find_backbone
from dscsr_arch.errors import DscsrError
from dscsr_model.training.teacher_features import TeacherFeatures


@pytest.fixture
def edsr():
    section = {name: value for name, value in small_models.EDSR.items() if name != "type"}
    return find_backbone("EDSR")(**section)


def test_features_are_the_networks_own(edsr):
    features = TeacherFeatures(edsr, ["body.0", "conv_first"])
    images = torch.rand(2, 3, 9, 8, requires_grad=True)
    first = edsr.conv_first((images - edsr.mean) * edsr.img_range)
    wanted = [edsr.body[0](first), first]
    found = features(images)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)
    (gradient,) = torch.autograd.grad(F.mse_loss(found[0], torch.zeros_like(found[0])), images)
    (expected,) = torch.autograd.grad(F.mse_loss(wanted[0], torch.zeros_like(wanted[0])), images)
    torch.testing.assert_close(gradient, expected)
    assert gradient.abs().max() > 0


def test_it_is_a_copy_that_is_frozen_and_fused():
    span = SPAN(feature_channels=4, upscale=2)
    features = TeacherFeatures(span, ["conv_1", "block_1"])
    images = torch.rand(1, 3, 8, 8)
    before = features(images)
    with torch.no_grad():
        torch._foreach_add_(list(span.parameters()), 1.0)
    assert all(torch.equal(one, two) for one, two in zip(before, features(images), strict=True))
    assert not any(feature.requires_grad for feature in before)
    assert "block_1.c1_r.sk.weight" in span.state_dict()
    assert not any(".sk." in name for name in features.state())


def test_by_default_the_first_three_convolutions(edsr):
    assert TeacherFeatures(edsr).layers == ("conv_first", "body.0.conv1", "body.0.conv2")
    with pytest.raises(DscsrError, match="Expected convolutions in Linear, but got none"):
        TeacherFeatures(torch.nn.Linear(2, 2))


def test_nothing_behind_the_last_layer_runs_or_is_kept(edsr):
    features = TeacherFeatures(edsr, ["body.0"])
    everything = features.state().keys()
    assert everything == dict(edsr.named_parameters()).keys() | {"mean"}
    ran = []
    features._network.conv_last.register_forward_hook(lambda *_: ran.append(True))
    features(torch.rand(1, 3, 8, 8))
    assert not ran
    kept = features.state().keys()
    assert {name.split(".")[0] for name in kept} == {"conv_first", "body", "mean"}
    assert not any(name.startswith("body.1") for name in kept)


def test_its_state_brings_back_its_features(edsr):
    features, images = TeacherFeatures(edsr), torch.rand(1, 3, 8, 8)
    wanted = features(images)
    with torch.no_grad():
        torch._foreach_mul_(list(edsr.parameters()), 2.0)
    other = TeacherFeatures(edsr)
    assert not torch.equal(other(images)[0], wanted[0])
    other.load_state(features.state())
    assert all(torch.equal(one, two) for one, two in zip(other(images), wanted, strict=True))


def test_the_state_of_another_network_is_refused_and_nothing_changes(edsr):
    features = TeacherFeatures(edsr)
    before = features.state()
    with pytest.raises(DscsrError, match=r"the first layers that this run began with, but got others, such as 'x'"):
        features.load_state({"conv_first.weight": torch.zeros(8, 3, 3, 3), "x": torch.zeros(1)})
    assert all(torch.equal(tensor, before[name]) for name, tensor in features.state().items())


def test_autocast_does_not_count(edsr):
    features, images = TeacherFeatures(edsr), torch.rand(1, 3, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = features(images)
    assert all(torch.equal(one, two) for one, two in zip(found, features(images), strict=True))


def test_a_layer_that_does_not_exist(edsr):
    with pytest.raises(DscsrError, match=r"Expected a layer of EDSR, but got 'body.7'"):
        TeacherFeatures(edsr, ["body.7"])

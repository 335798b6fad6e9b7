"""A teacher answers without gradients, as its networks would, on average; its features are the network's own."""

import option_files
import pytest
import small_models
import torch
from small_models import Windows
from torch.nn import functional as F

from dscsr_arch import SPAN
from dscsr_arch.checkpoint import save_state_dict
from dscsr_arch.conv_lora import inject
from dscsr_arch.errors import DscsrError, WeightsError
from dscsr_arch.metadata import beside
from dscsr_arch.sizes import SizeRequirements, padded
from dscsr_model.tiling import self_ensemble
from dscsr_model.training.precision import Precision
from dscsr_model.training.teacher import Teacher, TeacherFeatures, build_teachers

FP32 = Precision("fp32", torch.device("cpu"))


def span(seed: int = 0, **arguments) -> SPAN:
    torch.manual_seed(seed)
    return SPAN(**{"feature_channels": 4, "upscale": 2, **arguments}).double()


X = torch.rand(2, 3, 7, 9, dtype=torch.float64)


def test_it_is_fused_frozen_and_without_gradients():
    plain = span()
    expected = plain(X)
    teacher = Teacher([plain.train()], ["block_1"], precision=FP32)
    answer = teacher(X)
    assert answer.output is not None
    torch.testing.assert_close(answer.output, expected, rtol=1e-10, atol=1e-10)
    assert not answer.output.requires_grad
    assert not answer.features["block_1"].requires_grad
    assert not plain.training
    assert not any(parameter.requires_grad for parameter in plain.parameters())
    assert all(layer.fused for layer in plain.layers())


@pytest.mark.parametrize("layers", [[], ["block_2"]])
def test_several_teachers_and_orientations_are_averaged(layers):
    networks = [span(seed).fuse() for seed in range(2)]
    expected = torch.stack([self_ensemble(network, X) for network in networks]).mean(0)
    answer = Teacher(networks, layers, ensemble=True, precision=FP32)(X)
    torch.testing.assert_close(answer.output, expected.detach(), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(answer.output, networks[0](X))
    plain = Teacher(networks, layers, precision=FP32)(X)
    torch.testing.assert_close(plain.output, (networks[0](X) + networks[1](X)) / 2, rtol=1e-12, atol=1e-12)
    for name in layers:  # of the first network, for the image as it is
        feature = Teacher([networks[0]], [name], precision=FP32)(X).features[name]
        torch.testing.assert_close(answer.features[name], feature, rtol=0, atol=0)


def test_what_nobody_asks_for_is_not_computed():
    networks = [span(), span(1)]
    calls = []
    for network in networks:
        network.register_forward_hook(lambda *_: calls.append(1))
    assert Teacher(networks, [], output=False, precision=FP32)(X) == (None, {})
    assert not calls
    answer = Teacher(networks, ["block_1"], output=False, ensemble=True, precision=FP32)(X)
    assert answer.output is None
    assert len(calls) == 1
    Teacher(networks, ["block_1"], precision=FP32)(X)
    assert len(calls) == 3  # features and output of the first network come from one forward


def test_it_runs_in_the_precision_and_memory_format_of_the_training():
    network, seen = span().float(), []
    network.conv_cat.register_forward_hook(lambda _, x, y: seen.append((x[0], y)))
    bf16 = Precision("bf16", torch.device("cpu"))
    answer = Teacher([network], precision=bf16, memory_format=torch.channels_last)(X.float())
    assert seen[0][1].dtype == torch.bfloat16
    assert seen[0][0].is_contiguous(memory_format=torch.channels_last)
    assert answer.output is not None
    assert answer.output.dtype == torch.float32
    assert network.conv_cat.weight.dtype == torch.float32


def test_windows_that_do_not_fit_into_a_patch():
    network, plain, sizes = Windows(8).double(), span().fuse(), SizeRequirements(8, 8)
    teacher = Teacher([network, plain], precision=FP32)
    for x in (X, torch.rot90(X, 1, (2, 3))):
        expected = (padded(network, x, sizes) + plain(x)) / 2
        torch.testing.assert_close(teacher(x).output, expected.detach())
    eight = Teacher([network], ["conv"], precision=FP32, ensemble=True)(X).output
    torch.testing.assert_close(eight, self_ensemble(network, X, sizes).detach())


def test_built_from_a_file_alone_or_with_a_network_section(tmp_path):
    network = span().float()
    save_state_dict({"params": network.state_dict()}, tmp_path / "t.pth")
    built = []

    def build(section):
        built.append(section)
        return SPAN(feature_channels=4, upscale=2)

    for section in ({}, {"network": {"type": "SPAN"}}, {"network": [None, {"type": "SPAN"}]}):
        one, two = build_teachers({"weights": [str(tmp_path / "t.pth")] * 2, "param_key": "params", **section}, build)
        assert one is not two
        torch.testing.assert_close(one.eval()(X.float()), network(X.float()))
        torch.testing.assert_close(two.state_dict(), network.state_dict())
    assert built == [{"type": "SPAN"}] * 3


def test_a_checkpoint_with_adapters_beside_its_network(tmp_path):
    adapted = small_models.with_updates(inject(span().float().fuse(), {"block_1": (1, 2, True)}))
    save_state_dict({"params": adapted.state_dict()}, tmp_path / "net_g_1.pth")
    section = {"weights": str(tmp_path / "net_g_1.pth"), "network": {"type": "SPAN"}}
    (one,) = build_teachers(section, lambda _: span().float())
    torch.testing.assert_close(one.eval()(X.float()), adapted.eval()(X.float()))


def test_a_file_of_another_range(tmp_path):
    section = {"weights": str(tmp_path / "t.pth"), "network": {"type": "SPAN"}}
    save_state_dict({"params": span().state_dict(), **beside(span(img_range=1.0))}, tmp_path / "t.pth")
    with pytest.raises(WeightsError, match=r"t.pth, which does not fit:\ntrained with img_range: 1, not"):
        build_teachers(section, lambda _: span())


# --- features that images are compared by ---------------------------------------------------------------------------


@pytest.fixture
def edsr():
    return option_files.build(small_models.EDSR)


def test_features_are_the_networks_own(edsr):
    """Also under autocast, which does not count."""
    features = TeacherFeatures(edsr, ["body.0", "conv_first"])
    images = torch.rand(2, 3, 9, 8, requires_grad=True)
    first = edsr.conv_first((images - edsr.mean) * edsr.img_range)
    wanted = [edsr.body[0](first), first]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = features(images)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)
    (gradient,) = torch.autograd.grad(F.mse_loss(found[0], torch.zeros_like(found[0])), images)
    (expected,) = torch.autograd.grad(F.mse_loss(wanted[0], torch.zeros_like(wanted[0])), images)
    torch.testing.assert_close(gradient, expected)
    assert gradient.abs().max() > 0


def test_they_are_those_of_a_fused_frozen_copy_and_its_state_brings_them_back():
    network, images = span().float(), torch.rand(1, 3, 8, 8)
    features = TeacherFeatures(network, ["conv_1", "block_1"])
    wanted = features(images)
    with torch.no_grad():
        torch._foreach_mul_(list(network.parameters()), 2.0)
    assert all(torch.equal(one, two) for one, two in zip(wanted, features(images), strict=True))
    assert not any(feature.requires_grad for feature in wanted)
    assert not any(".sk." in name for name in features.state())
    other = TeacherFeatures(network, ["conv_1", "block_1"])
    assert not torch.equal(other(images)[0], wanted[0])
    other.load_state(features.state())
    assert all(torch.equal(one, two) for one, two in zip(other(images), wanted, strict=True))


def test_by_default_the_first_three_convolutions(edsr):
    assert TeacherFeatures(edsr).layers == ("conv_first", "body.0.conv1", "body.0.conv2")
    with pytest.raises(DscsrError, match="Expected convolutions in Linear, but got none"):
        TeacherFeatures(torch.nn.Linear(2, 2))


def test_nothing_behind_the_last_layer_runs_or_is_kept(edsr):
    ran = []
    features = TeacherFeatures(edsr, ["body.0"])
    features._network.conv_last.register_forward_hook(lambda *_: ran.append(True))
    assert features.state().keys() >= dict(edsr.named_parameters()).keys()
    features(torch.rand(1, 3, 8, 8))
    assert not ran
    kept = features.state().keys()
    assert {name.split(".")[0] for name in kept} - {"mean"} == {"conv_first", "body"}
    assert not any(name.startswith("body.1") for name in kept)


def test_the_state_of_another_network_is_refused_and_nothing_changes(edsr):
    features = TeacherFeatures(edsr)
    before = features.state()
    with pytest.raises(DscsrError, match=r"the first layers that this run began with, but got others, such as 'x'"):
        features.load_state({"conv_first.weight": torch.zeros(8, 3, 3, 3), "x": torch.zeros(1)})
    assert all(torch.equal(tensor, before[name]) for name, tensor in features.state().items())

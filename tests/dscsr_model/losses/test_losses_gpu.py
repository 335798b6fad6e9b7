"""Losses on a GPU give the values and gradients of the CPU; on a pretended one nothing is made elsewhere or read."""

import pytest
import torch
from fake_gpu import fake_gpu

from dscsr_model.losses.attention_transfer_loss import AttentionTransferLoss
from dscsr_model.losses.contrastive_loss import ContrastiveLoss
from dscsr_model.losses.frequency_loss import FrequencyLoss
from dscsr_model.losses.functional import contrastive, spatial_affinity
from dscsr_model.losses.spatial_affinity_loss import SpatialAffinityLoss

IMAGE, FEATURES, NARROW = (4, 3, 17, 18), (4, 6, 9, 7), (4, 5, 9, 7)


def _contrast(**settings):
    loss = ContrastiveLoss(num_negatives=3, features="teacher", **settings)

    def compare(student, teacher):
        negatives, sources = loss.draw_negatives(teacher[:, :, :8, :7], teacher.shape[2:])
        return loss.compare([student], [teacher], [negatives], sources)

    return compare


LOSSES = {
    "affinity": (SpatialAffinityLoss, FEATURES, NARROW),
    "affinity pooled": (lambda: SpatialAffinityLoss(pool=2, normalize=False), FEATURES, NARROW),
    "attention": (AttentionTransferLoss, FEATURES, NARROW),
    "frequency": (FrequencyLoss, IMAGE, IMAGE),
    "contrast": (lambda: _contrast(exclude_self=True), IMAGE, IMAGE),
    "contrast by cosine": (lambda: _contrast(exclude_self=True, distance="cosine"), IMAGE, IMAGE),
    "contrast of VGG-19": (lambda: _vgg(), IMAGE, IMAGE),
}


def _vgg():
    loss = ContrastiveLoss(num_negatives=2, vgg_weights="random")

    def compare(student, teacher):
        placed = loss.to(student.device, student.dtype)
        return placed(student, teacher, *placed.draw_negatives(teacher, teacher.shape[2:]))

    return compare


def value_and_gradient(loss, student, teacher):
    torch.manual_seed(0)
    student = student.clone().requires_grad_()
    value = loss(student, teacher)
    return [tensor.detach().cpu().double() for tensor in (value, *torch.autograd.grad(value, student))]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-3)], ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_are_those_of_the_cpu(device, name, dtype, tolerance):
    make, *shapes = LOSSES[name]
    inputs = [torch.rand(shape, dtype=torch.float64) for shape in shapes]
    expected = value_and_gradient(make(), *inputs)
    got = value_and_gradient(make(), *(each.to(device, dtype) for each in inputs))
    for one, other in zip(got, expected, strict=True):
        assert (one - other).norm() <= tolerance * other.norm()


@pytest.mark.parametrize("name", LOSSES)
def test_on_a_pretended_gpu_nothing_is_made_elsewhere_or_read(name):
    make, *shapes = LOSSES[name]
    with fake_gpu() as gpu:
        student, teacher = (torch.rand(shape, device=gpu, requires_grad=True) for shape in shapes)
        assert make()(student, teacher).device == gpu


@pytest.mark.parametrize("name", ["affinity", "contrast"])
def test_tiles_as_large_as_on_a_gpu_give_the_same(monkeypatch, name):
    make, *shapes = LOSSES[name]
    inputs = [torch.rand(shape, dtype=torch.float64) for shape in shapes]
    expected = value_and_gradient(make(), *inputs)
    monkeypatch.setattr(spatial_affinity, "_TILE_ON_CPU", spatial_affinity._TILE_ELSEWHERE)
    monkeypatch.setattr(contrastive, "_ELEMENTS_ON_CPU", contrastive._ELEMENTS_ELSEWHERE)
    torch.testing.assert_close(value_and_gradient(make(), *inputs), expected)

"""Spatial affinity in tiles against the N×N matrices, written out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from dscsr_model.losses.functional import spatial_affinity, spatial_affinity_loss


def with_matrices(
    student: Tensor, teacher: Tensor, *, normalize: bool = True, reduction: str = "mean", pool: int = 1
) -> Tensor:
    """The formula with its matrices."""
    affinities = []
    for feature in (student, teacher):
        vectors = F.avg_pool2d(feature, pool).flatten(2)
        vectors = F.normalize(vectors, dim=1) if normalize else vectors
        affinities.append(vectors.mT @ vectors)
    distance = (affinities[0] - affinities[1]).abs()
    return distance.mean() if reduction == "mean" else distance.sum()


def features(batch: int, height: int, width: int, channels: tuple[int, int] = (5, 7)) -> list[Tensor]:
    return [torch.randn(batch, c, height, width, dtype=torch.float64) for c in channels]


def differentiated(function, student: Tensor, teacher: Tensor, **arguments) -> tuple[Tensor, Tensor]:
    student = student.clone().requires_grad_()
    value = function(student, teacher, **arguments)
    (gradient,) = torch.autograd.grad(value, student)
    return value.detach(), gradient


def assert_equal(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> None:
    for a, b in zip(one, other, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= 1e-10 * b.abs().max().clamp_min(1)


# Tiles of the smallest size make several of them, groups of samples and odd ends out of features of a test's size.
@settings(max_examples=60)
@given(
    batch=st.integers(1, 4),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    block=st.integers(1, 90),
    tile=st.sampled_from([1, 50, 200, 2**20]),
    normalize=st.booleans(),
    reduction=st.sampled_from(["mean", "sum"]),
    pool=st.integers(1, 3),
)
def test_value_and_gradient_equal_the_matrices(batch, height, width, channels, block, tile, **arguments):
    arguments["pool"] = min(arguments["pool"], height, width)
    pair = features(batch, height, width, channels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spatial_affinity, "_TILE_ON_CPU", tile)
        patch.setattr(spatial_affinity, "_BLOCK", block)
        ours = differentiated(spatial_affinity_loss, *pair, **arguments)
    assert_equal(ours, differentiated(with_matrices, *pair, **arguments))


def test_gradcheck_also_of_a_teacher_that_wants_a_gradient(monkeypatch):
    monkeypatch.setattr(spatial_affinity, "_BLOCK", 5)
    student, teacher = (feature.requires_grad_() for feature in features(2, 3, 4, (3, 4)))
    assert torch.autograd.gradcheck(spatial_affinity_loss, (student, teacher))
    assert torch.autograd.gradcheck(lambda t: spatial_affinity_loss(student.detach(), t), teacher)


def test_a_second_differentiation_is_refused():
    student, teacher = features(1, 3, 3)
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(spatial_affinity_loss(student, teacher), student, create_graph=True)
    with pytest.raises(RuntimeError, match=r"Expected SpatialAffinityLoss to be differentiated once.*create_graph"):
        gradient.square().sum().backward()


def test_positions_without_a_length_give_numbers(monkeypatch):
    monkeypatch.setattr(spatial_affinity, "_BLOCK", 7)
    student, teacher = features(2, 4, 5)
    student[:, :, 1, 2] = teacher[:, :, 1, 2] = teacher[:, :, 3, 3] = 0
    ours = differentiated(spatial_affinity_loss, student, teacher)
    assert all(values.isfinite().all() for values in ours)
    assert_equal(ours, differentiated(with_matrices, student, teacher))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    student, teacher = (feature.to(dtype).to(memory_format=torch.channels_last) for feature in features(2, 9, 9))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, gradient = differentiated(spatial_affinity_loss, student, teacher)
    expected = differentiated(spatial_affinity_loss, student.float(), teacher.float())
    assert (value.dtype, gradient.dtype) == (torch.float32, dtype)
    assert torch.equal(value, expected[0])
    assert torch.equal(gradient, expected[1].to(dtype))


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        ((2, 3, 4), (2, 3, 4), r"Expected features \(B, C, H, W\) .*, but got \(2, 3, 4\)"),
        ((2, 3, 4, 4), (2, 3, 4, 5), r"agree in batch, height and width, but got .*4, 4\) and \(2, 3, 4, 5\)"),
        ((2, 3, 4, 4), (1, 3, 4, 4), "agree in batch"),
        ((0, 3, 4, 4), (0, 3, 4, 4), "that are not empty"),
        ((2, 3, 1, 4), (2, 3, 1, 4), r"Expected features of at least 2×2 \(`pool`\), but got .* Pool less"),
    ],
)
def test_features_that_cannot_be_compared(student, teacher, message):
    with pytest.raises(ValueError, match=message):
        spatial_affinity_loss(torch.rand(student), torch.rand(teacher), pool=2)

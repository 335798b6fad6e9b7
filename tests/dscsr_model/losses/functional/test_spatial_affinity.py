"""Spatial affinity in tiles against the N×N matrices, written out."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from dscsr_model.losses.functional import spatial_affinity, spatial_affinity_loss


def plain(
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


def assert_equal(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], tolerance: float = 1e-10) -> None:
    for a, b in zip(one, other, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= tolerance * b.abs().max().clamp_min(1)


# Tiles of the smallest size make several of them, groups of samples and odd ends out of features of a test's size.
@pytest.mark.parametrize("tile", [1, 200, 2**20])
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize(("height", "width", "block"), [(7, 9, 16), (7, 9, 63), (7, 9, 1000), (8, 8, 16), (1, 1, 4)])
def test_value_and_gradient_equal_the_matrices(monkeypatch, tile, batch, height, width, block):
    monkeypatch.setattr(spatial_affinity, "_TILE_ON_CPU", tile)
    pair = features(batch, height, width)
    ours = differentiated(spatial_affinity_loss, *pair, block=block)
    assert_equal(ours, differentiated(plain, *pair))
    assert height * width == 1 or ours[0] > 0.1


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("pool", [1, 2, 3])
def test_every_argument(normalize, reduction, pool):
    student, teacher = features(2, 9, 11, (6, 3))
    arguments = {"normalize": normalize, "reduction": reduction, "pool": pool}
    ours = differentiated(spatial_affinity_loss, student, teacher, **arguments)
    assert_equal(ours, differentiated(plain, student, teacher, **arguments))


def test_the_arguments_change_the_loss():
    pair = features(2, 9, 11)
    arguments = ({}, {"normalize": False}, {"reduction": "sum"}, {"pool": 3})
    values = [spatial_affinity_loss(*pair, **a).item() for a in arguments]
    assert all(abs(a - b) > 1e-3 for a, b in itertools.combinations(values, 2))


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.integers(1, 40), st.integers(1, 600),
)  # fmt: skip
def test_any_shape_any_block(batch, height, width, channels, block, tile):
    torch.manual_seed(height * width)
    pair = features(batch, height, width, channels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spatial_affinity, "_TILE_ON_CPU", tile)
        ours = differentiated(spatial_affinity_loss, *pair, block=block, normalize=False)
    assert_equal(ours, differentiated(plain, *pair, normalize=False))


def test_gradcheck():
    student, teacher = features(2, 3, 4, (3, 4))
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: spatial_affinity_loss(s, teacher, block=5), student)
    assert torch.autograd.gradcheck(lambda s: spatial_affinity_loss(s, teacher, reduction="sum", pool=2), student)


def test_a_teacher_that_wants_a_gradient_gets_it():
    student, teacher = (feature.requires_grad_() for feature in features(2, 3, 4, (3, 4)))
    assert torch.autograd.gradcheck(lambda s, t: spatial_affinity_loss(s, t, block=5), (student, teacher))
    assert torch.autograd.gradcheck(lambda t: spatial_affinity_loss(student.detach(), t, block=5), teacher)


def test_a_second_differentiation_is_refused():
    student, teacher = features(1, 3, 3)
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(spatial_affinity_loss(student, teacher), student, create_graph=True)
    with pytest.raises(RuntimeError, match="Expected SpatialAffinityLoss to be differentiated once"):
        gradient.square().sum().backward()


def test_equal_features_are_at_no_distance_whatever_their_channels_are_called():
    student, _ = features(2, 5, 5)
    turned = student[:, torch.randperm(5)]
    assert spatial_affinity_loss(student, turned).item() == pytest.approx(0, abs=1e-14)
    assert spatial_affinity_loss(student, 3 * student).item() == pytest.approx(0, abs=1e-14)
    assert spatial_affinity_loss(student, 3 * student, normalize=False) > 1


def test_positions_without_a_length_give_numbers():
    student, teacher = features(2, 4, 5)
    student[:, :, 1, 2] = teacher[:, :, 1, 2] = teacher[:, :, 3, 3] = 0
    ours = differentiated(spatial_affinity_loss, student, teacher, block=7)
    assert all(part.isfinite().all() for part in ours)
    assert_equal(ours, differentiated(plain, student, teacher))
    zero = torch.zeros(1, 3, 2, 2)
    assert torch.equal(differentiated(spatial_affinity_loss, zero, zero)[1], zero)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    student, teacher = (feature.to(dtype) for feature in features(2, 9, 9))
    value, gradient = differentiated(spatial_affinity_loss, student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = differentiated(spatial_affinity_loss, student, teacher)
    expected = differentiated(spatial_affinity_loss, student.float(), teacher.float())
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    assert torch.equal(value, expected[0])
    assert torch.equal(gradient, expected[1].to(dtype))
    assert torch.equal(under_autocast[0], value)
    assert torch.equal(under_autocast[1], gradient)


def test_without_a_gradient_nothing_of_one_is_computed(monkeypatch):
    student, teacher = features(1, 5, 5)
    seen = []
    original = spatial_affinity._tiled_distance

    def spy(left, right, factor, block):
        seen.append(factor.shape[1])
        return original(left, right, factor, block)

    monkeypatch.setattr(spatial_affinity, "_tiled_distance", spy)
    with torch.no_grad():
        value = spatial_affinity_loss(student.requires_grad_(), teacher)
    assert not value.requires_grad
    assert_equal((value,), (plain(student.detach(), teacher),))
    spatial_affinity_loss(student, teacher)
    assert seen == [0, 5]


def test_channels_last_features():
    pair = [feature.to(memory_format=torch.channels_last) for feature in features(2, 5, 6)]
    assert_equal(differentiated(spatial_affinity_loss, *pair), differentiated(plain, *pair))


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        ((2, 3, 4), (2, 3, 4), r"Expected features of shape \(B, C, H, W\), but got \(2, 3, 4\)"),
        ((2, 3, 4, 4), (2, 3, 4, 5), r"agree in batch, height and width, but got .*4, 4\) and \(2, 3, 4, 5\)"),
        ((2, 3, 4, 4), (1, 3, 4, 4), "agree in batch"),
        ((0, 3, 4, 4), (0, 3, 4, 4), "Expected features that are not empty"),
        ((2, 3, 1, 4), (2, 3, 1, 4), r"Expected features of at least 2×2 \(`pool`\), but got .* Pool less"),
    ],
)
def test_features_that_cannot_be_compared(student, teacher, message):
    with pytest.raises(ValueError, match=message):
        spatial_affinity_loss(torch.rand(student), torch.rand(teacher), pool=2)


def test_features_must_be_floating_point():
    with pytest.raises(ValueError, match=r"Expected floating-point features, but got torch\.uint8 and torch\.float32"):
        spatial_affinity_loss(torch.ones(1, 1, 2, 2, dtype=torch.uint8), torch.rand(1, 1, 2, 2))


def test_a_wrong_block():
    with pytest.raises(ValueError, match="Expected `block` to be a whole number of at least 1, but got 0"):
        spatial_affinity_loss(torch.rand(1, 1, 2, 2), torch.rand(1, 1, 2, 2), block=0)

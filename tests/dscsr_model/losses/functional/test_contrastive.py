"""The contrastive loss against all pairs, written out."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dscsr_model.losses.functional import contrastive, contrastive_loss

SHAPES = ((3, 8, 8), (5, 4, 4), (7, 2, 2))
WEIGHTS = (0.1, 0.5, 1.0)


def features(count: int) -> list[Tensor]:
    return [torch.randn(count, *shape, dtype=torch.float64) for shape in SHAPES]


def distances(student: Tensor, others: Tensor, distance: str) -> Tensor:
    """(K, B) between every pair of a sample and another."""
    if distance == "l1":
        return (others[:, None] - student[None]).abs().flatten(2).mean(2)
    return 1 - F.cosine_similarity(others.flatten(1)[:, None], student.flatten(1)[None], dim=2)


def all_pairs(student, teacher, negatives, *, layer_weights=WEIGHTS, sources=None, distance="l1") -> Tensor:
    """The formula, with every pair of a sample and a negative put beside each other."""
    loss = torch.zeros((), dtype=student[0].dtype)
    for weight, s, t, n in zip(layer_weights, student, teacher, negatives, strict=True):
        near, far = distances(s, t, distance).diagonal().mean(), distances(s, n, distance)
        met = torch.ones_like(far)
        if sources is not None:
            met[range(len(n)), list(sources)] = 0
        loss = loss + weight * near / (((far * met).sum(1) / met.sum(1)).sum() + 1e-7)
    return loss


def differentiated(function, student, teacher, negatives, **arguments) -> list[Tensor]:
    """The value and the gradient of each layer."""
    student = [feature.clone().requires_grad_() for feature in student]
    value = function(student, teacher, negatives, **arguments)
    return [value.detach(), *torch.autograd.grad(value, student)]


def ours(*images, **arguments) -> Tensor:
    return contrastive_loss(*images, layer_weights=WEIGHTS, **arguments)


def assert_equal(one, other) -> None:
    for a, b in zip(one, other, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= 1e-10 * b.abs().max()


@pytest.mark.parametrize("number", [1, 4, 10])
@pytest.mark.parametrize("batch", [1, 2, 8])
@pytest.mark.parametrize("elements", [1, 100, 2**20])  # compared at a time
def test_value_and_gradient_equal_all_pairs(monkeypatch, number, batch, elements):
    monkeypatch.setattr(contrastive, "_ELEMENTS_ON_CPU", elements)
    given = features(batch), features(batch), features(number)
    assert_equal(differentiated(ours, *given), differentiated(all_pairs, *given))


@pytest.mark.parametrize("sources", [None, [0, 1, 2, 0], [2, 2, 2, 2]])
@pytest.mark.parametrize("distance", ["l1", "cosine"])
def test_either_distance_with_and_without_the_own_sample(sources, distance):
    given = features(3), features(3), features(4)
    result = differentiated(ours, *given, sources=sources, distance=distance)
    assert_equal(result, differentiated(all_pairs, *given, sources=sources, distance=distance))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("distance", ["l1", "cosine"])
def test_half_precision_is_computed_in_float32(dtype, distance):
    given = [[f.to(dtype) for f in features(n)] for n in (2, 2, 3)]
    under_autocast = torch.autocast("cpu", dtype=torch.bfloat16)(ours)
    value, *gradients = differentiated(under_autocast, *given, distance=distance)
    in_float32 = [[f.float() for f in layers] for layers in given]
    expected, *expected_gradients = differentiated(ours, *in_float32, distance=distance)
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        assert torch.equal(gradient, wanted.to(dtype))


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, {"layer_weights": (1, 1)}, "got 3, 3, 3 layers and 2 `layer_weights`"),
        ({"teacher": features(2)[:2]}, {}, "Expected the same layers of .* but got 3, 2, 3 layers"),
        ({"teacher": features(1)}, {}, r"but got \(2, 3, 8, 8\), \(1, 3, 8, 8\) and \(4, 3, 8, 8\) in layer 0"),
        ({"negatives": features(0)}, {}, r"but got .* and \(0, 3, 8, 8\) in layer 0"),
        ({"negatives": [torch.rand(4, 3, 6, 6)] * 3}, {}, r"and \(4, 3, 6, 6\) in layer 0\. Give images of one size"),
        ({"student": features(1), "teacher": features(1)}, {"sources": [0] * 4}, "another sample .* a batch of one"),
    ],
)
def test_what_does_not_belong_together(change, arguments, message):
    given = {"student": features(2), "teacher": features(2), "negatives": features(4), **change}
    with pytest.raises(ValueError, match=message):
        contrastive_loss(**given, **{"layer_weights": WEIGHTS, **arguments})

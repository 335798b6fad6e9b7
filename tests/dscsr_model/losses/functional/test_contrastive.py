"""The contrastive loss against all pairs, written out."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dscsr_model.losses.functional import contrastive, contrastive_loss

SHAPES = ((3, 8, 8), (5, 4, 4), (7, 2, 2))
WEIGHTS = (0.1, 0.5, 1.0)


def features(count: int, dtype=torch.float64) -> list[Tensor]:
    return [torch.randn(count, *shape, dtype=dtype) for shape in SHAPES]


def all_pairs(student, teacher, negatives, *, layer_weights=WEIGHTS, sources=None) -> Tensor:
    """The formula, with every pair of a sample and a negative put beside each other."""
    loss = torch.zeros((), dtype=student[0].dtype)
    for weight, s, t, n in zip(layer_weights, student, teacher, negatives, strict=True):
        pairs = (n[:, None] - s[None]).abs().flatten(2).mean(2)  # (K, B)
        met = torch.ones_like(pairs)
        if sources is not None:
            met[range(len(n)), list(sources)] = 0
        far = ((pairs * met).sum(1) / met.sum(1)).sum()
        loss = loss + weight * (t - s).abs().mean() / (far + 1e-7)
    return loss


def all_pairs_cosine(student, teacher, negatives, *, layer_weights=WEIGHTS, sources=None) -> Tensor:
    loss = torch.zeros((), dtype=student[0].dtype)
    for weight, s, t, n in zip(layer_weights, student, teacher, negatives, strict=True):
        s, t, n = (part.flatten(1) for part in (s, t, n))
        near = torch.stack([1 - F.cosine_similarity(s[b], t[b], dim=0) for b in range(len(s))]).mean()
        far = 0
        for k in range(len(n)):
            others = [b for b in range(len(s)) if sources is None or b != sources[k]]
            far += torch.stack([1 - F.cosine_similarity(s[b], n[k], dim=0) for b in others]).mean()
        loss = loss + weight * near / (far + 1e-7)
    return loss


def differentiated(function, student, teacher, negatives, **arguments) -> list[Tensor]:
    """The value and the gradient of each layer."""
    student = [feature.clone().requires_grad_() for feature in student]
    value = function(student, teacher, negatives, **arguments)
    return [value.detach(), *torch.autograd.grad(value, student)]


def ours(*parts, **arguments) -> Tensor:
    return contrastive_loss(*parts, layer_weights=WEIGHTS, **arguments)


def assert_equal(one, other, tolerance=1e-10) -> None:
    for a, b in zip(one, other, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= tolerance * b.abs().max()


@pytest.mark.parametrize("number", [1, 4, 10])
@pytest.mark.parametrize("batch", [1, 2, 8])
@pytest.mark.parametrize("elements", [1, 100, 2**20])
def test_value_and_gradient_equal_all_pairs(monkeypatch, number, batch, elements):
    monkeypatch.setattr(contrastive, "_ELEMENTS_ON_CPU", elements)
    parts = features(batch), features(batch), features(number)
    assert_equal(differentiated(ours, *parts), differentiated(all_pairs, *parts))


@pytest.mark.parametrize("sources", [[0, 1, 2, 0], [2, 2, 2, 2]])
@pytest.mark.parametrize(("distance", "plain"), [("l1", all_pairs), ("cosine", all_pairs_cosine)])
def test_a_negative_may_leave_its_own_sample_out(sources, distance, plain):
    parts = features(3), features(3), features(4)
    result = differentiated(ours, *parts, sources=sources, distance=distance)
    assert_equal(result, differentiated(plain, *parts, sources=sources))
    assert result[0] != ours(*parts, distance=distance)


def test_cosine():
    parts = features(3), features(3), features(4)
    assert_equal(differentiated(ours, *parts, distance="cosine"), differentiated(all_pairs_cosine, *parts))


@pytest.mark.parametrize("distance", ["l1", "cosine"])
def test_gradcheck(distance):
    student, teacher, negatives = (torch.randn(n, 2, 3, 3, dtype=torch.float64) for n in (2, 2, 3))

    def loss(s):
        return contrastive_loss([s], [teacher], [negatives], layer_weights=[2.0], distance=distance, sources=[0, 1, 1])

    assert torch.autograd.gradcheck(loss, student.requires_grad_())


def test_teacher_and_negatives_get_no_gradient():
    student, teacher, negatives = ([f.requires_grad_() for f in features(n)] for n in (2, 2, 3))
    for distance in contrastive.DISTANCES:
        ours(student, teacher, negatives, distance=distance).backward()
    assert all(feature.grad is not None for feature in student)
    assert all(feature.grad is None for feature in (*teacher, *negatives))


def test_a_student_at_its_teacher_has_no_loss_and_one_at_a_negative_a_large_one():
    teacher, negatives = features(2), features(1)
    at_negative = [n.expand_as(t) for n, t in zip(negatives, teacher, strict=True)]
    for distance in contrastive.DISTANCES:
        assert ours(teacher, teacher, negatives, distance=distance).item() == pytest.approx(0, abs=1e-12)
        assert ours(at_negative, teacher, negatives, distance=distance) > 1e5  # divided by 1e-7
    nothing = differentiated(ours, teacher, teacher, [n[:0].new_zeros(1, *n.shape[1:]) for n in negatives])
    assert all(part.isfinite().all() for part in nothing)


def test_order_in_memory_does_not_matter():
    parts = features(2), features(2), features(3)
    turned = [[f.to(memory_format=torch.channels_last) for f in part] for part in parts]
    expected = differentiated(ours, *parts)
    assert_equal(differentiated(ours, *turned), expected)
    assert_equal(differentiated(ours, turned[0], parts[1], turned[2]), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("distance", ["l1", "cosine"])
def test_half_precision_is_computed_in_float32(dtype, distance):
    parts = [[f.to(dtype) for f in features(n)] for n in (2, 2, 3)]

    def under_autocast(*features, **arguments):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return ours(*features, **arguments)

    value, *gradients = differentiated(under_autocast, *parts, distance=distance)
    in_float32 = [[f.float() for f in part] for part in parts]
    expected, *expected_gradients = differentiated(ours, *in_float32, distance=distance)
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        assert torch.equal(gradient, wanted.to(dtype))


def test_without_a_gradient_it_is_the_value_alone():
    parts = [f.requires_grad_() for f in features(2)], features(2), features(3)
    with torch.no_grad():
        value = ours(*parts)
    assert not value.requires_grad
    assert_equal([value], [all_pairs(*parts).detach()])


def test_a_second_differentiation_is_refused():
    student = [f.requires_grad_() for f in features(2)]
    (gradient, *_) = torch.autograd.grad(ours(student, features(2), features(3)), student, create_graph=True)
    with pytest.raises(RuntimeError, match="Expected ContrastiveLoss to be differentiated once"):
        gradient.square().sum().backward()


def test_every_argument_changes_the_loss():
    parts = features(3), features(3), features(3)
    values = [ours(*parts), ours(*parts, distance="cosine"), ours(*parts, sources=[0, 1, 2])]
    values.append(contrastive_loss(*parts, layer_weights=(1, 1, 1)))
    assert all(abs(a - b) > 1e-4 for a, b in itertools.combinations(values, 2))


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, {"distance": "l2"}, r"Expected `distance` to be one of \('l1', 'cosine'\), but got 'l2'"),
        ({}, {"layer_weights": (1, 1)}, "got 3, 3, 3 layers and 2 `layer_weights`"),
        ({"teacher": features(2)[:2]}, {}, "Expected the same layers of .* but got 3, 2, 3 layers"),
        ({"teacher": features(1)}, {}, r"but got \(2, 3, 8, 8\), \(1, 3, 8, 8\) and \(4, 3, 8, 8\) in layer 0"),
        ({"negatives": features(0)}, {}, r"but got .* and \(0, 3, 8, 8\) in layer 0"),
        ({"negatives": [torch.rand(4, 3, 6, 6)] * 3}, {}, r"and \(4, 3, 6, 6\) in layer 0\. Give images of one size"),
        ({}, {"sources": [0, 1]}, r"index of a sample, 0 to 1, for each of 4 negatives, but got .* \[0, 1\]"),
        ({}, {"sources": [0, 1, 2, 0]}, r"0 to 1, for each of 4 negatives, but got the `sources` \[0, 1, 2, 0\]"),
    ],
)
def test_what_does_not_belong_together(change, arguments, message):
    parts = {"student": features(2), "teacher": features(2), "negatives": features(4), **change}
    with pytest.raises(ValueError, match=message):
        contrastive_loss(**parts, **{"layer_weights": WEIGHTS, **arguments})


def test_a_batch_of_one_cannot_leave_itself_out():
    with pytest.raises(ValueError, match=r"Expected another sample .* but got a batch of one"):
        ours(features(1), features(1), features(2), sources=[0, 0])

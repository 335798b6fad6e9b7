"""ContrastiveLoss, the class that option files name; its maths is tested in functional/."""

import pytest
import torch
from torch.nn import functional as F

import dscsr_model
from dscsr_model.losses.contrastive_loss import ContrastiveLoss
from dscsr_model.losses.functional import contrastive_loss


@pytest.fixture(scope="module")
def loss() -> ContrastiveLoss:
    dscsr_model.register()
    from basicsr.losses import build_loss

    section = {"type": "ContrastiveLoss", "num_negatives": 2, "exclude_self": True, "vgg_weights": "random"}
    return build_loss({**section, "loss_weight": 200}).double()


def images() -> list[torch.Tensor]:
    """Of student and teacher, and two negatives."""
    return [torch.rand(n, 3, 16, 16, dtype=torch.float64).requires_grad_() for n in (3, 3, 2)]


def test_it_equals_the_published_formula_on_vgg_features_for_the_student_alone(loss):
    student, teacher, negatives = images()
    value = loss(student, teacher, negatives, sources=[2, 0])
    value.backward()
    assert teacher.grad is None
    assert negatives.grad is None
    expected = 0
    layers = zip((1 / 32, 1 / 16, 1 / 8, 1 / 4, 1), *map(loss.vgg, (student, teacher, negatives)), strict=True)
    for weight, s, t, n in layers:
        far = sum((n[k] - s[b]).abs().mean() / 2 for k, own in ((0, 2), (1, 0)) for b in range(3) if b != own)
        expected = expected + 200 * weight * (t.detach() - s).abs().mean() / (far + 1e-7)
    assert value.item() == pytest.approx(expected.item(), rel=1e-10)
    (wanted,) = torch.autograd.grad(expected, student)
    assert (student.grad - wanted).abs().max() <= 1e-10 * wanted.abs().max()
    assert student.grad.abs().max() > 0


def test_vgg_runs_once_for_every_image_and_keeps_a_graph_of_the_students_only(loss):
    runs = []
    hook = loss.vgg.register_forward_pre_hook(lambda _, given: runs.append((len(given[0]), torch.is_grad_enabled())))
    loss(*images(), sources=[0, 1])
    hook.remove()
    assert sorted(runs) == [(2, False), (3, False), (3, True)]


def test_negatives_are_different_images_of_the_batch_enlarged(loss):
    lq = torch.rand(5, 3, 8, 8, requires_grad=True)
    chosen = [loss.draw_negatives(lq, (16, 24)) for _ in range(20)]
    assert {source for _, sources in chosen for source in sources} == set(range(5))
    for negatives, sources in chosen:
        assert len(set(sources)) == 2
        assert not negatives.requires_grad
        expected = F.interpolate(lq[sources], (16, 24), mode="bicubic", align_corners=False)
        assert torch.equal(negatives, expected.detach())
    with pytest.raises(ValueError, match=r"Expected a batch of at least 2 \(`num_negatives`\), but got 1\. Take"):
        loss.draw_negatives(lq[:1], (16, 16))


def test_features_of_the_teacher_need_no_vgg_and_any_number_of_layers():
    loss = ContrastiveLoss(loss_weight=3, features="teacher", vgg_weights="/nowhere")
    assert not list(loss.parameters())
    student, teacher, negatives = ([torch.rand(n, 2, 4, 4), torch.rand(n, 5)] for n in (2, 2, 4))
    value = loss.compare(student, teacher, negatives)
    assert value == 3 * contrastive_loss(student, teacher, negatives, layer_weights=(1, 1))
    with pytest.raises(ValueError, match="Expected `features: vgg19` to compare images, but got `features: teacher`"):
        loss(*images())


def test_leaving_the_own_sample_out_needs_to_know_it():
    loss = ContrastiveLoss(features="teacher", exclude_self=True)
    given = [[torch.rand(2, 2, 4, 4)] for _ in range(3)]
    with pytest.raises(ValueError, match="Expected `sources` of the negatives, as `exclude_self: true`, but got None"):
        loss.compare(*given)
    assert loss.compare(*given, sources=[0, 1]) != ContrastiveLoss(features="teacher").compare(*given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer_weights": "1"}, "Expected `layer_weights` to be a list of numbers, but got '1'"),
        ({"input_range": float("inf"), "imagenet_norm": False}, "Expected `input_range` to be a number above 0, but"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ContrastiveLoss(vgg_weights="random", **arguments)

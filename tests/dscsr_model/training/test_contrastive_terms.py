"""All students beside one teacher and the same negatives."""

import torch

from dscsr_model.losses.contrastive_loss import ContrastiveLoss
from dscsr_model.training.contrastive_terms import contrastive_terms


def test_it_is_the_loss_of_each_student_with_the_same_negatives():
    loss = ContrastiveLoss(3.0, num_negatives=2, exclude_self=True, vgg_weights="random")
    lq, teacher, *outputs = torch.rand(3, 3, 8, 8), *torch.rand(3, 3, 3, 16, 16).requires_grad_()
    students = dict(zip((0.25, 0.5), outputs, strict=True))
    sizes = []
    loss.vgg.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    torch.manual_seed(3)
    found = contrastive_terms(loss, loss.vgg, students, teacher.detach(), lq)
    assert sizes == [3 + 2, 3, 3]  # teacher and negatives once, whatever the number of students
    torch.manual_seed(3)
    negatives, sources = loss.draw_negatives(lq, (16, 16))
    for width, output in students.items():
        torch.testing.assert_close(found[width], loss(output, teacher, negatives, sources))
    assert found[0.25] != found[0.5]

"""Losses that option files name: their arguments reach the maths, which is tested in functional/."""

import pytest
import torch

import dscsr_model
from dscsr_model.losses.functional import attention_transfer_loss, frequency_loss, spatial_affinity_loss


@pytest.mark.parametrize(
    ("name", "maths", "arguments"),
    [
        ("AttentionTransferLoss", attention_transfer_loss, {"power": 3, "distance": "norm"}),
        ("FrequencyLoss", frequency_loss, {"norm": "ortho", "reduction": "sum"}),
        ("SpatialAffinityLoss", spatial_affinity_loss, {"normalize": False, "reduction": "sum", "pool": 2}),
    ],
)
def test_arguments_reach_the_maths(name, maths, arguments):
    dscsr_model.register()
    from basicsr.losses import build_loss

    student, teacher = torch.rand(2, 3, 6, 6, requires_grad=True), torch.rand(2, 3, 6, 6)
    value = build_loss({"type": name, "loss_weight": 2.5, **arguments})(student, teacher)
    assert value.item() == pytest.approx(2.5 * maths(student, teacher, **arguments).item())
    assert build_loss({"type": name})(student, teacher) == maths(student, teacher)
    value.backward()
    assert student.grad.abs().sum() > 0

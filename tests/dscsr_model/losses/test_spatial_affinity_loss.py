"""SpatialAffinityLoss, the class that option files name; its maths is tested in functional/."""

import pytest
import torch

import dscsr_model
from dscsr_model.losses.functional import spatial_affinity_loss
from dscsr_model.losses.spatial_affinity_loss import SpatialAffinityLoss


def test_an_option_file_names_it_and_its_arguments_reach_the_maths():
    dscsr_model.register()
    from basicsr.losses import build_loss

    student, teacher = torch.rand(2, 3, 6, 6, requires_grad=True), torch.rand(2, 4, 6, 6)
    arguments = {"normalize": False, "reduction": "sum", "pool": 2}
    loss = build_loss({"type": "SpatialAffinityLoss", "loss_weight": 2.5, **arguments})(student, teacher)
    assert loss.item() == pytest.approx(2.5 * spatial_affinity_loss(student, teacher, **arguments).item())
    assert SpatialAffinityLoss()(student, teacher) == spatial_affinity_loss(student, teacher)
    loss.backward()
    assert student.grad.abs().sum() > 0


def test_a_reduction_that_is_none():
    """Wrong values of the others: host/options/test_losses.py."""
    with pytest.raises(ValueError, match=r"Expected `reduction` to be one of \('mean', 'sum'\), but got 'none'"):
        SpatialAffinityLoss(reduction="none")

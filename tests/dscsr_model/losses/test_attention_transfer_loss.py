"""AttentionTransferLoss, the class that option files name; its maths is tested in functional/."""

import pytest
import torch

import dscsr_model
from dscsr_model.losses.functional import attention_transfer_loss


def test_an_option_file_names_it_and_its_arguments_reach_the_maths():
    dscsr_model.register()
    from basicsr.losses import build_loss

    student, teacher = torch.rand(2, 3, 6, 6), torch.rand(2, 4, 6, 6)
    arguments = {"power": 3, "distance": "norm"}
    loss = build_loss({"type": "AttentionTransferLoss", "loss_weight": 2.5, **arguments})(student, teacher)
    assert loss.item() == pytest.approx(2.5 * attention_transfer_loss(student, teacher, **arguments).item())

"""Losses as the option file has them, and their terms as the log has them."""

import pytest
import torch

from dscsr_arch.errors import DscsrError
from dscsr_model.training.loss_sections import loss_sections, named


def test_sections_that_are_asked_for():
    section = {"type": "L1Loss"}
    assert loss_sections({"pixel_opt": section, "x_opt": None, "optim_g": {"type": "Adam"}}) == {"pixel": section}


def test_terms_of_a_loss_are_named():
    one, two = torch.tensor(1.0), torch.tensor(2.0)
    assert named("pixel", one) == {"l_pix": one}  # SRModel's names, where it has one
    assert named("pixel", one, "_0.5") == {"l_pix_0.5": one}
    assert named("perceptual", (one, two)) == {"l_percep": one, "l_style": two}
    assert named("perceptual", (None, two), "_0.5") == {"l_style_0.5": two}
    assert named("vgg", (one, two)) == {"l_vgg": one, "l_vgg_style": two}


@pytest.mark.parametrize(
    ("loss", "got"),
    [(torch.zeros(2, 3), r"something else \(\(2, 3\)\)"), (0.5, r"something else \(0.5\)"), ((None, None), "neither")],
)
def test_a_loss_is_a_number(loss, got):
    with pytest.raises(DscsrError, match=f"Expected `x_opt` to give a number, .* but got {got}. Set its `red"):
        named("x", loss)

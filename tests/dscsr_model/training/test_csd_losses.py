"""Whose output a loss of CSD trains, what with, and when."""

import pytest

from dscsr_arch.errors import DscsrError
from dscsr_model.training.csd_losses import CSDLoss, check_cover, read_csd_losses, split

L1 = {"type": "L1Loss", "loss_weight": 1.0}
CONTRAST = {"type": "ContrastiveLoss", "num_negatives": 2}


def test_what_sections_mean():
    assert split(L1, "pixel_opt") == (CSDLoss(), L1)
    role, arguments = split({**L1, "output_of": "teacher", "end_iter": 100.0}, "teacher_opt")
    assert (role, arguments) == (CSDLoss(output_of="teacher", end=100), L1)
    assert split({**L1, "target": "teacher", "start_iter": 5}, "x_opt")[0] == CSDLoss(target="teacher", start=5)
    assert split(CONTRAST, "x_opt") == (CSDLoss(contrastive=True, target="teacher"), CONTRAST)
    teacher = {**CONTRAST, "type": "ContrastiveLoss_dscsr", "features": "teacher"}
    role, arguments = split({**teacher, "feature_layers": ["conv_first"]}, "x_opt")
    assert (role.feature_layers, arguments) == (("conv_first",), teacher)


def test_who_needs_the_teacher_and_who_trains_it():
    assert [(role.needs_teacher, role.trains_teacher) for role in (CSDLoss(), CSDLoss(output_of="teacher"))] == [
        (False, False),
        (True, True),
    ]
    for role in (CSDLoss(target="teacher"), CSDLoss(contrastive=True)):
        assert role.needs_teacher
        assert not role.trains_teacher


def test_iterations_are_counted_from_one_and_the_last_belongs_to_it():
    role = CSDLoss(start=3, end=5)
    assert [n for n in range(1, 8) if role.covers(n)] == [3, 4, 5]
    assert CSDLoss().covers(1)
    assert CSDLoss().covers(10**9)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"output_of": "both"}, "Expected `x_opt: output_of` to be one of student, teacher, but got 'both'"),
        ({"target": "lq"}, "Expected `x_opt: target` to be one of gt, teacher, but got 'lq'"),
        ({"target": "teacher", "output_of": "teacher"}, "it would be compared with itself. Leave `target` out"),
        ({**CONTRAST, "output_of": "teacher"}, "to draw students to the teacher, since it is a ContrastiveLoss"),
        ({**CONTRAST, "target": "gt"}, "to draw students to the teacher"),
        ({"start_iter": 0}, "Expected `x_opt: start_iter` to be a whole number of at least 1, but got 0"),
        ({"end_iter": 1.5}, "Expected `x_opt: end_iter` to be a whole number"),
        ({"end_iter": True}, "a whole number of at least 1, but got True"),
        ({"start_iter": 5, "end_iter": 4}, "Expected `x_opt: end_iter` to be at least `start_iter: 5`, but got 4"),
        ({"feature_layers": ["conv_first"]}, "Expected `x_opt: feature_layers` beside `type: ContrastiveLoss`"),
        ({**CONTRAST, "feature_layers": ["conv_first"]}, "and `features: teacher` only, but got it without"),
        ({**CONTRAST, "features": "teacher", "feature_layers": []}, "to be a list of layer names, but got"),
        ({**CONTRAST, "features": "teacher", "feature_layers": "conv_first"}, "to be a list of layer names"),
    ],
)
def test_sections_that_say_nothing_usable(changes, text):
    with pytest.raises(DscsrError, match=text):
        split({**L1, **changes}, "x_opt")


def test_all_sections_are_read():
    csd_losses = read_csd_losses({"pixel_opt": L1, "teacher_opt": None, "optim_g": {}, "total_iter": 3})
    assert csd_losses == {"pixel": CSDLoss()}


@pytest.mark.parametrize(
    ("csd_losses", "iteration"),
    [([CSDLoss(start=2)], 1), ([CSDLoss(end=4)], 5), ([CSDLoss(end=4), CSDLoss(start=6)], 5), ([], 1)],
)
def test_an_iteration_without_a_loss_is_named(csd_losses, iteration):
    with pytest.raises(DscsrError, match=f"but got none in iteration {iteration} of 10"):
        check_cover(dict(enumerate(csd_losses)), 10)


def test_iterations_that_never_come_need_no_loss():
    for csd_losses in ({"a": CSDLoss(end=10)}, {"a": CSDLoss(end=4), "b": CSDLoss(start=5)}):
        check_cover(csd_losses, 10)  # raises nothing, as it would if one more iteration came without a loss:
    with pytest.raises(DscsrError, match="but got none in iteration 11 of 11"):
        check_cover({"a": CSDLoss(end=10)}, 11)

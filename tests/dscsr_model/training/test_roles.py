"""Whose output a loss of CSD trains, what with, and when."""

import pytest

from dscsr_model.training.roles import Role, RoleError, check_cover, read_roles, split

L1 = {"type": "L1Loss", "loss_weight": 1.0}
CONTRAST = {"type": "ContrastiveLoss", "num_negatives": 2}


def test_what_sections_mean():
    assert split(L1, "pixel_opt") == (Role(), L1)
    role, arguments = split({**L1, "output_of": "teacher", "end_iter": 100.0}, "teacher_opt")
    assert (role, arguments) == (Role(output_of="teacher", end=100), L1)
    assert split({**L1, "target": "teacher", "start_iter": 5}, "x_opt")[0] == Role(target="teacher", start=5)
    assert split(CONTRAST, "x_opt") == (Role(contrastive=True, target="teacher"), CONTRAST)
    teacher = {**CONTRAST, "type": "ContrastiveLoss_dscsr", "features": "teacher"}
    role, arguments = split({**teacher, "feature_layers": ["conv_first"]}, "x_opt")
    assert (role.feature_layers, arguments) == (("conv_first",), teacher)


def test_who_needs_the_teacher_and_who_trains_it():
    assert [(role.needs_teacher, role.trains_teacher) for role in (Role(), Role(output_of="teacher"))] == [
        (False, False),
        (True, True),
    ]
    for role in (Role(target="teacher"), Role(contrastive=True)):
        assert role.needs_teacher
        assert not role.trains_teacher


def test_iterations_are_counted_from_one_and_the_last_belongs_to_it():
    role = Role(start=3, end=5)
    assert [n for n in range(1, 8) if role.covers(n)] == [3, 4, 5]
    assert Role().covers(1)
    assert Role().covers(10**9)


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
    with pytest.raises(RoleError, match=text):
        split({**L1, **changes}, "x_opt")


def test_all_sections_are_read():
    roles = read_roles({"pixel_opt": L1, "teacher_opt": None, "optim_g": {}, "total_iter": 3})
    assert roles == {"pixel": Role()}


@pytest.mark.parametrize(
    ("roles", "iteration"),
    [([Role(start=2)], 1), ([Role(end=4)], 5), ([Role(end=4), Role(start=6)], 5), ([], 1)],
)
def test_an_iteration_without_a_loss_is_named(roles, iteration):
    with pytest.raises(RoleError, match=f"but got none in iteration {iteration} of 10"):
        check_cover(dict(enumerate(roles)), 10)


def test_iterations_that_never_come_need_no_loss():
    for roles in ({"a": Role(end=10)}, {"a": Role(end=4), "b": Role(start=5)}):
        check_cover(roles, 10)  # raises nothing, as it would if one more iteration came without a loss:
    with pytest.raises(RoleError, match="but got none in iteration 11 of 11"):
        check_cover({"a": Role(end=10)}, 11)

"""What a loss section compares, and the contradictions in one."""

import pytest

from dscsr_arch.errors import DscsrError
from dscsr_model.training.loss_targets import LossTarget, split


@pytest.mark.parametrize(
    ("section", "aim", "needs"),
    [
        ({}, LossTarget("gt"), False),
        ({"target": "gt"}, LossTarget("gt"), False),
        ({"target": "teacher"}, LossTarget("teacher"), True),
        ({"layers": ["a", "b"]}, LossTarget("teacher", ("a", "b"), ("a", "b")), True),
        ({"layers": ["a"], "teacher_layers": ["c"], "target": "teacher"}, LossTarget("teacher", ("a",), ("c",)), True),
    ],
)
def test_sections_are_taken_apart(section, aim, needs):
    whole = {"type": "L1Loss", "loss_weight": 2, **section}
    assert split(whole, "x_opt") == (aim, {"type": "L1Loss", "loss_weight": 2})
    assert aim.needs_teacher == needs
    assert whole == {"type": "L1Loss", "loss_weight": 2, **section}


@pytest.mark.parametrize(
    ("section", "text"),
    [
        ({"target": "me"}, "Expected `x_opt: target` to be one of gt, teacher, but got 'me'"),
        ({"layers": "block_1"}, "Expected `x_opt: layers` to be a list of layer names, but got 'block_1'"),
        ({"layers": [1]}, r"Expected `x_opt: layers` to be a list of layer names, but got \[1\]"),
        ({"layers": ["a"], "target": "gt"}, "Expected `x_opt: target` to be the teacher, since layers are compared"),
        ({"teacher_layers": ["a"]}, "Expected `x_opt: layers` beside `teacher_layers`, but got none"),
        ({"layers": ["a"], "teacher_layers": ["a", "b"]}, "to name 1 layers, one for each of `layers`, but got 2"),
    ],
)
def test_contradictions(section, text):
    with pytest.raises(DscsrError, match=text):
        split(section, "x_opt")

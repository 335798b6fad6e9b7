"""A section is parsed once: strict types, defaults, and errors that say what was expected."""

from collections import OrderedDict

import pytest

from dscsr_arch.errors import DscsrError
from dscsr_model.options.losses import CSDLoss, LossTarget
from dscsr_model.options.sections import Options, TrainSection, ValSection


def test_defaults_and_keys_of_others():
    train = TrainSection.parse(OrderedDict(total_iter=5e3, optim_g={"type": 3}, theirs=1))
    assert (train.total_iter, train.precision, train.accumulate_steps) == (5000, "fp32", 1)
    assert ValSection.parse(None).tile_overlap == 32


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"ema_decay": "1e-4"}, "train: ema_decay: Expected a number from 0 to below 1, but got the text '1e-4'."),
        ({"accumulate_steps": True}, "train: accumulate_steps: Expected a whole number of at least 1, but got true."),
        ({"ema_decay": float("nan")}, "but got nan"),
        ({"grad_clip_norm": 10**400}, "Expected a number above 0"),
        ({"compile": "fast"}, "Expected true, false or a mode of torch.compile, but got the text 'fast'"),
        ({"precision": "fp8"}, "Expected one of `fp32`, `bf16`, `fp16`, but got"),
    ],
)
def test_values_are_strict(value, said):
    with pytest.raises(DscsrError) as error:
        TrainSection.parse(value, "train")
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("kind", "section", "said"),
    [
        (LossTarget, {"teacher_layers": ["a"]}, "x_opt: Expected `layers` beside `teacher_layers`, but got none"),
        (LossTarget, {"layers": ["a"], "target": "gt"}, "`target` to be the teacher"),
        (CSDLoss, {"type": "L1Loss", "start_iter": 5, "end_iter": 4}, "`end_iter` to be at least `start_iter: 5`"),
    ],
)
def test_values_that_contradict_each_other(kind, section, said):
    with pytest.raises(DscsrError, match=said):
        kind.parse(section, "x_opt")


def test_every_option_says_what_it_is():
    for section in (Options, *filter(None, map(Options.inside, Options.declared()))):
        for key in section.declared():
            assert section.about(key), key
            assert section.words(key) != "one of ", key


def test_who_reads_a_key():
    assert ValSection.readers("widths") == ["CSDModel"]
    assert Options.readers("teacher") == ["DSCLoRAModel", "DistillationModel"]
    assert ValSection.readers("suffix") == ValSection.readers("nothing") == []

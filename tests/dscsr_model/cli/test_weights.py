"""The arguments that name a network by its weight file."""

import pytest

from dscsr_arch.errors import DscsrError
from dscsr_model.cli.weights import read_overrides


def test_values_are_those_of_option_files():
    words = ["norm=false", "img_range=1", "rgb_mean=[0.5, 0.5, 0.5]", "type=a=b"]
    assert read_overrides(words) == {"norm": False, "img_range": 1, "rgb_mean": [0.5] * 3, "type": "a=b"}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("norm", "Expected --set NAME=VALUE, such as norm=false, but got 'norm'. Write it without spaces"),
        ("2x=1", "Expected --set NAME=VALUE"),
        ("norm={a", "Expected a value as in an option file in --set 'norm={a'"),
        ("base=a.pth", r"Expected an argument of the network in --set, but got 'base=a.pth'. Write --base FILE"),
        ("width=0.5", "Write --width W"),
        ("param_key=params", "Write --param-key KEY"),
        ("path=a.pth", "Leave it out"),
    ],
)
def test_what_is_no_argument_of_a_network_gets_one_message(word, message):
    with pytest.raises(DscsrError, match=message) as error:
        read_overrides(["upscale=2", word])
    assert "\n" not in str(error.value)

"""Arguments of all networks are checked where they come in, and kept."""

import pytest

from dscsr_arch import CARN, EDSR, RCAN, SPAN, DSCLoRA
from dscsr_arch.errors import ArgumentError

SMALL = {"num_feat": 4, "num_block": 1}


def test_all_arguments_are_kept_defaults_too():
    assert EDSR(3, 3, **SMALL, rgb_mean=[0.1, 0.2, 0.3]).arguments == {
        "num_in_ch": 3, "num_out_ch": 3, "num_feat": 4, "num_block": 1, "upscale": 4, "res_scale": 1,
        "img_range": 255.0, "rgb_mean": [0.1, 0.2, 0.3],
    }  # fmt: skip
    arguments = DSCLoRA(feature_channels=4, lora_rank=1).arguments
    assert (arguments["feature_channels"], arguments["norm"], arguments["lora_rank"]) == (4, True, 1)


@pytest.mark.parametrize(
    ("network", "arguments", "message"),
    [
        (SPAN, {"upscale": 5}, r"Expected `upscale` to be one of \(1, 2, 3, 4, 8\), but got 5"),
        (CARN, {"upscale": True}, r"Expected `upscale` to be one of \(2, 3, 4\), but got True"),
        (SPAN, {"feature_channels": 0}, "Expected `feature_channels` to be a whole number from 1, but got 0"),
        (CARN, {"num_in_ch": 1.5}, "Expected `num_in_ch` to be a whole number from 1, but got 1.5"),
        (RCAN, {"num_group": "2"}, "Expected `num_group` to be a whole number from 1, but got '2'"),
        (SPAN, {"norm": "no"}, "Expected `norm` to be true or false, but got 'no'"),
        (EDSR, {"img_range": 0}, "Expected `img_range` to be a positive number, such as 255 or 1, but got 0"),
        (SPAN, {"img_range": float("nan")}, "Expected `img_range` to be a positive number, .* but got nan"),
        (RCAN, {"res_scale": "big"}, "Expected `res_scale` to be a number, but got 'big'"),
        (SPAN, {"rgb_mean": 0.4}, "Expected `rgb_mean` to be a list of numbers, but got 0.4"),
        (SPAN, {"num_in_ch": 2}, r"Expected `rgb_mean` to have one value per input channel \(2\), but got 3"),
        (CARN, {"num_out_ch": 1}, r"Expected `num_out_ch` to equal `num_in_ch` \(3\).* but got 1"),
    ],
)
def test_others_are_refused(network, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        network(**arguments)
    assert issubclass(ArgumentError, ValueError)

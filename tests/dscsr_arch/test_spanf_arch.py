import pytest
import torch
from torch.nn import functional as F

from dscsr_arch import SPANF, load_model
from dscsr_arch.checkpoint import save_state_dict
from dscsr_arch.errors import WeightsError
from dscsr_arch.weight_files import read_pickle

SIZES = {"conv_cat": "conv_cat_1", "conv_2": "conv_2_1"}


def test_conv_near_starts_as_the_nearest_pixel():
    x = torch.rand(1, 3, 5, 4)
    torch.testing.assert_close(
        F.pixel_shuffle(SPANF(upscale=3).conv_near(x), 3), F.interpolate(x, scale_factor=3, mode="nearest")
    )


@pytest.mark.parametrize(
    ("arguments", "parameters"), [({}, 148_288), ({"tail_channels": 24}, 143_928), ({"tail_channels": 20}, 141_748)]
)
def test_parameters_are_those_of_the_released_networks(arguments, parameters):
    assert sum(each.numel() for each in SPANF(**arguments).fuse().parameters()) == parameters


@pytest.mark.parametrize("arguments", [{"num_in_ch": 1, "num_out_ch": 3}, {"bias": False, "tail_channels": 3}])
def test_a_file_of_pds_names_tells_its_arguments(tmp_path, arguments):
    net = SPANF(feature_channels=4, upscale=2, num_blocks=2, **arguments).fuse()
    renamed = {
        ".".join([SIZES.get(name.split(".")[0], name.split(".")[0]), *name.split(".")[1:]]): tensor
        for name, tensor in net.state_dict().items()
    }
    save_state_dict({"params": renamed}, tmp_path / "pds.pth")
    loaded = load_model(tmp_path / "pds.pth")
    assert loaded.arguments == net.arguments
    x = torch.rand(1, net.arguments["num_in_ch"], 5, 6)
    torch.testing.assert_close(loaded(x), net(x))
    trainable = SPANF(feature_channels=4, upscale=2, num_blocks=2, **arguments)
    trainable.load_state_dict(renamed, strict=True)
    torch.testing.assert_close(trainable(x), net(x), rtol=1e-4, atol=1e-5)
    save_state_dict({**renamed, **net.state_dict()}, tmp_path / "both.pth")
    with pytest.raises(WeightsError, match=r"unexpected in the file: conv_cat_1\.weight"):
        load_model(tmp_path / "both.pth")
    with pytest.raises(RuntimeError, match=r"Unexpected key.*conv_cat_1\.weight"):
        trainable.load_state_dict({**renamed, **net.state_dict()})


@pytest.mark.parametrize(("file", "tail", "parameters"), [("spanf", None, 148_288), ("pds", 20, 141_748)])
def test_released_files(assets, file, tail, parameters):
    path = assets / f"weights/{file}_ch32_x4_fused.pth"
    net = load_model(path)
    assert (net.arguments["feature_channels"], net.arguments["tail_channels"]) == (32, tail)
    assert sum(tensor.numel() for tensor in read_pickle(path).values()) == parameters


def test_arguments_out_of_range():
    with pytest.raises(ValueError, match="`tail_channels` to be a whole number from 1, or ~, but got 0"):
        SPANF(tail_channels=0)

import pytest
import torch

from dscsr_arch import CARN, load_model
from dscsr_arch.cssr_arch import find_backbone
from dscsr_arch.errors import WeightsError

EDSR = {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 6, "num_block": 3, "upscale": 4}
RCAN = {**EDSR, "num_group": 2, "num_feat": 10, "squeeze_factor": 3, "upscale": 3}


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("EDSR", EDSR),
        ("EDSR", {**EDSR, "upscale": 8}),
        ("EDSR", {**EDSR, "upscale": 1}),
        ("EDSR", {**EDSR, "num_block": 32, "upscale": 3, "res_scale": 0.1}),
        ("RCAN", RCAN),
        ("CARN", {"num_feat": 6, "upscale": 2}),
        ("CARN", {"num_in_ch": 1, "num_out_ch": 1, "num_feat": 5, "upscale": 3, "rgb_mean": (0.4,)}),
    ],
)
def test_arguments_are_read_from_the_shapes(kind, arguments, tmp_path):
    network = find_backbone(kind)(**arguments).eval()
    torch.save({"params": network.state_dict()}, tmp_path / "w.pth")
    overrides = {"rgb_mean": arguments["rgb_mean"]} if "rgb_mean" in arguments else {}
    loaded = load_model(tmp_path / "w.pth", **overrides)
    x = torch.rand(1, arguments.get("num_in_ch", 3), 5, 6)
    assert torch.equal(loaded(x), network(x))


def test_what_shapes_cannot_tell_can_be_given(tmp_path):
    network = find_backbone("EDSR")(**EDSR, res_scale=0.1).eval()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    x = torch.rand(1, 3, 5, 6)
    assert torch.equal(load_model(tmp_path / "w.pth", res_scale=0.1)(x), network(x))
    assert not torch.equal(load_model(tmp_path / "w.pth")(x), network(x))


def test_another_upsampler_is_refused(tmp_path):
    state = CARN(num_feat=6).state_dict()
    state["upsample.blocks.0.weight"] = state["upsample.blocks.0.weight"][:7]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"Expected upsample\.blocks\.0\.weight to make 4 or 9"):
        load_model(tmp_path / "w.pth")

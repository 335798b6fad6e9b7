import pytest
import torch

from dscsr_arch import SPANV2, load_model
from dscsr_arch.checkpoint import save_state_dict


def test_a_file_of_released_names_tells_its_arguments(tmp_path):
    net = SPANV2(num_out_ch=1, feature_channels=4, upscale=2, num_blocks=3).fuse()
    released = {name.replace("eval_conv", "conv"): tensor for name, tensor in net.state_dict().items()}
    save_state_dict(released, tmp_path / "spanv2.pth")
    loaded = load_model(tmp_path / "spanv2.pth")
    assert loaded.arguments == net.arguments
    x = torch.rand(1, 3, 5, 6)
    torch.testing.assert_close(loaded(x), net(x))
    trainable = SPANV2(num_out_ch=1, feature_channels=4, upscale=2, num_blocks=3)
    trainable.load_state_dict(released, strict=True)
    torch.testing.assert_close(trainable(x), net(x), rtol=1e-4, atol=1e-5)


def test_the_released_file(assets):
    net = load_model(assets / "weights/spanv2_ch32_x4_fused.pth")
    assert sum(each.numel() for each in net.parameters()) == 139_104


def test_arguments_out_of_range():
    with pytest.raises(ValueError, match="`num_blocks` to be a whole number from 1, but got 0"):
        SPANV2(num_blocks=0)

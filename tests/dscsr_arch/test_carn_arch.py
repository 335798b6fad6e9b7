import pytest
import torch
from torch.nn import functional as F

from dscsr_arch import CARN
from dscsr_arch.conv_lora import inject

MEAN = (0.4488, 0.4371, 0.4040)


def plain_carn(state, x, upscale, *, final_relu=False):
    """CARN written out layer by layer, from weights by name."""

    def conv(name, x):
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def residual(name, x):
        out = x + conv(f"{name}.conv2", conv(f"{name}.conv1", x).relu())
        return out.relu() if final_relu else out

    def fused(name, *features):
        return conv(f"{name}.conv", torch.cat(features, 1)).relu()

    def cascading(name, x, block):
        first = block(f"{name}b1", x)
        second_in = fused(f"{name}c1", x, first)
        second = block(f"{name}b2", second_in)
        third_in = fused(f"{name}c2", x, first, second)
        third = block(f"{name}b3", third_in)
        return fused(f"{name}c3", x, first, second, third)

    mean = torch.tensor(MEAN).to(x).view(1, 3, 1, 1)
    x = conv("entry", (x - mean) * 255)
    x = cascading("", x, lambda name, x: cascading(f"{name}.", x, residual))
    for index in range(2 if upscale == 4 else 1):
        x = F.pixel_shuffle(conv(f"upsample.blocks.{index}", x), 3 if upscale == 3 else 2)
    return conv("exit", x) / 255 + mean


@pytest.mark.parametrize("final_relu", [False, True])
@pytest.mark.parametrize("upscale", [2, 3, 4])
def test_forward_is_the_network_written_out(upscale, final_relu):
    net = CARN(num_feat=8, upscale=upscale, final_relu=final_relu).double()
    x = torch.rand(2, 3, 5, 7, dtype=torch.float64)
    out = net(x)
    assert out.shape == (2, 3, 5 * upscale, 7 * upscale)
    # float64; the mean is kept in float32 by both
    torch.testing.assert_close(
        out, plain_carn(net.state_dict(), x, upscale, final_relu=final_relu), rtol=1e-12, atol=1e-12
    )


def test_size_and_names():
    net = CARN()
    block = 6 * (64 * 64 * 9 + 64) + sum(64 * 64 * n + 64 for n in (2, 3, 4))
    ends = 2 * 3 * 64 * 9 + 64 + 3
    cascade = sum(64 * 64 * n + 64 for n in (2, 3, 4))
    assert sum(p.numel() for p in net.parameters()) == 3 * block + ends + cascade + 2 * (64 * 256 * 9 + 256)
    names = {name.rpartition(".")[0] for name in net.state_dict()}
    assert {"entry", "b1.b1.conv1", "b3.c3.conv", "c3.conv", "upsample.blocks.1", "exit"} <= names


def test_fuse_leaves_plain_convolutions():
    net = CARN(num_feat=8)
    names = net.state_dict().keys()
    inject(net, {"entry": (2, 4)})
    assert net.fuse().fuse() is net
    assert net.state_dict().keys() == names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"upscale": 5}, r"Expected `upscale` to be one of \(2, 3, 4\), but got 5"),
        ({"num_feat": 0}, "Expected `num_feat` to be a whole number from 1, but got 0"),
        ({"num_in_ch": 1.5}, "Expected `num_in_ch` to be a whole number"),
        ({"num_out_ch": 1}, r"Expected `num_out_ch` to equal `num_in_ch` \(3\).* but got 1"),
        ({"img_range": 0}, "Expected `img_range` to be a positive number, such as 255 or 1, but got 0"),
        ({"rgb_mean": (0.5,)}, r"Expected `rgb_mean` to have one value per input channel \(3\), but got 1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        CARN(**arguments)

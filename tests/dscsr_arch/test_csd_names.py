"""Files of the official CSD code: its forward is written out here by its names and its range."""

import pytest
import torch
from torch.nn import functional as F

from dscsr_arch import load_model
from dscsr_arch.checkpoint import read_state_dict
from dscsr_arch.constructor import RGB_MEAN
from dscsr_arch.csd_names import from_csd
from dscsr_arch.errors import WeightsError

FEATURES, SQUEEZED, BLOCKS, GROUPS = 8, 4, 2, 2


def official(kind, upscale=2, rgb_range=255.0):
    """Random weights under the official names: those that the official forward asks for."""
    state = {}
    for name, sign in {"sub_mean": -1, "add_mean": 1}.items():
        state[f"{name}.weight"] = torch.eye(3).view(3, 3, 1, 1)
        state[f"{name}.bias"] = sign * rgb_range * torch.tensor(RGB_MEAN)
    official_forward(kind, state, torch.rand(1, 3, 4, 4), upscale)
    return state


def official_forward(kind, state, x, upscale=2, rgb_range=255.0):
    """Image in [0, 1] to image in [0, 1], through [0, rgb_range]."""

    def conv(name, x, out=FEATURES, kernel=3):
        if f"{name}.weight" not in state:
            state[f"{name}.weight"] = torch.randn(out, x.shape[1], kernel, kernel) * 0.2
            state[f"{name}.bias"] = torch.randn(out)
        weight, bias = state[f"{name}.weight"].to(x), state[f"{name}.bias"].to(x)
        return F.conv2d(x, weight, bias, padding=kernel // 2)

    def residual(name, x):
        return x + conv(f"{name}.conv2", conv(f"{name}.conv1", x).relu())

    def attended(name, x):
        out = conv(f"{name}.body.1", conv(f"{name}.body.0", x).relu())
        squeezed = conv(f"{name}.caLayer.conv_du.0", out.mean((2, 3), keepdim=True), SQUEEZED, 1).relu()
        return x + out * conv(f"{name}.caLayer.conv_du.1", squeezed, kernel=1).sigmoid()

    def group(name, x):
        out = x
        for block in range(BLOCKS):
            out = attended(f"{name}.body.{block}", out)
        return x + conv(f"{name}.conv", out)

    def cascade(prefix, x, block):
        out, seen = x, x
        for n in (1, 2, 3):
            seen = torch.cat([seen, block(f"{prefix}b{n}", out)], 1)
            out = conv(f"{prefix}c{n}.conv", seen, kernel=1).relu()
        return out

    carn = kind == "CARN"
    x = F.conv2d(x * rgb_range, state["sub_mean.weight"].to(x), state["sub_mean.bias"].to(x))
    x = conv({"EDSR": "head", "RCAN": "head_conv", "CARN": "entry"}[kind], x)
    if carn:
        x = cascade("", x, lambda name, x: cascade(f"{name}.", x, residual))
    else:
        out = x
        for n in range(BLOCKS if kind == "EDSR" else GROUPS):
            out = (residual if kind == "EDSR" else group)(f"body.{n}", out)
        x = x + conv("body_conv", out)
    step = 3 if upscale == 3 else 2
    for n in range(2 if upscale == 4 else 1):
        x = F.pixel_shuffle(conv(f"{'upsample' if carn else 'upsampler'}.blocks.{n}", x, FEATURES * step**2), step)
    x = conv("exit" if carn else "tail_conv", x, 3)
    return F.conv2d(x, state["add_mean.weight"].to(x), state["add_mean.bias"].to(x)) / rgb_range


KINDS = pytest.mark.parametrize("kind", ["EDSR", "RCAN", "CARN"])


@KINDS
@pytest.mark.parametrize(("upscale", "rgb_range"), [(2, 255.0), (3, 1.0), (4, 255.0)])
def test_load_model_builds_the_official_network_from_its_file(kind, upscale, rgb_range, file):
    state = official(kind, upscale, rgb_range)
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    loaded = load_model(file({"model_state_dict": wrapped, "epoch": 7}, "csd.pth")).double()
    assert type(loaded).__name__ == kind
    x = torch.rand(1, 3, 5, 6, dtype=torch.float64)
    wanted = official_forward(kind, state, x, upscale, rgb_range=rgb_range)
    # weights and mean were rounded to float32 in rescaling, relative to the largest output
    torch.testing.assert_close(loaded(x), wanted, rtol=0, atol=1e-5 * wanted.abs().max().item())


@KINDS
def test_what_is_not_of_csd_stays_as_it_is(kind):
    state = official(kind)
    once = from_csd(state)
    assert not any("mean" in name or "upsampler" in name for name in once)
    assert all(torch.equal(tensor, once[name]) for name, tensor in from_csd(once).items())
    if kind != "CARN":  # without the frozen mean, by which CARN is known, the range is the usual one
        bare = {name: tensor for name, tensor in state.items() if "mean" not in name}
        assert all(torch.equal(tensor, once[name]) for name, tensor in from_csd(bare).items())


ODD = [torch.ones(shape) for shape in [(), (0,), (3, 3), (7,)]] + [torch.tensor([-114.0, -222.0, -103.0])]


@pytest.mark.parametrize("name", ["sub_mean.bias", "add_mean.bias", "sub_mean.weight"])
@pytest.mark.parametrize("value", ODD, ids=lambda value: f"{tuple(value.shape)}")
def test_another_mean_is_refused(name, value, file):
    with pytest.raises(WeightsError, match=r"csd\.pth.* weights of the CSD code to subtract and add its mean"):
        read_state_dict(file({"model_state_dict": {**official("EDSR"), name: value}}, "csd.pth"))


def test_half_a_mean_is_refused():
    state = official("EDSR")
    del state["add_mean.bias"]
    with pytest.raises(WeightsError, match=r"Expected all of sub_mean.weight, .* but got only some"):
        from_csd(state)

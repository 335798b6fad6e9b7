"""Files of the official CSD code: its forward is written out here by its names and its range, at any width."""

import pytest
import torch
from torch.nn import functional as F

from dscsr_arch import CSSRNet, load_model
from dscsr_arch.checkpoint import read_state_dict
from dscsr_arch.constructor import RGB_MEAN
from dscsr_arch.csd_names import from_csd
from dscsr_arch.errors import WeightsError

FEATURES, SQUEEZED, BLOCKS, GROUPS = 8, 4, 2, 2


def official(kind, upscale=2, rgb_range=255.0):
    """Random weights under the official names."""
    state = {}

    def conv(name, out_channels, in_channels, kernel=3):
        state[f"{name}.weight"] = torch.randn(out_channels, in_channels, kernel, kernel) * 0.2
        state[f"{name}.bias"] = torch.randn(out_channels)

    def sign(name, value):
        state[f"{name}.weight"] = torch.eye(3).view(3, 3, 1, 1)
        state[f"{name}.bias"] = value * rgb_range * torch.tensor(RGB_MEAN)

    sign("sub_mean", -1)
    sign("add_mean", 1)
    c = FEATURES
    head, tail = {"EDSR": ("head", "tail_conv"), "RCAN": ("head_conv", "tail_conv"), "CARN": ("entry", "exit")}[kind]
    conv(head, c, 3)
    if kind == "EDSR":
        for name in [f"body.{n}.conv{m}" for n in range(BLOCKS) for m in (1, 2)]:
            conv(name, c, c)
    if kind == "RCAN":
        for g in range(GROUPS):
            for b in range(BLOCKS):
                conv(f"body.{g}.body.{b}.body.0", c, c)
                conv(f"body.{g}.body.{b}.body.1", c, c)
                conv(f"body.{g}.body.{b}.caLayer.conv_du.0", SQUEEZED, c, 1)
                conv(f"body.{g}.body.{b}.caLayer.conv_du.1", c, SQUEEZED, 1)
            conv(f"body.{g}.conv", c, c)
    if kind == "CARN":
        for block in ("b1.", "b2.", "b3.", ""):
            for n in (1, 2, 3):
                conv(f"{block}c{n}.conv", c, c * (n + 1), 1)
                if block:
                    conv(f"{block}b{n}.conv1", c, c)
                    conv(f"{block}b{n}.conv2", c, c)
    else:
        conv("body_conv", c, c)
    step = 3 if upscale == 3 else 2
    for index in range(2 if upscale == 4 else 1):
        conv(f"{'upsample' if kind == 'CARN' else 'upsampler'}.blocks.{index}", c * step**2, c)
    conv(tail, 3, c)
    return state


def official_forward(kind, state, x, upscale=2, width=1.0, rgb_range=255.0, res_scale=1.0):
    """Image in [0, 1] to image in [0, 1], through [0, rgb_range]; every layer cut to its first channels."""

    def conv(name, x, out_channels=None):
        weight, bias = state[f"{name}.weight"].to(x), state[f"{name}.bias"].to(x)
        out = round(weight.shape[0] * width) if out_channels is None else out_channels
        cut = weight[:out, : x.shape[1]]
        return F.conv2d(x, cut, bias[:out], padding=weight.shape[-1] // 2)

    def residual(name, x):
        return x + res_scale * conv(f"{name}.conv2", conv(f"{name}.conv1", x).relu())

    def attended(name, x):
        out = conv(f"{name}.body.1", conv(f"{name}.body.0", x).relu())
        squeezed = conv(f"{name}.caLayer.conv_du.0", out.mean((2, 3), keepdim=True)).relu()
        return x + out * conv(f"{name}.caLayer.conv_du.1", squeezed).sigmoid()

    def cascade(prefix, x, block):
        out, seen = x, x
        for n in (1, 2, 3):
            seen = torch.cat([seen, block(f"{prefix}b{n}", out)], 1)
            out = conv(f"{prefix}c{n}.conv", seen).relu()
        return out

    x = F.conv2d(x * rgb_range, state["sub_mean.weight"].to(x), state["sub_mean.bias"].to(x))
    head, tail = {"EDSR": ("head", "tail_conv"), "RCAN": ("head_conv", "tail_conv"), "CARN": ("entry", "exit")}[kind]
    x = conv(head, x)
    if kind == "CARN":
        x = cascade("", x, lambda name, x: cascade(f"{name}.", x, residual))
    else:
        out = x
        for n in range(BLOCKS if kind == "EDSR" else GROUPS):
            if kind == "EDSR":
                out = residual(f"body.{n}", out)
                continue
            inner = out
            for b in range(BLOCKS):
                inner = attended(f"body.{n}.body.{b}", inner)
            out = out + conv(f"body.{n}.conv", inner)
        x = x + conv("body_conv", out)
    step = 3 if upscale == 3 else 2
    for index in range(2 if upscale == 4 else 1):
        x = F.pixel_shuffle(conv(f"{'upsample' if kind == 'CARN' else 'upsampler'}.blocks.{index}", x), step)
    x = conv(tail, x, 3)
    return F.conv2d(x, state["add_mean.weight"].to(x), state["add_mean.bias"].to(x)) / rgb_range


KINDS = pytest.mark.parametrize("kind", ["EDSR", "RCAN", "CARN"])


@KINDS
@pytest.mark.parametrize(("upscale", "rgb_range"), [(2, 255.0), (3, 1.0), (4, 255.0)])
def test_load_model_builds_the_official_network_from_its_file(kind, upscale, rgb_range, tmp_path):
    state = official(kind, upscale, rgb_range)
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"model_state_dict": wrapped, "epoch": 7}, tmp_path / "csd.pth")
    loaded = load_model(tmp_path / "csd.pth").double()
    assert type(loaded).__name__ == kind
    x = torch.rand(1, 3, 5, 6, dtype=torch.float64)
    wanted = official_forward(kind, state, x, upscale, rgb_range=rgb_range)
    # weights and mean were rounded to float32 in rescaling, relative to the largest output
    torch.testing.assert_close(loaded(x), wanted, rtol=0, atol=1e-5 * wanted.abs().max().item())


@KINDS
def test_students_are_those_of_the_official_code(kind):
    state = official(kind)
    arguments = {
        "EDSR": {"num_block": BLOCKS, "res_scale": 0.5},
        "RCAN": {"num_group": GROUPS, "num_block": BLOCKS, "squeeze_factor": 2},
        "CARN": {},
    }[kind]
    net = CSSRNet({"type": kind, "num_feat": FEATURES, "upscale": 2, **arguments}, (0.25,))
    net.load_state_dict(from_csd(state), strict=True)
    x = torch.rand(1, 3, 5, 6, dtype=torch.float64)
    wanted = official_forward(kind, state, x, width=0.25, res_scale=arguments.get("res_scale", 1))
    # the mean is rounded to float32
    torch.testing.assert_close(net.double()(x, width=0.25), wanted, rtol=0, atol=1e-5 * wanted.abs().max().item())


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
def test_another_mean_is_refused(name, value, tmp_path):
    torch.save({"model_state_dict": {**official("EDSR"), name: value}}, tmp_path / "csd.pth")
    with pytest.raises(WeightsError, match=r"csd\.pth.* weights of the CSD code to subtract and add its mean"):
        read_state_dict(tmp_path / "csd.pth")


def test_half_a_mean_is_refused():
    state = official("EDSR")
    del state["add_mean.bias"]
    with pytest.raises(WeightsError, match=r"Expected all of sub_mean.weight, .* but got only some"):
        from_csd(state)

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dscsr_arch import CARN, CSSRNet
from dscsr_arch.conv3xc import Conv3XC
from dscsr_arch.foreign import find_backbone
from dscsr_arch.weight_files import state_dict_diff

SWINIR = {
    "type": "SwinIR", "upscale": 2, "img_size": 8, "window_size": 4, "depths": [2], "embed_dim": 16,
    "num_heads": [2], "mlp_ratio": 2, "upsampler": "pixelshuffledirect", "drop_path_rate": 0,
}  # fmt: skip
SECTIONS = {
    "EDSR": {"num_feat": 8, "num_block": 2, "res_scale": 0.1, "upscale": 2},
    "RCAN": {"num_feat": 16, "num_group": 2, "num_block": 1, "squeeze_factor": 4, "upscale": 3},
    "CARN": {"num_feat": 8, "upscale": 4},
    "SPAN": {"feature_channels": 8, "upscale": 2},
    "SwinIR": SWINIR,
    # its own names begin with `backbone.`, as ours do inside; training form only
    "ECBSR": {
        "num_in_ch": 3, "num_out_ch": 3, "num_block": 1, "num_channel": 8, "with_idt": False, "act_type": "prelu",
        "scale": 2,
    },
}  # fmt: skip
WIDTH_ARGS = {"SPAN": "feature_channels", "SwinIR": "embed_dim", "ECBSR": "num_channel"}
WIDTHS = (0.25, 0.5)
EACH = pytest.mark.parametrize("kind", SECTIONS)


def section(kind, **changes):
    return {"type": kind, **SECTIONS[kind], **changes}


def build(kind, widths=WIDTHS, **changes):
    net = CSSRNet(section(kind, **changes), widths).double()
    for parameter in net.parameters():  # some layers start at zero
        nn.init.normal_(parameter, std=0.1)
    return net


def plain(kind, width=1):
    """The plain network of ``width``, with its own random weights."""
    arguments = {name: value for name, value in SECTIONS[kind].items() if name != "type"}
    arguments[WIDTH_ARGS.get(kind, "num_feat")] *= width
    return find_backbone(kind)(
        **{name: int(v) if isinstance(v, float) and v > 1 else v for name, v in arguments.items()}
    )


def image():
    return torch.rand(2, 3, 8, 12, dtype=torch.float64)


def prefix(tensor, shape):
    return tensor[tuple(slice(size) for size in shape)]


@EACH
def test_a_student_is_the_plain_network_of_the_first_channels(kind):
    net, x = build(kind), image()
    student = plain(kind, 0.5).double()
    wide = dict(net.backbone.named_parameters())
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            parameter.copy_(prefix(wide[name], parameter.shape))
    wanted, output = student(x), net(x, width=0.5)
    torch.testing.assert_close(output, wanted, rtol=1e-12, atol=1e-12)  # float64, outputs of up to some tens
    torch.testing.assert_close(net.student(0.5)(x), wanted, rtol=1e-12, atol=1e-12)
    assert (net(x, width=1.0) - wanted).abs().max() > 1e-6
    output.square().sum().backward()
    wanted.square().sum().backward()
    narrow = dict(student.named_parameters())
    for name, parameter in net.backbone.named_parameters():
        if parameter.requires_grad:
            expected = torch.zeros_like(parameter)
            prefix(expected, narrow[name].shape).copy_(narrow[name].grad)
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-9, atol=1e-9, msg=name)


@EACH
def test_which_widths_run(kind):
    net, x = build(kind), image()  # in training: in eval mode ECBSR knows float32 only
    outputs = net(x)
    assert list(outputs) == [1.0, *WIDTHS]
    assert torch.equal(outputs[1.0], net.backbone(x))
    chosen = net(x, width=(0.5, 1.0))
    assert list(chosen) == [0.5, 1.0]
    for width, output in (outputs | chosen).items():
        assert torch.equal(output, net(x, width=width))
    for use in (lambda: net(x, width=[0.5, 0.6]), lambda: net(x, width=0.6), lambda: net.student(0.6)):
        with pytest.raises(ValueError, match=r"Expected a width among \(1.0, 0.25, 0.5\), but got 0.6. Add it to"):
            use()
    if kind != "ECBSR":
        assert torch.equal(net.eval()(x), net(x, width=0.25))
        assert not net.student(0.25).training


@EACH
def test_redrawn_a_student_begins_as_the_plain_network_of_its_size(kind):
    net = build(kind)
    old = copy.deepcopy(dict(net.backbone.named_parameters()))
    torch.manual_seed(5)
    net.redraw(0.5)
    torch.manual_seed(5)
    narrow = dict(plain(kind, 0.5).named_parameters())
    for name, parameter in net.backbone.named_parameters():
        expected = old[name].detach().clone()  # what only the teacher has is as it was
        prefix(expected, narrow[name].shape).copy_(narrow[name])
        assert torch.equal(parameter, expected), name


@EACH
def test_state_dicts_are_those_of_the_plain_backbone(kind):
    net, other = build(kind), build(kind)
    backbone = plain(kind).double()
    backbone.load_state_dict(net.state_dict(), strict=True)
    assert state_dict_diff(other, backbone.state_dict()) is None
    other.load_state_dict(backbone.state_dict(), strict=True)
    assert all(torch.equal(parameter, net.get_parameter(name)) for name, parameter in other.named_parameters())
    other.load_state_dict({f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}, strict=True)


@pytest.mark.parametrize("kind", ["EDSR", pytest.param("SPAN", marks=pytest.mark.slow)])
def test_compiled_it_gives_the_same_outputs_and_gradients(kind):
    net, x = build(kind, widths=(0.5,)), image()
    compiled = torch.compile(copy.deepcopy(net), backend="eager", fullgraph=True)
    ours, theirs = net(x), compiled(x)
    for output in (ours, theirs):
        (output[1.0].sum() + output[0.5].square().sum()).backward()
    torch.testing.assert_close(theirs, ours, rtol=1e-12, atol=1e-12)
    for name, parameter in compiled._orig_mod.named_parameters():
        torch.testing.assert_close(parameter.grad, net.get_parameter(name).grad, rtol=1e-9, atol=1e-9)


def test_students_take_no_weights_and_no_random_numbers():
    torch.manual_seed(3)
    alone, after = CARN(num_feat=8), torch.rand(1)
    torch.manual_seed(3)
    net = CSSRNet({"type": "CARN", "num_feat": 8}, WIDTHS)
    assert torch.equal(net.state_dict()["entry.weight"], alone.entry.weight)
    assert torch.equal(torch.rand(1), after)
    assert [p.numel() for p in net.parameters()] == [p.numel() for p in alone.parameters()]


def test_fuse_keeps_every_width_as_it_was():
    net, x = build("SPAN").eval(), image()
    before = {width: net(x, width=width) for width in (1.0, *WIDTHS)}
    assert net.fuse().fuse() is net
    assert all(layer.fused for layer in net.modules() if isinstance(layer, Conv3XC))
    assert not any(name.endswith("sk.weight") for name in net.state_dict())
    for width, output in before.items():
        # the same kernels, merged once instead of in every forward
        torch.testing.assert_close(net(x, width=width), output, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(net.student(width)(x), output, rtol=1e-12, atol=1e-12)
    other = build("SPAN").eval().fuse()
    other.load_state_dict(net.state_dict(), strict=True)
    assert torch.equal(other(x), net(x))
    trainable = build("SPAN")  # re-expanding inverts matrices of random weights, in float64
    trainable.load_state_dict(net.student(1.0).state_dict())
    torch.testing.assert_close(trainable(x, width=1.0), before[1.0], rtol=1e-8, atol=1e-8)
    carn = build("CARN")
    assert carn.fuse().state_dict().keys() == build("CARN").state_dict().keys()


class Attention(nn.Module):
    """A network that nobody knows: channel attention with a head of its own."""

    def __init__(self, size=8, depth=1, norm=False):
        super().__init__()
        self.first = nn.Conv2d(3, size, 3, padding=1)
        self.norm = nn.BatchNorm2d(size) if norm else nn.Identity()
        self.last = nn.Conv2d(size, 3, 3, padding=1)
        self.register_buffer("factor", torch.arange(1.0, size + 1).view(1, -1, 1, 1))
        self.register_buffer("scalar", torch.tensor(2.0))

    def forward(self, x):
        """Map an image."""
        return self.last(F.relu(self.norm(self.first(x))) * self.factor) * self.scalar


@pytest.fixture
def unknown(monkeypatch):
    find = lambda name: Attention if name == "Unknown" else find_backbone(name)  # noqa: E731
    monkeypatch.setattr("dscsr_arch.cssr_arch.find_backbone", find)


def test_a_network_that_is_not_known_splits_by_the_arguments_named(unknown):
    given = {"type": "Unknown"}
    net, x = CSSRNet(given, (0.5,), width_args="size").eval(), image().float()
    assert net.student(0.5).factor.flatten().tolist() == [1, 2, 3, 4]
    assert torch.equal(net(x), net.student(0.5)(x))
    assert given == {"type": "Unknown"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": {"num_feat": 8}}, "Expected `backbone` to be a network section"),
        ({"backbone": {"type": "DSCLoRA"}, "width_args": "feature_channels"}, "without ConvLoRA, but got DSCLoRA"),
        ({"backbone": {"type": "Unknown"}}, "Expected `width_args` for Unknown.*it has: size, depth, norm"),
        ({"width_args": "size"}, "Expected `size` to be a whole number in the backbone.* but got None"),
        ({"backbone": {"type": "Unknown"}, "width_args": ["depth", "size"]}, "but got 0.5 of `depth: 1`"),
        ({"backbone": {"type": "Unknown", "depth": 2}, "width_args": "depth"}, "to make layers narrower"),
        ({"backbone": {"type": "Unknown", "norm": True}, "width_args": "size"}, "running statistics.*BatchNorm2d"),
        ({"backbone": section("EDSR", num_fea=8)}, "Expected arguments that EDSR takes.*num_fea"),
        ({"widths": (1.0,)}, "Expected `widths` to be different numbers between 0 and 1"),
        ({"widths": (0.5, 0.5)}, "Expected `widths`"),
        ({"backbone": section("RCAN", squeeze_factor=8), "widths": (0.25,)}, "at least one channel in every layer"),
        ({"backbone": {**SWINIR, "num_heads": [8]}, "widths": (0.25,)}, "divisible by each of `num_heads`, but got 4"),
    ],
)
def test_bad_arguments(unknown, arguments, message):
    with pytest.raises(ValueError, match=message):
        CSSRNet(**{"backbone": section("EDSR"), "widths": (0.5,), **arguments})

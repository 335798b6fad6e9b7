import copy
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from dscsr_arch import CARN, SPAN, CSSRNet, load_model
from dscsr_arch.architecture import architectures
from dscsr_arch.checkpoint import mismatch
from dscsr_arch.conv3xc import Conv3XC
from dscsr_arch.cssr_arch import find_backbone

EDSR = {"type": "EDSR", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_block": 2, "res_scale": 0.1, "upscale": 2}
RCAN = {
    "type": "RCAN", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 16, "num_group": 2, "num_block": 1,
    "squeeze_factor": 4, "upscale": 3,
}  # fmt: skip
SWINIR = {
    "type": "SwinIR", "upscale": 2, "img_size": 8, "window_size": 4, "depths": [2], "embed_dim": 16,
    "num_heads": [2], "mlp_ratio": 2, "upsampler": "pixelshuffledirect", "drop_path_rate": 0,
}  # fmt: skip
BACKBONES = {
    "EDSR": (EDSR, "num_feat"),
    "RCAN": (RCAN, "num_feat"),
    "CARN": ({"type": "CARN", "num_feat": 8, "upscale": 4}, "num_feat"),
    "SPAN": ({"type": "SPAN", "feature_channels": 8, "upscale": 2}, "feature_channels"),
    "SwinIR": (SWINIR, "embed_dim"),
    "ECBSR": (  # its own names begin with `backbone.`, as ours do inside; training form only
        {"type": "ECBSR", "num_in_ch": 3, "num_out_ch": 3, "num_block": 1, "num_channel": 8, "with_idt": False,
         "act_type": "prelu", "scale": 2}, "num_channel",
    ),
}  # fmt: skip
WIDTHS = (0.25, 0.5, 0.75)
EACH = pytest.mark.parametrize("kind", BACKBONES)


def build(kind, widths=WIDTHS, **changes):
    net = CSSRNet({**BACKBONES[kind][0], **changes}, widths).double()
    for parameter in net.parameters():  # some layers start at zero
        nn.init.normal_(parameter, std=0.1)
    return net


def hand_sliced(net, kind, width):
    """The plain network of ``width``, its parameters cut out of the wide one's by hand."""
    section, width_arg = BACKBONES[kind]
    arguments = {name: value for name, value in section.items() if name != "type"}
    arguments[width_arg] = int(arguments[width_arg] * width)
    plain = find_backbone(section["type"])(**arguments).double().train(net.training)
    wide = dict(net.backbone.named_parameters())
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            cut = wide[name]
            for dim, size in enumerate(parameter.shape):
                cut = cut.narrow(dim, 0, size)
            parameter.copy_(cut)
    if hasattr(plain, "mean") and isinstance(getattr(net.backbone, "mean", None), torch.Tensor):
        plain.mean = net.backbone.mean.clone()
    return plain


def image():
    return torch.rand(2, 3, 8, 12, dtype=torch.float64)


@EACH
@pytest.mark.parametrize("width", WIDTHS)
def test_a_student_is_the_hand_sliced_plain_network(kind, width):
    net = build(kind)
    x = image()
    wanted = hand_sliced(net, kind, width)(x)
    # float64 all through; 1e-12 of outputs up to some tens
    torch.testing.assert_close(net(x, width=width), wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(net.student(width)(x), wanted, rtol=1e-12, atol=1e-12)
    assert (net(x, width=1.0) - wanted).abs().max() > 1e-6


@EACH
@pytest.mark.parametrize("width", WIDTHS)
def test_gradients_of_a_student_flow_into_exactly_the_first_channels(kind, width):
    net = build(kind)
    x = image()
    net(x, width=width).square().sum().backward()
    plain = hand_sliced(net, kind, width)
    plain(x).square().sum().backward()
    wanted = dict(plain.named_parameters())
    for name, parameter in net.backbone.named_parameters():
        if not parameter.requires_grad:
            continue
        padded = torch.zeros_like(parameter)
        padded[tuple(slice(size) for size in wanted[name].shape)] = wanted[name].grad
        torch.testing.assert_close(parameter.grad, padded, rtol=1e-9, atol=1e-9, msg=name)
    assert any(p.grad is not None and bool((p.grad == 0).any()) for p in net.parameters())


@EACH
def test_width_one_is_the_backbone_and_training_gives_all_widths(kind):
    net = build(kind)
    x = image()
    outputs = net(x)
    assert list(outputs) == [1.0, *WIDTHS]
    assert torch.equal(outputs[1.0], net.backbone(x))
    for width, output in outputs.items():
        assert torch.equal(output, net(x, width=width))


@EACH
def test_one_forward_gives_the_widths_asked_for(kind):
    net, x = build(kind), image()  # in training: in eval mode ECBSR knows float32 only
    outputs = net(x, width=(0.5, 1.0))
    assert list(outputs) == [0.5, 1.0]
    for width, output in outputs.items():
        assert torch.equal(output, net(x, width=width))
    with pytest.raises(ValueError, match=r"Expected a width among .*but got 0.6"):
        net(x, width=[0.5, 0.6])


@EACH
def test_redrawn_a_student_begins_as_the_plain_network_of_its_size(kind):
    section, width_arg = BACKBONES[kind]
    net = build(kind)
    before = copy.deepcopy(net)
    torch.manual_seed(5)
    net.redraw(0.5)
    torch.manual_seed(5)
    arguments = {name: value for name, value in section.items() if name != "type"}
    plain = find_backbone(section["type"])(**{**arguments, width_arg: arguments[width_arg] // 2})
    found = dict(net.student(0.5).named_parameters())
    for name, parameter in plain.named_parameters():
        assert torch.equal(found[name], parameter.double()), name
    old = dict(before.backbone.named_parameters())
    for name, parameter in net.backbone.named_parameters():  # what only the teacher has is as it was
        same = parameter == old[name]
        same[tuple(slice(size) for size in found[name].shape)] = True
        assert same.all(), name


def test_what_cannot_be_redrawn():
    net = build("SPAN")
    for width in (1.0, 0.6):
        with pytest.raises(
            ValueError, match=r"Expected a width among \(0.25, 0.5, 0.75\) of a network that is not fus"
        ):
            net.redraw(width)
    with pytest.raises(ValueError, match=r"but got 0.5. Redraw before `fuse"):
        net.fuse().redraw(0.5)


def test_eval_uses_the_smallest_width():
    net = build("CARN", widths=(0.75, 0.25, 0.5)).eval()
    x = image()
    assert torch.equal(net(x), net(x, width=0.25))
    assert not net.student(0.25).training


def test_state_dicts_are_those_of_the_plain_backbone(tmp_path):
    for kind in BACKBONES:
        net = build(kind)
        plain = find_backbone(kind)(**{k: v for k, v in BACKBONES[kind][0].items() if k != "type"}).double()
        plain.load_state_dict(net.state_dict(), strict=True)
        other = build(kind)
        assert mismatch(other, plain.state_dict()) is None
        other.load_state_dict(plain.state_dict(), strict=True)
        for name, parameter in other.named_parameters():
            assert torch.equal(parameter, net.get_parameter(name)), (kind, name)
        other.load_state_dict({f"backbone.{name}": tensor for name, tensor in plain.state_dict().items()}, strict=True)


def test_a_fused_teacher_file_loads_to_be_trained_on():
    teacher = SPAN(feature_channels=8, upscale=2).double().fuse()
    net = build("SPAN")
    net.load_state_dict(teacher.state_dict())
    x = image()
    # re-expanding inverts matrices of random weights, in float64
    torch.testing.assert_close(net(x, width=1.0), teacher(x), rtol=1e-8, atol=1e-8)


def test_a_teacher_of_another_size_is_refused_in_one_message():
    net, other = build("EDSR"), build("EDSR", num_feat=12)
    assert "conv_first.weight: expected (8, 3, 3, 3), but the file has (12, 3, 3, 3)" in mismatch(
        net, other.state_dict()
    )
    deeper = build("EDSR", num_block=3)
    assert "body.2.conv1.weight" in mismatch(net, deeper.state_dict())


@pytest.mark.parametrize("kind", ["EDSR", "RCAN", "CARN", "SPAN"])
def test_saved_students_are_plain_networks(kind, tmp_path):
    net = build(kind).float().eval()
    torch.save({"params": net.student(0.5).state_dict()}, tmp_path / "student.pth")
    overrides = {"res_scale": 0.1} if kind == "EDSR" else {}
    loaded = load_model(tmp_path / "student.pth", **overrides)
    x = image().float()
    # float32, outputs of up to some tens
    torch.testing.assert_close(loaded(x), net(x, width=0.5), rtol=1e-5, atol=1e-4)


def test_copies_are_whole_and_independent():
    net = build("RCAN").eval()
    x = image()
    before = net(x)
    copied, pickled = copy.deepcopy(net), pickle.loads(pickle.dumps(net))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2)
    assert torch.equal(copied(x), before)
    assert torch.equal(pickled(x), before)
    assert not torch.equal(net(x), before)


@pytest.mark.parametrize("kind", ["EDSR", pytest.param("SPAN", marks=pytest.mark.slow)])
def test_compiled_it_gives_the_same_outputs_and_gradients(kind):
    net = build(kind, widths=(0.5,))
    compiled = torch.compile(copy.deepcopy(net), backend="aot_eager", fullgraph=True)
    x = image()
    ours, theirs = net(x), compiled(x)
    for output in (ours, theirs):
        (output[1.0].sum() + output[0.5].square().sum()).backward()
    torch.testing.assert_close(theirs, ours, rtol=1e-12, atol=1e-12)
    for name, parameter in compiled._orig_mod.named_parameters():
        torch.testing.assert_close(parameter.grad, net.get_parameter(name).grad, rtol=1e-9, atol=1e-9)


def test_under_autocast_students_compute_in_low_precision_and_learn_in_full():
    net = build("SPAN").float()
    with torch.autocast("cpu", torch.bfloat16):
        output = net(image().float(), width=0.5)
        full = net(image().float(), width=1.0)
    assert output.dtype == full.dtype == torch.bfloat16
    output.float().sum().backward()
    assert net.backbone.conv_cat.weight.grad.dtype == torch.float32


def test_building_students_leaves_the_random_numbers_alone():
    torch.manual_seed(3)
    plain, after = CARN(num_feat=8), torch.rand(1)
    torch.manual_seed(3)
    net = CSSRNet({"type": "CARN", "num_feat": 8}, WIDTHS)
    assert torch.equal(net.state_dict()["entry.weight"], plain.entry.weight)
    assert torch.equal(torch.rand(1), after)
    net.student(0.5)


def test_students_have_no_weights_of_their_own():
    net = build("CARN")
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in net.backbone.parameters())
    assert all(p.is_meta for student in net._skeletons.values() for p in student.parameters())


def test_fuse_keeps_every_width_as_it_was():
    net = build("SPAN").eval()
    x = image()
    before = {width: net(x, width=width) for width in (1.0, *WIDTHS)}
    assert net.fuse() is net
    net.fuse()
    assert all(layer.fused for layer in net.modules() if isinstance(layer, Conv3XC))
    assert not any(name.endswith("sk.weight") for name in net.state_dict())
    for width, output in before.items():
        # the same kernels, merged once instead of in every forward
        torch.testing.assert_close(net(x, width=width), output, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(net.student(width)(x), output, rtol=1e-12, atol=1e-12)
    other = build("SPAN").eval().fuse()
    other.load_state_dict(net.state_dict(), strict=True)
    assert torch.equal(other(x), net(x))


@pytest.mark.parametrize("kind", ["EDSR", "CARN"])
def test_fuse_leaves_plain_networks_as_they_are(kind):
    net = build(kind)
    before = net.state_dict().keys()
    assert net.fuse().fuse().state_dict().keys() == before


def test_a_quarter_of_the_width_has_a_sixteenth_of_the_parameters():
    with torch.device("meta"):
        edsr = find_backbone("EDSR")
        wide, narrow = (
            sum(p.numel() for p in edsr(3, 3, num_feat=features, num_block=32, res_scale=0.1).parameters())
            for features in (256, 64)
        )
    assert 15.5 < wide / narrow < 16.5
    net = CSSRNet({**EDSR, "num_feat": 64, "num_block": 4}, (0.25,))
    ratio = sum(p.numel() for p in net.parameters()) / sum(p.numel() for p in net.student(0.25).parameters())
    assert 14 < ratio < 16.5  # first and last layer shrink by 4 only


def test_edsr_has_the_parameters_and_operations_of_the_paper():
    counts = {}
    with torch.device("meta"):
        for features in (256, 64):
            network = find_backbone("EDSR")(3, 3, num_feat=features, num_block=32, res_scale=0.1, upscale=4)
            network.mean = network.mean.to("meta")
            with FlopCounterMode(display=False) as counter:
                network(torch.empty(1, 3, 64, 64))
            counts[features] = sum(p.numel() for p in network.parameters()), counter.get_total_flops()
    assert counts[256][0] == 43_089_923  # EDSR's 43 million
    assert 15.5 < counts[256][0] / counts[64][0] < 16.5
    assert 15.5 < counts[256][1] / counts[64][1] < 16.5


def test_the_section_of_the_option_file_stays_as_it_is():
    section = dict(EDSR)
    CSSRNet(section, [0.5])
    assert section == EDSR


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
    known = {name: each.network for name, each in architectures().items()} | {"Unknown": Attention}
    monkeypatch.setattr("dscsr_arch.cssr_arch.find_backbone", lambda name: known.get(name) or find_backbone(name))


def test_a_network_that_is_not_known_splits_by_the_arguments_named(unknown):
    net = CSSRNet({"type": "Unknown"}, (0.5,), width_args="size").eval()
    x = image().float()
    student = net.student(0.5)
    assert student.factor.flatten().tolist() == [1, 2, 3, 4]
    assert torch.equal(net(x), student(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "EDSR"}, "Expected `backbone` to be a network section .* but got 'EDSR'"),
        ({"backbone": {"num_feat": 8}}, "Expected `backbone` to be a network section"),
        ({"backbone": {"type": "EDRS"}}, "got 'EDRS', which does not exist. Did you mean: .*EDSR"),
        ({"backbone": {"type": "Unknown"}}, "Expected `width_args` for Unknown.*it has: size, depth, norm"),
        ({"width_args": "size"}, "Expected `size` to be a whole number in the backbone.* but got None"),
        ({"backbone": {"type": "Unknown"}, "width_args": ["depth", "size"]}, "but got 0.5 of `depth: 1`"),
        ({"backbone": {"type": "Unknown", "depth": 2}, "width_args": "depth"}, "to make layers narrower"),
        ({"backbone": {"type": "Unknown", "norm": True}, "width_args": "size"}, "running statistics.*BatchNorm2d"),
        ({"backbone": {**EDSR, "num_fea": 8}}, "Expected arguments that EDSR takes.*num_fea"),
        ({"widths": (0.3,)}, r"Expected width 0.3 to leave a whole number of channels.*got 2.4 of `num_feat: 8`"),
        ({"widths": (0.01,)}, r"Expected width 0.01 to leave a whole number of channels"),
        ({"widths": (1.0,)}, "Expected `widths` to be different numbers between 0 and 1"),
        ({"widths": ()}, "Expected `widths`"),
        ({"widths": (0.5, 0.5)}, "Expected `widths`"),
        ({"widths": "0.5"}, "Expected `widths`"),
        ({"backbone": {**RCAN, "squeeze_factor": 8}, "widths": (0.25,)}, "at least one channel in every layer"),
        ({"backbone": {**SWINIR, "num_heads": [8]}, "widths": (0.25,)}, "divisible by each of `num_heads`, but got 4"),
    ],
)
def test_bad_arguments(unknown, arguments, message):
    with pytest.raises(ValueError, match=message):
        CSSRNet(**{"backbone": EDSR, "widths": (0.5,), **arguments})


def test_conv_lora_in_the_backbone_is_refused():
    with pytest.raises(ValueError, match="Expected a backbone without ConvLoRA, but got DSCLoRA"):
        CSSRNet({"type": "DSCLoRA"}, (0.5,), "feature_channels")


def test_a_width_that_was_not_declared():
    net = build("CARN", widths=(0.5,))
    for use in (lambda: net(image(), width=0.25), lambda: net.student(0.25)):
        with pytest.raises(ValueError, match=r"Expected a width among \(1.0, 0.5\), but got 0.25. Add it to `widths`"):
            use()


def test_without_basicsr_our_networks_are_built_and_others_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "basicsr.archs", None)
    CSSRNet(EDSR, (0.5,))
    with pytest.raises(ValueError, match=r"no BasicSR that can be imported .* Install it: pip install"):
        CSSRNet(SWINIR, (0.5,))


DDP = """
import sys, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from dscsr_arch import CSSRNet
rank, store, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.set_num_threads(1)
torch.manual_seed(0)
net = CSSRNet({"type": "CARN", "num_feat": 8, "upscale": 2}, (0.5,)).double()
x = torch.rand(2, 3, 6, 5, dtype=torch.float64)
def loss(outputs):
    return outputs[1.0].square().mean() + outputs[0.5].square().mean()
if rank < 0:
    loss(net(x)).backward()
else:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    wrapped = DistributedDataParallel(net)
    loss(wrapped(x[rank : rank + 1])).backward()
if rank <= 0:
    torch.save({name: p.grad for name, p in net.named_parameters()}, out)
"""


@pytest.mark.slow
def test_two_ranks_take_the_gradients_of_one_process(run_python, tmp_path):
    with ThreadPoolExecutor() as pool:
        each = [(-1, "one.pt"), (0, "two.pt"), (1, "two.pt")]
        runs = [pool.submit(run_python, "-c", DDP, rank, tmp_path / "store", out, check=True) for rank, out in each]
        for run in runs:
            run.result()
    one, two = torch.load(tmp_path / "one.pt"), torch.load(tmp_path / "two.pt")
    torch.testing.assert_close(two, one, rtol=1e-9, atol=1e-12)  # float64; sums in another order
    assert max(grad.abs().max() for grad in one.values()) > 0

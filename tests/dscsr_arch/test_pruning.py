import copy
import re

import pytest
import torch
from small_models import SWINIR
from torch import nn
from torch.nn import functional as F

from dscsr_arch import CARN, EDSR, RCAN, SPAN, SPANF, SPANV2
from dscsr_arch.channel_split import prefix, tensors
from dscsr_arch.channel_trace import trace_channels
from dscsr_arch.deployable import deployable
from dscsr_arch.foreign import arguments_of_section, find_backbone
from dscsr_arch.metadata import Metadata
from dscsr_arch.narrower import narrower
from dscsr_arch.pruning import cut_into, l2_importance, permuted, plan, prune, taylor_importance

RRDB = {"type": "RRDBNet", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_grow_ch": 4, "num_block": 1}

NETWORKS = {  # and kernels that read several groups of channels side by side: there, a cut is no prefix
    "SPAN": (lambda: SPAN(feature_channels=8, upscale=2), r"conv_cat"),
    "SPANF": (lambda: SPANF(feature_channels=8, upscale=2, num_blocks=3), r"conv_cat"),
    "SPANV2": (lambda: SPANV2(feature_channels=8, upscale=2, num_blocks=3), r"depthwise_conv|pointwise_conv"),
    "EDSR": (lambda: EDSR(num_feat=8, num_block=2, res_scale=0.1), r"none"),
    "RCAN": (lambda: RCAN(num_feat=8, num_group=2, num_block=2, squeeze_factor=2, upscale=2), r"none"),
    "RRDBNet": (lambda: of_basicsr(RRDB), r".*rdb\d\.conv[2-5]"),
    "CARN": (lambda: CARN(num_feat=4, upscale=3), r".*\.conv|c\d\.conv"),
}
IMAGE = torch.rand(1, 3, 11, 14, dtype=torch.float64)


def of_basicsr(section):
    """A network that says what it is, as those of option files do."""
    kind = find_backbone(section["type"])
    arguments = arguments_of_section(section, kind)
    network = kind(**arguments)
    network.described_as = Metadata(section["type"], arguments)
    return network


def with_random_weights(network):
    """In float64, fused; biases are not zero either."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return deployable(network).double()


@pytest.mark.parametrize("name", NETWORKS)
def test_order_changes_no_image_and_a_cut_is_as_if_nothing_read_what_is_gone(name):
    """To 1e-10: sums of float64 in another order."""
    build, side_by_side = NETWORKS[name]
    network = with_random_weights(build())
    channels = trace_channels(network, IMAGE)
    narrow, changed = narrower(network, 0.5)
    assert all(old == 2 * new for old, new in changed.values())
    cuts = plan(network, narrow, channels)
    importance = torch.rand(channels.total)
    wide = permuted(network, channels, cuts, importance)
    assert any(not torch.equal(one, tensors(network)[layer]) for layer, one in tensors(wide).items())
    whole = network(IMAGE)
    torch.testing.assert_close(wide(IMAGE), whole, rtol=0, atol=1e-10)

    gone = {each for cut in cuts for each in sorted(cut.channels, key=lambda c: -importance[c])[cut.keep :]}
    unread = copy.deepcopy(network)
    for (layer, axis), here in channels.sides.items():
        if (layer, axis) not in channels.made:
            dropped = [place for place, channel in enumerate(here) if channel in gone]
            tensors(unread)[layer].index_fill_(axis, torch.tensor(dropped, dtype=torch.int64), 0)
    expected = unread(IMAGE)
    assert not torch.allclose(expected, whole)
    torch.testing.assert_close(cut_into(narrow.double(), wide, channels, cuts)(IMAGE), expected, rtol=0, atol=1e-10)
    for layer, tensor in tensors(narrow).items():
        same = torch.equal(tensor, prefix(tensors(wide)[layer], tensor.shape))
        assert same or re.fullmatch(rf"({side_by_side})\.(weight|bias)", layer), layer


class Small(nn.Module):
    """All that ties channels: a PReLU, a product, a depthwise convolution, a transposed one, a residual scale."""

    def __init__(self, width=6, inner=4):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.slopes = nn.PReLU(width)
        self.each = nn.Conv2d(width, 2 * width, 3, padding=1, groups=width)
        self.mix = nn.Conv2d(2 * width, inner, 1, bias=False)
        self.gate = nn.Conv2d(inner, inner, 1)
        self.scale = nn.Parameter(torch.rand(inner, 1, 1))
        self.up = nn.ConvTranspose2d(inner, 3, 2, stride=2)
        self.described_as = Metadata("Small", {"width": width, "inner": inner})

    def forward(self, x):
        x = self.mix(self.each(F.pad(self.slopes(self.first(x)), (1, 0, 0, 1))))
        return self.up(x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True))) + self.scale * x)


@pytest.mark.parametrize("layers", [["width"], ["inner"], ["width", "inner"]])
def test_whatever_ties_channels(layers):
    network = with_random_weights(Small())
    result = prune(network, 2, IMAGE, layers=layers)
    assert result.changed == {name: ({"width": 6, "inner": 4}[name], 2) for name in layers}
    assert result.network.double()(IMAGE).shape == network(IMAGE).shape
    channels = trace_channels(network, IMAGE)
    cuts = plan(network, narrower(network, 2, layers).network, channels)
    wide = permuted(network, channels, cuts, torch.rand(channels.total))
    torch.testing.assert_close(wide(IMAGE), network(IMAGE), rtol=0, atol=1e-10)


def test_importance_is_the_norm_of_what_reads_or_the_first_order_of_the_loss():
    """Of SPANF's tail, whose kernels are two."""
    network = with_random_weights(SPANF(feature_channels=4, upscale=2, num_blocks=2, tail_channels=5))
    channels = trace_channels(network, IMAGE)
    tail = channels.sides["conv_cat.weight", 0]
    reading = network.conv_2.eval_conv.weight
    torch.testing.assert_close(l2_importance(network, channels)[tail], reading.square().sum((0, 2, 3)).sqrt())

    pairs = [(torch.rand_like(IMAGE), torch.rand(1, 3, 22, 28, dtype=torch.float64)) for _ in range(2)]
    expected = torch.zeros(5, dtype=torch.float64)
    learned = network.requires_grad_(True)
    for lq, gt in pairs:
        learned.zero_grad()
        (learned(lq) - gt).abs().mean().backward()
        for kernel, others in ((reading, (0, 2, 3)), (network.conv_cat.weight, (1, 2, 3)), (network.conv_cat.bias, ())):
            cost = (kernel * kernel.grad).abs()
            expected += (cost.sum(others) if others else cost).detach() / 2
    torch.testing.assert_close(taylor_importance(network, channels, pairs)[tail], expected)


def test_refitted_layers_give_what_was_there_as_nearly_as_least_squares_do():
    """conv_2 after the tail is cut: fitted plainly, on patches of its input, in the test."""
    network = with_random_weights(SPANF(feature_channels=4, upscale=2, num_blocks=2, tail_channels=5))
    network.float()
    pairs = [(torch.rand(1, 3, 20, 20), torch.rand(1, 3, 40, 40)) for _ in range(2)]
    options = {"layers": ["tail"], "pairs": pairs}
    cut, fitted = (prune(network, 3, pairs[0][0], **options, refit=refit).network for refit in (False, True))
    inputs, outputs = [], []
    cut.conv_2.register_forward_pre_hook(lambda _, args: inputs.append(F.unfold(args[0], 3, padding=1)[0]))
    network.conv_2.register_forward_hook(lambda _, args, out: outputs.append(out[0].flatten(1)))
    for lq, _ in pairs:
        cut(lq), network(lq)
    x = torch.cat(inputs, dim=1).double()
    x = torch.cat([x, x.new_ones(1, x.shape[1])])
    solution = torch.linalg.lstsq(x.T, torch.cat(outputs, dim=1).T.double()).solution.T
    weight, bias = solution[:, :-1].view(12, 3, 3, 3), solution[:, -1]
    torch.testing.assert_close(fitted.conv_2.eval_conv.weight.double(), weight, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(fitted.conv_2.eval_conv.bias.double(), bias, rtol=1e-3, atol=1e-3)


class Normed(Small):
    """A softmax over channels: they can neither move nor go."""

    def forward(self, x):
        return self.up(self.mix(self.each(torch.softmax(self.first(x), 1))))


@pytest.mark.parametrize(
    ("network", "keep", "layers", "message"),
    [
        (
            SPAN(feature_channels=8),
            0.97,
            [],
            "leave some of the 8 channels of `feature_channels`, not all, but got 0.97, ",
        ),
        (SPAN(feature_channels=8), 0.01, [], "but got 0.01, which is 0. Choose a number below 8"),
        (SPAN(feature_channels=8), 8, [], "not all, but got 8"),
        (SPAN(feature_channels=8), 1, [], "a part of the channels between 0 and 1, or a number of channels"),
        (SPANF(feature_channels=8), 0.5, ["tial"], "'tial'. Did you mean: tail_channels"),
        (SPAN(feature_channels=8), 0.5, ["num_in_ch"], "'num_in_ch'"),
        (
            of_basicsr(SWINIR),
            0.5,
            [],
            "channels at conv_first.weight that can go, but got others: they go through `view`",
        ),
        (Small(), 0.5, [], "its width arguments are not known here"),
        (Small(), 2, ["stride"], "`layers` among the arguments of Small that are channels"),
        (Normed(), 2, ["width"], "channels at first.weight that can go, but got others: they go through `_softmax`"),
    ],
)
def test_what_cannot_be_pruned(network, keep, layers, message):
    with pytest.raises(ValueError, match=message):
        prune(deployable(network), keep, IMAGE.float()[..., :8, :8], layers=layers)

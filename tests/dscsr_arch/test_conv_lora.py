import copy

import pytest
import torch
from small_models import with_updates
from torch import nn

from dscsr_arch import SPAN, conv_lora
from dscsr_arch.conv_lora import (
    inject,
    load_lora_state_dict,
    lora_layers,
    lora_state_dict,
)
from dscsr_arch.errors import LoRAError

EXACT = {"rtol": 0, "atol": 1e-12}  # float64, values of the order of 1


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(6, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 6, 1)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x + self.scale * self.conv2(torch.tanh(self.conv1(x)))


class Small(nn.Module):
    """A plain network; `again` is the layer `tail` once more."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.body = nn.Sequential(Block(), nn.BatchNorm2d(6), Block())
        self.tail = nn.Conv2d(6, 6, (3, 1), padding=(1, 0), padding_mode="reflect")
        self.again = self.tail
        self.linear = nn.Linear(6, 3)

    def forward(self, x):
        x = self.again(torch.tanh(self.tail(self.body(self.head(x)))))
        return self.linear(x.movedim(1, -1)).movedim(-1, 1)


@pytest.fixture
def net():
    return Small().double().eval()


def image():
    return torch.rand(2, 3, 7, 9, dtype=torch.float64)


@pytest.mark.parametrize(
    ("pattern", "layers"),
    [
        ("body.*", {"body.0.conv1", "body.0.conv2", "body.2.conv1", "body.2.conv2"}),
        ("body.2", {"body.2.conv1", "body.2.conv2"}),
        ("*.conv[1]", {"body.0.conv1", "body.2.conv1"}),
        ("again", {"tail"}),
        ("*", {"head", "body.0.conv1", "body.0.conv2", "body.2.conv1", "body.2.conv2", "tail", "linear"}),
    ],
)
def test_patterns_name_layers_and_what_they_hold(net, pattern, layers):
    x = image()
    before = net(x)
    assert inject(net, {pattern: (2, 4)}) is net
    assert set(lora_layers(net)) == layers
    # Nothing is added yet, but a processor may sum the copied kernels in another order (seen with AVX-512).
    torch.testing.assert_close(net(x), before, rtol=0, atol=1e-14)
    assert {name for name, p in net.named_parameters() if p.requires_grad} == {
        f"{layer}.lora_{factor}" for layer in layers for factor in "AB"
    }


def test_depthwise_convolutions_are_left_out_or_get_the_rank_that_they_allow(net):
    for block in (net.body[0], net.body[2]):
        block.depthwise = nn.Conv2d(6, 6, 3, groups=6)
    said = r"at most 1 .*\(6, 1, 3, 3\) .* in body.0.depthwise and 1 more, .* `'body.\*.depthwise': ~`, .* `rank: auto`"
    with pytest.raises(LoRAError, match=said):
        inject(net, {"body": (4, 8)})
    without = lora_layers(inject(copy.deepcopy(net), {"body.*.depthwise": None, "body": (4, 8)}))
    assert list(without) == [f"body.{block}.conv{number}" for block in (0, 2) for number in (1, 2)]
    lowered = lora_layers(inject(net, {"body": (4, 8)}, clip_ranks=True))
    assert {name: (layer.rank, layer.alpha) for name, layer in lowered.items() if name not in without} == {
        "body.0.depthwise": (1, 2), "body.2.depthwise": (1, 2)
    }  # fmt: skip
    assert {(layer.rank, layer.alpha) for name, layer in lowered.items() if name in without} == {(4, 8)}


def test_of_several_patterns_the_first_counts(net):
    inject(net, {"*.conv1": (3, 6), "body.2.*": [1, 2], "*": (2, 4)}, dropout=0.1)
    settings = {name: (layer.rank, layer.alpha, layer.dropout) for name, layer in lora_layers(net).items()}
    assert settings == {
        "head": (2, 4, 0.1), "body.0.conv1": (3, 6, 0.1), "body.0.conv2": (2, 4, 0.1),
        "body.2.conv1": (3, 6, 0.1), "body.2.conv2": (1, 2, 0.1), "tail": (2, 4, 0.1),
        "linear": (2, 4, 0.1),
    }  # fmt: skip


def test_merge_unmerge_and_fuse_a_whole_network(net):
    base = copy.deepcopy(net)
    with_updates(inject(net, {"*": (2, 4)}))
    x = image()
    out = net(x)
    assert (out - base(x)).abs().max() > 1e-3
    state = copy.deepcopy(net.state_dict())
    for _ in range(10):
        assert conv_lora.merge(conv_lora.merge(net)) is net
        torch.testing.assert_close(net(x), out, **EXACT)
        assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
        fused = conv_lora.fuse(copy.deepcopy(net))
        assert conv_lora.unmerge(conv_lora.unmerge(net)) is net
    assert torch.equal(net(x), out)
    assert conv_lora.fuse(conv_lora.fuse(net)) is net
    for form in (net, fused):
        torch.testing.assert_close(form(x), out, **EXACT)
        assert repr(form) == repr(base)
        assert form.again is form.tail
        assert list(form.state_dict()) == list(base.state_dict())


def test_adapters_are_saved_alone_and_loaded_onto_their_base_by_any_name_of_a_layer(net):
    base = copy.deepcopy(net)
    with_updates(inject(net, {"body.*": (2, 4), "tail": (1, 3)}, dropout=0.2))
    state = copy.deepcopy(lora_state_dict(net))
    assert len(state) == 5 * 3
    x = image()
    assert load_lora_state_dict(base, {name.replace("tail", "again"): tensor for name, tensor in state.items()}) is base
    torch.testing.assert_close(base(x), net(x), **EXACT)
    assert {name: (layer.rank, layer.alpha) for name, layer in lora_layers(base).items()} == {
        name: (layer.rank, layer.alpha) for name, layer in lora_layers(net).items()
    }
    assert not base.head.weight.requires_grad


def test_a_fused_span_carries_it_and_fuses_it():
    net = SPAN(feature_channels=4, upscale=2).double().fuse().eval()
    with_updates(inject(net, {"block_*": (2, 4), "conv_cat": (1, 2)}))
    x = torch.rand(1, 3, 5, 6, dtype=torch.float64)
    out = net(x)
    for unfuse, of in ((net.unfuse, "network"), (net.block_1.c2_r.unfuse, "layer")):
        with pytest.raises(LoRAError, match=rf"Expected a {of} without ConvLoRA to unfuse\. Call fuse\(\)"):
            unfuse()
        assert net.conv_1.fused
    torch.testing.assert_close(net.fuse()(x), out, rtol=1e-11, atol=0)
    torch.testing.assert_close(net.unfuse()(x), out, rtol=1e-8, atol=0)  # solved with pseudo-inverses
    assert not lora_layers(net)


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ({}, r"Expected patterns of layer names with their \(rank, alpha\), but got \{\}"),
        ({"*": (2, 4), "head": (3, 4)}, r"'head' to meet a layer of its own, but .* \(head\)\. .* move it"),
        ({"head": (1, 2, 3)}, r"Expected \(rank, alpha\) for the pattern 'head', but got \(1, 2, 3\)"),
        ({"tail": (2, 4), "head": (4, 4)}, r"rank of at most 3 \(all .* \(6, 3, 3, 3\) allows\) in head, but got 4"),
        ({"head": None}, "but got {'head': None}, which leave every layer out"),
        ({"tail": (2, 4), "head": (2, -4)}, "alpha of layer 'head' to be a positive number, but got -4"),
    ],
)
def test_a_bad_pattern_or_setting_leaves_the_network_untouched(net, ranks, message):
    modules = list(net.modules())
    with pytest.raises(LoRAError, match=message):
        inject(net, ranks)
    assert [id(module) for module in net.modules()] == [id(module) for module in modules]
    assert all(p.requires_grad for p in net.parameters())


def test_layers_that_cannot_carry_it_leave_the_network_untouched(net):
    net.extra = nn.LazyConv2d(2, 1)
    with pytest.raises(
        LoRAError, match=r"Expected layer 'extra' to be a plain nn\.Conv2d or nn\.Linear, but got LazyConv2d"
    ):
        inject(net, {"*": (1, 4)})
    assert not lora_layers(net)
    inject(net, {"head": (2, 4)})
    message = "'head' to be without LoRA or of rank 3, alpha 4, .* but got one of rank 2, alpha 4, dropout 0. Fuse"
    with pytest.raises(LoRAError, match=message):
        inject(net, {"tail": (1, 4), "head": (3, 4)})
    assert set(lora_layers(net)) == {"head"}


@pytest.mark.parametrize(
    ("module", "layer"),
    [(nn.MultiheadAttention(4, 2), "out_proj"), (nn.TransformerEncoderLayer(4, 2, 4), "linear1")],
    ids=["attention", "transformer"],
)
def test_layers_whose_weights_others_read_are_refused(module, layer):
    net = nn.Sequential(nn.Linear(4, 4), module)
    said = rf"'1.{layer}' to be one .* got a part of a {type(module).__name__}, which .* Leave it out: `'1.{layer}': ~`"
    with pytest.raises(LoRAError, match=said):
        inject(net, {"0": (1, 2), f"1.{layer}": (1, 2)})
    assert not lora_layers(net)


def test_dora_is_its_own_setting_and_stays_with_its_layers(net):
    """Merging is `test_lora_layer`'s."""
    base = copy.deepcopy(net)
    inject(net, {"linear": (2, 4), "*.conv1": (2, 4, False), "tail": (1, 2, True)}, dora=True)
    assert {name: layer.dora for name, layer in lora_layers(net).items()} == {
        "body.0.conv1": False, "body.2.conv1": False, "tail": True, "linear": True
    }  # fmt: skip
    magnitudes = {"tail.lora_magnitude", "linear.lora_magnitude"}
    trained = {name for name, p in net.named_parameters() if p.requires_grad and ".lora_" in name}
    assert magnitudes < trained == {name for name in lora_state_dict(net) if not name.endswith("alpha")}
    for layer in lora_layers(with_updates(net)).values():
        if layer.dora:
            nn.init.uniform_(layer.lora_magnitude)
    state, x = lora_state_dict(net), image()
    loaded = load_lora_state_dict(copy.deepcopy(base), state)
    torch.testing.assert_close(loaded(x), net(x), **EXACT)
    other = inject(base, {"*.conv1": (2, 4), "tail": (1, 2), "linear": (2, 4)})
    message = r"'tail' to be without LoRA or of rank 1, DoRA, but got one of rank 1\. Fuse"
    with pytest.raises(LoRAError, match=message):
        load_lora_state_dict(other, state)
    short = {**state, "tail.lora_magnitude": torch.ones(5)}
    with pytest.raises(LoRAError, match=r"lora_B \(18, 1\) and lora_magnitude \(5,\)"):
        load_lora_state_dict(net, short)


def test_a_span_that_is_not_fused_is_refused():
    net = SPAN(feature_channels=4)
    with pytest.raises(
        LoRAError, match=r"'conv_1.sk' to be one .* got a part of a Conv3XC, which reads .* fuse\(\) first"
    ):
        inject(net, {"*": (1, 4)})
    assert all(p.requires_grad for p in net.parameters())
    assert set(lora_layers(inject(net, {"conv_cat": (1, 4)}))) == {"conv_cat"}


def test_adapters_that_do_not_fit_leave_the_network_untouched(net):
    base = copy.deepcopy(net)
    state = lora_state_dict(with_updates(inject(net, {"head": (2, 4), "tail": (2, 4)})))
    narrow = {**state, "head.lora_A": state["head.lora_A"][:, :6]}
    odd = {**state, "head.lora_A": state["head.lora_A"][:5], "head.lora_B": state["head.lora_B"][:, :5]}
    moved = {name.replace("head", "neck"): tensor for name, tensor in state.items()}
    for wrong, message in (
        (narrow, r"fit a weight \(6, 3, 3, 3\) of layer 'head', but got lora_A \(6, 6\) and lora_B \(18, 6\)"),
        (odd, r"fit a weight \(6, 3, 3, 3\) of layer 'head', but got lora_A \(5, 9\) and lora_B \(18, 5\)"),
        (moved, r"Expected adapters of layers of the network \(head, .*\), but got one of 'neck'\. Take"),
        ({**state, "head.weight": base.head.weight}, r"Expected LoRA entries only .*, but got head\.weight"),
    ):
        with pytest.raises(LoRAError, match=message):
            load_lora_state_dict(base, wrong)
        assert not lora_layers(base)
        assert base.head.weight.requires_grad
    other = inject(copy.deepcopy(base), {"head": (1, 4), "tail": (2, 4)})
    with pytest.raises(LoRAError, match=r"'head' to be without LoRA or of rank 2, but got one of rank 1\. Fuse"):
        load_lora_state_dict(other, state)
    assert not other.tail.lora_B.any()
    with pytest.raises(LoRAError, match=r"of every LoRA layer of the network, but got none of body\.0\.conv1"):
        load_lora_state_dict(inject(copy.deepcopy(base), {"*": (2, 4)}), state)
    with pytest.raises(LoRAError, match="Expected a network with LoRA layers, but got one without"):
        lora_state_dict(base)

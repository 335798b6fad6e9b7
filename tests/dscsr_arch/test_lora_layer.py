import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from dscsr_arch.errors import LoRAError
from dscsr_arch.lora_layer import ConvLoRA, LinearLoRA, with_lora

EXACT = {"rtol": 0, "atol": 1e-12}  # float64, values of the order of 1


def make(dropout=0.0, dora=False):
    """A convolution of random bias, and the same with an update that is not zero."""
    conv = nn.Conv2d(4, 6, 3, padding=1, dtype=torch.float64)
    return conv, updated(conv, 2, 3.0, dropout, dora)


def updated(plain, *settings):
    layer = with_lora(copy.deepcopy(plain), *settings)
    nn.init.normal_(layer.lora_B)
    if layer.dora:
        nn.init.uniform_(layer.lora_magnitude, 0.5, 2)
    return layer


def image(*size):
    return torch.rand(*(size or (2, 4, 9, 7)), dtype=torch.float64) - 0.5


def formula(plain, layer, x, alpha=3.0, rank=2):
    """The layer as published: the plain one, with the weight of LoRA, or of DoRA, output by output."""
    whole = copy.deepcopy(plain)
    weight = plain.weight + alpha / rank * (layer.lora_B @ layer.lora_A).view(plain.weight.shape)
    if layer.dora:
        rows = zip(layer.lora_magnitude, weight, strict=True)
        weight = torch.stack([magnitude * row / row.square().sum().sqrt() for magnitude, row in rows])
    whole.weight = nn.Parameter(weight.detach())
    return whole(x)


@settings(max_examples=60)
@given(
    size=st.tuples(*[st.integers(1, 4)] * 4),
    groups=st.integers(1, 3),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    dilation=st.integers(1, 2),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)) | st.just("same"),
    mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
    bias=st.booleans(),
    alpha=st.floats(0.1, 50),
    linear=st.booleans(),
    dora=st.booleans(),
    data=st.data(),
)
def test_a_layer_is_its_formula_before_and_after_merging_and_loading(
    size, groups, alpha, linear, dora, data, **geometry
):
    """Of any geometry, with any rank up to its limit."""
    out, inp, height, width = size
    how = {"stride": geometry["stride"], "padding": geometry["padding"], "dilation": geometry["dilation"]}
    if how["padding"] == "same":
        how["stride"] = 1
    how |= {"groups": groups, "bias": geometry["bias"], "padding_mode": geometry["mode"], "dtype": torch.float64}
    conv = nn.Conv2d(inp * groups, out * groups, (height, width), **how)
    limit = min(out * groups * height, inp * width) // math.gcd(height, width)
    x, close = image(1, inp * groups, 9, 8), {"rtol": 1e-12, "atol": 1e-11}
    if linear:
        conv, limit, x = nn.Linear(inp, out, how["bias"], dtype=torch.float64), min(inp, out), image(2, 9, inp)
    rank = data.draw(st.integers(1, limit))
    layer = updated(conv, rank, alpha, 0.0, dora)
    assert (layer.rank, layer.alpha, type(layer)) == (rank, alpha, LinearLoRA if linear else ConvLoRA)
    expected = formula(conv, layer, x, alpha, rank)
    assert (expected - conv(x)).abs().max() > 1e-9
    torch.testing.assert_close(layer(x), expected, **close)
    for _ in range(3):
        assert layer.merge().merge() is layer
        torch.testing.assert_close(layer(x), expected, **close)
        layer.unmerge().unmerge()
    assert torch.equal(layer.weight, conv.weight)
    other = updated(conv, rank, alpha, 0.0, dora).merge()
    other.load_state_dict(layer.state_dict())
    for form in (layer, other, other.unmerge()):
        torch.testing.assert_close(form(x), expected, **close)
    for form in (layer, layer.merge()):
        fused = form.fuse()
        assert type(fused) is type(conv)
        assert repr(fused) == repr(conv)
        torch.testing.assert_close(fused(x), expected, **close)
    with pytest.raises(LoRAError, match=f"to be an integer from 1 to {limit} "):
        ConvLoRA(conv, limit + 1, alpha)


def test_the_factors_have_the_published_shapes_and_start():
    layer = ConvLoRA(nn.Conv2d(26, 48, 3).eval(), 8, 16)
    assert (layer.lora_A.shape, layer.lora_B.shape) == ((24, 78), (144, 24))
    assert not layer.lora_B.any()
    bound = 1 / 78**0.5  # Kaiming-uniform with a = √5
    assert 0.9 * bound < layer.lora_A.abs().max() <= bound
    assert {name for name, p in layer.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}
    assert set(layer.state_dict()) == {"weight", "bias", "lora_A", "lora_B", "lora_alpha"}
    assert not layer.training


def test_train_and_eval_never_merge():
    conv, layer = make()
    for change in (layer.eval, layer.train, layer.merge, layer.eval, layer.train, layer.unmerge, layer.eval):
        merged = layer.merged
        change()
        assert layer.merged == (True if change == layer.merge else False if change == layer.unmerge else merged)
        assert torch.equal(layer.state_dict()["weight"], conv.weight)


@pytest.mark.parametrize("dora", [False, True])
def test_a_new_layer_is_its_base_and_so_is_one_that_loads_a_base(dora):
    conv = nn.Conv2d(4, 6, 3)
    nn.init.zeros_(conv.weight[1])
    layer, x = ConvLoRA(copy.deepcopy(conv), 2, 4, 0.0, dora), image().float()
    assert torch.equal(layer.effective_weight(), conv.weight)
    other = updated(nn.Conv2d(4, 6, 3), 2, 4, 0.0, dora).merge()
    other.load_state_dict(conv.state_dict())
    assert torch.equal(other.unmerge().effective_weight(), conv.weight)
    layer(x).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters() if p.requires_grad)


def test_dora_learns_by_the_gradient_of_its_formula():
    _, layer = make(dora=True)
    x = image(1, 4, 3, 2)
    for name in ("lora_A", "lora_B", "lora_magnitude"):
        parameter = getattr(layer, name)
        assert torch.autograd.gradcheck(
            lambda value, name=name: torch.func.functional_call(layer, {name: value}, (x,)),
            parameter.detach().clone().requires_grad_(),
        )


@pytest.mark.parametrize("dora", [False, True])
def test_dropout_meets_the_update_only_and_only_in_training(dora):
    conv, layer = make(0.4, dora)
    x = image(1, 4, 64, 64)
    without = formula(conv, layer, x)
    torch.testing.assert_close(layer.eval()(x), without, **EXACT)
    layer.train()
    torch.manual_seed(5)
    out = layer(x)
    torch.manual_seed(5)
    dropped = F.dropout(x, 0.4)
    torch.testing.assert_close(out - conv(x), formula(conv, layer, dropped) - conv(dropped), **EXACT)
    assert (out - without).abs().max() > 0.1
    torch.testing.assert_close(layer.merge()(x), without, **EXACT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_rounded_network_forms_its_weight_in_float32(dtype):
    conv, layer = make()
    layer.to(dtype)
    wanted = conv.weight.to(dtype).float() + 1.5 * (layer.lora_B.float() @ layer.lora_A.float()).view(6, 4, 3, 3)
    assert torch.equal(layer.effective_weight(), wanted.to(dtype))
    assert layer(image().to(dtype)).dtype == dtype
    assert torch.equal(layer.merge().weight, wanted.to(dtype))
    assert torch.equal(layer.unmerge().weight, conv.weight.to(dtype))


def test_under_autocast_the_weight_is_formed_in_float32():
    _, layer = make()
    weight = layer.float().effective_weight()
    x = image().float()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.effective_weight(), weight)
        assert torch.equal(layer(x), F.conv2d(x, weight, layer.bias, padding=1))
        assert torch.equal(layer.merge().weight, weight)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_compiled_in_one_graph(dropout):
    _, layer = make(dropout=dropout)
    layer.eval()
    x = image()
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x), **EXACT)
    layer.train()
    compiled(x).sum().backward()
    assert layer.lora_A.grad.abs().max() > 0


def test_buffers_written_between_forward_and_backward_do_no_harm():
    """DistributedDataParallel writes every buffer at each forward; two forwards may come before one backward."""
    _, layer = make()
    first = layer(image())
    with torch.no_grad():
        layer.lora_alpha.copy_(layer.lora_alpha.clone())
    (first + layer(image())).sum().backward()
    assert layer.lora_B.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": 0}, r"Expected the LoRA rank of this layer to be an integer from 1 to 4 .* but got 0"),
        ({"rank": 5}, r"from 1 to 4 \(what its weight \(6, 4, 3, 3\) allows\), but got 5. Give a smaller"),
        ({"alpha": 0}, "Expected the LoRA alpha of this layer to be a positive number, but got 0"),
        ({"alpha": math.inf}, "alpha .* but got inf"),
        ({"dropout": 1.0}, r"Expected the LoRA dropout of this layer to be a number in \[0, 1\), but got 1.0"),
    ],
)
def test_values_out_of_range_are_refused(values, message):
    conv = nn.Conv2d(4, 6, 3)
    with pytest.raises(LoRAError, match=message):
        ConvLoRA(conv, **{"rank": 2, "alpha": 4.0, **values})
    assert conv.weight.requires_grad


class Standardised(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, self.weight / self.weight.std(), self.bias)


@pytest.mark.parametrize(
    "conv",
    [
        Standardised(4, 6, 3),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 6, 3)),
        nn.LazyConv2d(6, 3),
        ConvLoRA(nn.Conv2d(4, 6, 3), 1, 4),
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)),
    ],
    ids=["own forward", "weight_norm", "lazy", "ConvLoRA", "weight_norm of nn.Linear"],
)
def test_layers_that_do_more_are_refused(conv):
    with pytest.raises(
        LoRAError, match=r"Expected this layer to be a plain nn.Conv2d or nn.Linear, but got \w+, which forms"
    ):
        with_lora(conv, 1, 4)

"""`load_model` builds the right network from a file; what files may hold otherwise is in test_weight_files."""

import copy

import pytest
import torch
from small_models import with_updates

from dscsr_arch import CARN, EDSR, RCAN, SPAN, DSCLoRA, load_model
from dscsr_arch.conv_lora import lora_layers, lora_state_dict
from dscsr_arch.errors import WeightsError

SMALL = {"feature_channels": 8, "upscale": 2}


@pytest.fixture
def net():
    return SPAN(**SMALL).eval()


@torch.no_grad()
def same(network, other, channels=3):
    x = torch.rand(1, channels, 5, 6)
    torch.testing.assert_close(network(x), other(x), rtol=0, atol=1e-4)  # float32, outputs of up to some tens


DIALECTS = {
    "raw": lambda state: state,
    "params": lambda state: {"params": state},
    "params_ema": lambda state: {"params_ema": state},
    "model_state_dict": lambda state: {"model_state_dict": state, "epoch": 3},
    "compiled": lambda state: {"params": {f"_orig_mod.{name}": tensor for name, tensor in state.items()}},
    "module": lambda state: {"params": {f"module.{name}": tensor for name, tensor in state.items()}},
}


@pytest.mark.parametrize("form", ["expanded", "fused"])
@pytest.mark.parametrize("dialect", [*DIALECTS, "safetensors"])
def test_every_dialect_is_read(net, file, dialect, form):
    saved = copy.deepcopy(net).fuse() if form == "fused" else net
    wrap = DIALECTS.get(dialect, DIALECTS["raw"])
    loaded = load_model(file(wrap(saved.state_dict()), "w.safetensors" if dialect == "safetensors" else "w.pth"))
    assert (type(loaded), loaded.training, loaded.upscale, loaded.conv_1.fused) == (SPAN, False, 2, form == "fused")
    same(loaded, net)


BOTH = {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 6, "num_block": 3}
GRAY = {"num_in_ch": 1, "num_out_ch": 1}


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (SPAN, {"upscale": 1}),
        (SPAN, {"upscale": 3, "bias": False}),
        (SPAN, {"upscale": 8, "feature_channels": 5}),
        (SPAN, {**GRAY, "rgb_mean": (0.44,), "norm": False}),
        (SPAN, {"num_in_ch": 1, "num_out_ch": 3, "upscale": 4, "norm": False}),
        (EDSR, {**BOTH, "upscale": 8}),
        (EDSR, {**BOTH, "upscale": 1}),
        (EDSR, {**BOTH, "num_block": 32, "upscale": 3, "res_scale": 0.1}),
        (RCAN, {**BOTH, "num_group": 2, "num_feat": 10, "squeeze_factor": 3, "upscale": 3}),
        (CARN, {"num_feat": 6, "upscale": 2}),
        (CARN, {**GRAY, "num_feat": 5, "upscale": 3, "rgb_mean": (0.4,)}),
    ],
)
def test_shapes_tell_the_arguments(file, kind, arguments):
    source = kind(**({"feature_channels": 6} if kind is SPAN else {}) | arguments).eval()
    told = {"rgb_mean"} | ({"num_out_ch"} if source.arguments["num_in_ch"] != source.arguments["num_out_ch"] else set())
    overrides = {name: arguments[name] for name in told & arguments.keys()}  # 48 = 3·4² is 1 channel at no scale known
    for each in (source, copy.deepcopy(source).fuse()):
        loaded = load_model(file(each.state_dict()), **overrides)
        assert type(loaded) is kind
        same(loaded, source, arguments.get("num_in_ch", 3))


def test_the_averaged_weights_are_preferred_and_param_key_chooses(net, file):
    other = SPAN(**SMALL)
    path = file({"params": other.state_dict(), "params_ema": net.state_dict()})
    same(load_model(path), net)
    same(load_model(path, param_key="params"), other)
    with pytest.raises(WeightsError, match=r"under the key 'average' .* but got the keys 'params', 'params_ema'"):
        load_model(path, param_key="average")
    with pytest.raises(WeightsError, match=r"but got unwrapped weights \(param_key: ~\)"):
        load_model(file(net.state_dict()), param_key="params")


def student(**arguments):
    return with_updates(DSCLoRA(**SMALL, **arguments).eval(), 0.05)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("ranks", [None, {"block_2": (3, 5.5), "conv_cat": (1, 1, True)}], ids=["default", "own"])
def test_ranks_and_alphas_of_a_dsclora_file_are_found(file, ranks, suffix):
    saved = student(lora_ranks=ranks)
    loaded = load_model(file(saved.state_dict(), f"w{suffix}"))
    assert type(loaded) is DSCLoRA
    settings = [
        {name: (each.rank, each.alpha, each.dora) for name, each in lora_layers(net).items()} for net in (loaded, saved)
    ]
    assert settings[0] == settings[1]
    same(loaded, saved)
    fused = load_model(file(saved.fuse().state_dict()))
    assert type(fused) is SPAN
    same(fused, saved)


def test_adapters_alone_need_their_base(net, file):
    base, saved = file({"params": net.state_dict()}, "base.pth"), student()
    saved.load_state_dict(net.state_dict())
    adapters = file({"params": lora_state_dict(with_updates(saved, 0.05))}, "lora.pth")
    with pytest.raises(WeightsError, match=r"lora\.pth: .* LoRA adapters alone: their base is missing. .* base=…"):
        load_model(adapters)
    loaded = load_model(adapters, base=base)
    same(loaded, saved)
    same(loaded.fuse(), saved)
    with pytest.raises(WeightsError, match=r"base\.pth: Expected LoRA adapters alone, since a base is .* a whole"):
        load_model(base, base=base)
    other = file(SPAN(feature_channels=6, upscale=2).state_dict(), "other.pth")
    with pytest.raises(WeightsError, match=r"lora\.pth: Expected adapters that fit the network of .*other\.pth"):
        load_model(adapters, base=other)


def test_weights_that_do_not_belong_together_are_refused(net, file):
    state = student().state_dict()
    del state["conv_2.eval_conv.lora_alpha"]
    with pytest.raises(WeightsError, match=r"w\.pth: .* layer 'conv_2.eval_conv', but got lora_A, lora_B alone"):
        load_model(file(state))
    state = net.fuse().state_dict()
    state["upsampler.0.weight"] = state["upsampler.0.weight"][:7]
    with pytest.raises(WeightsError, match=r"Expected num_out_ch·upscale² .* but got 7"):
        load_model(file(state))
    state = CARN(num_feat=6).state_dict()
    state["upsample.blocks.0.weight"] = state["upsample.blocks.0.weight"][:7]
    with pytest.raises(WeightsError, match=r"Expected upsample\.blocks\.0\.weight to make 4 or 9 times"):
        load_model(file(state))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"feature_channels": 6}, r"does not fit SPAN\(.*\):\n  differently shaped: conv_1"),
        ({"widht": 6}, "Expected overrides among num_in_ch, .* but got widht"),
        ({"upscale": 4}, r"upscale among \[4\], but got 12"),
        ({"upscale": 0}, "Expected `upscale` to be a whole number from 1, but got 0"),
        ({"rgb_mean": (0.5,)}, r"w\.pth: Expected `rgb_mean` to have one value per input channel"),
    ],
)
def test_overrides_that_do_not_fit_are_refused(net, file, overrides, message):
    with pytest.raises(WeightsError, match=message):
        load_model(file(net.state_dict()), **overrides)

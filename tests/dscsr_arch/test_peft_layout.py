"""PEFT's layout by its formulas; PEFT itself is asked in `tests/dscsr_model/export/test_peft.py`."""

import copy
import json

import pytest
import torch
from safetensors.torch import save_file
from small_models import with_updates
from torch import nn

from dscsr_arch.conv_lora import inject, load_lora_state_dict, lora_layers
from dscsr_arch.errors import LoRAError, WeightsError
from dscsr_arch.peft_layout import CONFIG, MODEL, to_peft
from dscsr_arch.weight_files import read_state_dict


class Net(nn.Module):
    """`proj` and the end of the name of another layer are one."""

    def __init__(self, **how):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, (3, 5), stride=2, padding=1, **how)
        self.attn = nn.ModuleDict({"proj": nn.Linear(6, 7)})
        self.proj = nn.Conv2d(7, 4, 1)
        self.wide = nn.Conv2d(4, 2, 3)

    def forward(self, x):
        x = self.attn["proj"](self.conv(x).movedim(1, -1)).movedim(-1, 1)
        return self.wide(self.proj(x))


RANKS = {"attn.proj": (2, 3), "proj": (3, 5), "wide": (2, 4), "conv": (2, 4)}


def image():
    return torch.rand(1, 3, 13, 15, dtype=torch.float64)


def updated(net, ranks=None, **how):
    inject(net, ranks or RANKS, **how)
    for layer in lora_layers(with_updates(net)).values():
        if layer.dora:
            nn.init.uniform_(layer.lora_magnitude, 0.5, 2)
    return net


@pytest.fixture
def write(tmp_path):
    def write(tensors, config):
        save_file(tensors, tmp_path / MODEL)
        (tmp_path / CONFIG).write_text(json.dumps(config))
        return tmp_path / MODEL

    return write


def theirs(tensors, config, name):
    """PEFT's update, from its files."""
    a, b = (tensors[f"base_model.model.{name}.lora_{factor}.weight"] for factor in "AB")
    product = torch.einsum("or,ri...->oi...", b.flatten(1), a)
    alphas = {f"^{name.replace('.', chr(92) + '.')}": "own", "": "all"}
    alpha = next(
        (config["alpha_pattern"][key] for key in alphas if key in config["alpha_pattern"]), config["lora_alpha"]
    )
    return product * (alpha / a.shape[0])


@pytest.mark.parametrize("dora", [False, True])
def test_what_is_written_is_the_same_update_and_is_read_again(write, dora):
    torch.manual_seed(0)
    base = Net().double()
    net = updated(copy.deepcopy(base), dora=dora)
    tensors, config = to_peft(lora_layers(net))
    for name, layer in lora_layers(net).items():
        update = layer.alpha / layer.rank * (layer.lora_B @ layer.lora_A).view(layer.weight.shape)
        torch.testing.assert_close(theirs(tensors, config, name), update.detach(), rtol=0, atol=1e-12)
    assert tensors["base_model.model.wide.lora_A.weight"].shape[0] == 2  # 18 would say no more
    assert torch.equal(tensors["base_model.model.attn.proj.lora_A.weight"], net.attn["proj"].lora_A)
    x = image()
    read = load_lora_state_dict(copy.deepcopy(base), read_state_dict(write(tensors, config)))
    torch.testing.assert_close(read(x), net(x), rtol=0, atol=1e-12)
    assert (net(x) - base(x)).abs().max() > 0.1


def test_theirs_is_read_with_its_settings(write):
    base = Net().double()
    tensors = {
        f"base_model.model.{name}.lora_{factor}.weight": torch.randn(*shape, dtype=torch.float64)
        for name, shapes in {"attn.proj": ((4, 6), (7, 4)), "wide": ((5, 4, 3, 3), (2, 5, 1, 1))}.items()
        for factor, shape in zip("AB", shapes, strict=True)
    }
    config = {"peft_type": "LORA", "lora_alpha": 3, "alpha_pattern": {"proj": 5}, "use_rslora": True}
    read = load_lora_state_dict(copy.deepcopy(base), read_state_dict(write(tensors, config)))
    for name, alpha, rank in (("attn.proj", 5, 4), ("wide", 3, 5)):
        a, b = (tensors[f"base_model.model.{name}.lora_{factor}.weight"] for factor in "AB")
        update = alpha / rank**0.5 * torch.einsum("or,ri...->oi...", b.flatten(1), a)
        torch.testing.assert_close(read.get_submodule(name).delta(), update, rtol=0, atol=1e-5)  # alpha is a float32


@pytest.mark.parametrize(
    ("how", "ranks", "message"),
    [
        (
            {"dilation": 2},
            {"conv": (1, 1)},
            r"groups 1, dilation 1, .* but got 'conv' with groups 1, dilation \(2, 2\)",
        ),
        (
            {},
            {"conv": (1, 1, True), "proj": (1, 1)},
            "LoRA or DoRA in all layers, as PEFT has it, but got DoRA in some",
        ),
    ],
)
def test_what_peft_cannot_have_is_refused(how, ranks, message):
    with pytest.raises(LoRAError, match=message):
        to_peft(lora_layers(updated(Net(**how), ranks)))


@pytest.mark.parametrize(
    ("config", "names", "message"),
    [
        ({"peft_type": "LOHA"}, {}, r"adapter_config\.json: Expected LoRA or DoRA without variants, but got LOHA with"),
        ({"use_qalora": True}, {}, "but got LORA with use_qalora. Merge it with PEFT"),
        ({"init_lora_weights": "pissa", "use_dora": True}, {}, "but got LORA with init_lora_weights 'pissa'"),
        ({"init_lora_weights": "lora_ga"}, {}, "but got LORA with init_lora_weights 'lora_ga'"),  # it changes the base
        ({"alpha_pattern": {".*proj": 3}}, {}, r"names in `alpha_pattern` of adapter_config\.json, but got '\.\*proj'"),
        ({"lora_alpha": "4"}, {}, "a positive number as `lora_alpha` of adapter_config.json, but got '4'"),
        ({}, {"proj.bias": torch.ones(7)}, "Expected LoRA of linear layers and convolutions, but got .*proj.bias"),
        ({}, {"proj.lora_B.weight": torch.ones(7, 3)}, r"lora_A \(r, in, …\) .* 'proj', but got \(2, 6\) and \(7, 3\)"),
        ({}, {"proj.lora_A.weight": torch.ones(0, 6), "proj.lora_B.weight": torch.ones(7, 0)}, r"but got \(0, 6\) and"),
        ({"use_dora": True}, {}, "lora_magnitude of layer 'proj' if, and only if, `use_dora` .* but got none"),
        ({}, {"proj.lora_magnitude_vector": torch.ones(7)}, "`use_dora` .* is true, but got one, and"),
        (
            None,
            {},
            "Expected the settings of the adapter, adapter_config.json, beside its tensors, but got none. Copy both",
        ),
    ],
)
def test_what_is_not_lora_is_refused(write, config, names, message):
    plain = {"proj.lora_A.weight": torch.ones(2, 6), "proj.lora_B.weight": torch.ones(7, 2)}
    tensors = {f"base_model.model.{name}": tensor for name, tensor in {**plain, **names}.items()}
    path = write(tensors, {"peft_type": "LORA", "lora_alpha": 4, **(config or {})})
    if config is None:
        path.with_name(CONFIG).unlink()
    with pytest.raises(WeightsError, match=message):
        read_state_dict(path)

"""DSCLoRAModel and `lora:`: only LoRA is trained, whatever else happens; what is saved fits together."""

import copy

import option_files
import pytest
import small_models
import torch
from small_models import batch, build, train
from torch import nn

from dscsr_arch import SPAN, load_model
from dscsr_arch.checkpoint import read_pickle, read_state_dict, save_state_dict
from dscsr_arch.metadata import beside
from dscsr_arch.sizes import padded, size_requirements

AFFINITY = {"type": "SpatialAffinityLoss", "layers": ["block_1", "block_6"]}
OWN = {**small_models.SPAN, "img_range": 1.0}  # which shapes do not tell
SPAN_LORA = {**OWN, "lora": {"layers": {"block_*": [2, 4]}, "dropout": 0}}
EDSR_LORA = {**small_models.EDSR, "lora": {"layers": {"body.*": [2, 4], "upsample.0": [1, 1]}}}
DSCLORA = {**OWN, "type": "DSCLoRA"}
NETWORKS = {"DSCLoRA": DSCLORA, "SPAN": SPAN_LORA, "EDSR": EDSR_LORA}


@pytest.fixture
def options(tmp_path):
    torch.manual_seed(1)
    save_state_dict({"params": SPAN(feature_channels=6, upscale=2).state_dict()}, tmp_path / "teacher.pth")
    span = SPAN(feature_channels=8, upscale=2, img_range=1.0)
    save_state_dict({"params": span.state_dict(), **beside(span)}, tmp_path / "SPAN.pth")
    save_state_dict({"params": option_files.build(small_models.EDSR).state_dict()}, tmp_path / "EDSR.pth")

    def options(name="DSCLoRA", model_type="DSCLoRAModel", **changes):
        base = tmp_path / ("EDSR.pth" if name == "EDSR" else "SPAN.pth")
        layers = ["body.0", "body.1"] if name == "EDSR" else AFFINITY["layers"]
        ours = {
            "network_g": NETWORKS[name],
            "teacher": {"weights": str(tmp_path / "teacher.pth")},
            "path:pretrain_network_g": str(base),
            "train:teacher_opt": {"type": "L1Loss", "target": "teacher"},
            "train:affinity_opt": {**AFFINITY, "layers": layers, "teacher_layers": AFFINITY["layers"]},
        }
        return small_models.options(tmp_path, model_type, **copy.deepcopy({**ours, **changes}))

    return options


@pytest.mark.parametrize("name", NETWORKS)
def test_only_lora_changes_bit_by_bit(options, name, tmp_path):
    more = {"train:accumulate_steps": 2, "train:grad_clip_norm": 1.0}
    model = build(options(name, **more, **{"train:optim_g": {"type": "AdamW", "lr": 1e-2, "weight_decay": 0.1}}))
    before = small_models.weights(model)
    train(model, range(1, 6))
    after = small_models.weights(model)
    factors = {key for key in before if key.endswith((".lora_A", ".lora_B"))}
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == factors
    assert any(key.startswith("ema.") for key in factors)
    model.save(0, 5)
    (optimizer,) = read_pickle(tmp_path / "training_states/5.state")["optimizers"]
    assert len(optimizer["state"]) == len(optimizer["param_groups"][0]["params"]) == len(factors) / 2
    assert not any(p.requires_grad for key, p in model.net_g.named_parameters() if key not in factors)


def test_batch_statistics_of_the_base_stay_also_after_a_validation(options):
    class Normed(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.PixelShuffle(2))

    import dscsr_model

    dscsr_model.register()
    from basicsr.utils.registry import ARCH_REGISTRY

    if "Normed" not in ARCH_REGISTRY:
        ARCH_REGISTRY.register(Normed)
    network = {"type": "Normed", "lora": {"layers": {"0": [1, 1]}}}
    losses = {"train:teacher_opt": None, "train:affinity_opt": None, "path:pretrain_network_g": None}
    model = build(options("EDSR", "EfficientSRModel", network_g=network, **losses, **{"train:ema_decay": 0}))
    before = small_models.weights(model)
    train(model, range(1, 3))
    model.test()
    train(model, range(3, 5))
    after = small_models.weights(model)
    assert model.net_g.training
    assert {key for key in before if not torch.equal(before[key], after[key])} == {"0.lora_A", "0.lora_B"}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_saved_fits_together(options, name, tmp_path):
    """Full state, adapters on their base, and the fused network are one, as BasicSR tests it and from files alone."""
    model = train(build(options(name)), range(1, 4))
    model.save(0, 3)
    model.save(-1, -1)
    names = {f"{kind}_g_{label}.pth" for kind in ("net", "lora", "fused") for label in ("3", "latest")}
    assert {file.name for file in (tmp_path / "models").iterdir()} == names
    model.feed_data(batch(9))
    model.test()
    files = {kind: str(tmp_path / f"models/{kind}_g_3.pth") for kind in ("net", "lora", "fused")}
    network = NETWORKS[name]
    plain = {key: value for key, value in network.items() if key != "lora"} | {"type": name.replace("DSCLoRA", "SPAN")}
    adapters = {**network, "lora": {"weights": files["lora"]}}
    ways = [
        {"path:pretrain_network_g": files["net"], "path:param_key_g": "params_ema"},
        {"network_g": adapters},
        {"network_g": plain, "path:pretrain_network_g": files["fused"]},
    ]
    for way in ways:
        tested = build(options(name, "EfficientSRModel", is_train=False, **way))
        tested.feed_data(batch(9))
        tested.test()
        torch.testing.assert_close(tested.output, model.output, rtol=1e-5, atol=1e-5)
    base = model.opt["path"]["pretrain_network_g"]
    loaded = [load_model(files["net"]), load_model(files["fused"])]
    loaded += [load_model(files["lora"], base=each) for each in (base, files["net"])]
    for network in loaded:
        with torch.no_grad():
            torch.testing.assert_close(network(model.lq), model.output, rtol=1e-5, atol=1e-5)
    assert type(loaded[1]).__name__ == plain["type"]
    assert all(".lora_" in key for key in read_state_dict(files["lora"]))


def test_training_starts_from_adapters_but_resumes_from_its_own(options, tmp_path):
    train(first := build(options("SPAN")), [1, 2]).save(0, 2)
    section = {"weights": str(tmp_path / "models/lora_g_2.pth")}
    network = {**OWN, "lora": section}
    second = build(options("SPAN", network_g=network))
    averaged = {name: tensor for name, tensor in first.net_g_ema.state_dict().items() if "lora" in name}
    started = second.net_g.state_dict()
    assert all(torch.equal(started[name], tensor) for name, tensor in averaged.items())
    train(second, [3]).save(0, 3)
    again = {"path:pretrain_network_g": str(tmp_path / "models/net_g_3.pth"), "path:resume_state": "3.state"}
    third = build(options("SPAN", network_g=network, **again))
    assert small_models.distance(small_models.weights(third), small_models.weights(second)) == 0


@pytest.mark.parametrize("dora", [False, True], ids=["LoRA", "DoRA"])
def test_attention_of_swinir_adapts_and_every_file_opens(tmp_path, dora):
    """Linear layers and convolutions; images whose sides are no multiples of the window are validated, too."""
    plain = small_models.SWINIR
    lora = {"layers": {"*.attn.*": [2, 4], "upsample": [1, 2]}, "dora": dora}
    base = build(small_models.options(tmp_path, network_g=plain, **{"train:ema_decay": 0}))
    base.save(0, 1)
    file, options = (
        str(tmp_path / "models/net_g_1.pth"),
        small_models.options(tmp_path, network_g={**plain, "lora": lora}),
    )
    model = build(option_files.changed(options, {"path:pretrain_network_g": file}))
    model.feed_data(batch(9))
    for network in (base, model):
        network.feed_data(batch(9))
        network.test()
    assert torch.equal(model.output, base.output)  # a new layer is its base
    before = small_models.weights(model)
    draw = torch.Generator().manual_seed(0)
    for step in (1, 2, 3):
        model.feed_data({name: torch.rand(2, 3, side, side, generator=draw) for name, side in (("lq", 16), ("gt", 32))})
        model.optimize_parameters(step)
    after = small_models.weights(model)
    entries = ("lora_A", "lora_B", "lora_magnitude") if dora else ("lora_A", "lora_B")
    attention = [f"layers.0.residual_group.blocks.{i}.attn.{name}" for i in (0, 1) for name in ("qkv", "proj")]
    assert {key for key in before if not torch.equal(before[key], after[key])} == {
        f"{average}{layer}.{entry}"
        for average in ("", "ema.")
        for layer in (*attention, "upsample.0")
        for entry in entries
    }
    model.save(0, 3)
    model.feed_data(batch(9))
    model.test()
    models = tmp_path / "models"
    ways = [
        load_model(models / "net_g_3.pth", network=plain),
        load_model(models / "net_g_3.pth"),
        load_model(models / "lora_g_3.pth", base=file, network=plain),
        load_model(models / "fused_g_3.pth"),
    ]
    for network in ways:
        with torch.no_grad():
            output = padded(network, batch(9)["lq"], requirements=size_requirements(network))
        torch.testing.assert_close(output, model.output, rtol=0, atol=1e-5)
    assert (model.output - base.output).abs().max() > 1e-4

"""A step of EfficientSRModel beside one of BasicSR's SRModel, and what it does with batches that are not finite."""

import math

import pytest
import torch
from small_models import EDSR, SPAN, batch, build, distance, options, train, weights

import dscsr_arch

STEPS = range(1, 13)


@pytest.mark.parametrize("network", [SPAN, EDSR], ids=["SPAN", "EDSR"])
def test_in_fp32_it_takes_the_steps_of_srmodel(tmp_path, network):
    opts = [options(tmp_path, kind, network_g=network) for kind in ("SRModel", "EfficientSRModel")]
    opts[1]["train"]["ema_warmup"] = False
    models = [build(opt) for opt in opts]
    assert distance(*map(weights, models)) == 0
    start = weights(models[0])
    stock, ours = (train(model, STEPS, warmup=5) for model in models)
    assert distance(weights(stock), weights(ours)) <= 1e-6
    assert distance(weights(stock), start) > 1e-3
    assert stock.get_current_log()["l_pix"] == pytest.approx(ours.get_current_log()["l_pix"], rel=1e-6)
    assert stock.get_current_learning_rate() == ours.get_current_learning_rate()


# How far 12 steps of SGD may lead from those in fp32, as a share of the way that fp32 went. bf16 keeps 8 bits of each
# number, fp16 11 (seen: 0.4 and 0.25 %); the other ways differ in the order of summation only (seen: 1e-6).
DISTANCES = {
    "bf16": ({"train:precision": "bf16"}, 0.02),
    "fp16": ({"train:precision": "fp16"}, 0.01),
    "channels_last": ({"train:channels_last": True, "train:grad_clip_norm": 1e9}, 1e-4),
    "accumulate 3": ({"train:accumulate_steps": 3}, 1e-4),
    "accumulate 9": ({"train:accumulate_steps": 9}, 1e-4),
}
# A smooth loss: the sign in the gradient of L1 makes a leap of the smallest difference.
SMOOTH = {
    "network_g": EDSR,
    "train:optim_g": {"type": "SGD", "lr": 1e-3},
    "train:pixel_opt": {"type": "MSELoss", "loss_weight": 100.0},
}


def loss_of(model):
    with torch.no_grad():
        return float(sum(model.compute_losses(*batch(9).values()).values()))


@pytest.mark.parametrize("way", DISTANCES)
def test_every_way_of_computing_stays_near_fp32_and_trains(tmp_path, way):
    changes, share = DISTANCES[way]
    plain, model = (build(options(tmp_path, **SMOOTH, **more)) for more in ({}, changes))
    if way == "fp16":  # 65536 overflows in the first steps, as it should: they are skipped, and the way is shorter
        model.guard.scaler = model.precision.scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    start, first = weights(plain), [loss_of(plain), loss_of(model)]
    train(plain, STEPS)
    train(model, STEPS)
    assert distance(weights(plain), weights(model)) <= share * distance(weights(plain), start)
    assert loss_of(plain) < first[0]
    assert loss_of(model) < first[1]
    assert {tensor.dtype for tensor in weights(model).values()} == {torch.float32}
    assert model.guard.total == 0


def test_accumulated_parts_are_as_many_as_asked_for(tmp_path):
    model, seen = build(options(tmp_path, **{"train:accumulate_steps": 3})), []
    model.net_g.register_forward_pre_hook(lambda net, images: seen.append(len(images[0])))
    train(model, [1])
    assert seen == [2, 1, 1]


def test_bf16_is_not_fp32_after_all(tmp_path):
    """The distances above could not fail otherwise. Losses are computed in fp32."""
    models = [build(options(tmp_path, **{"train:precision": name})) for name in ("fp32", "bf16")]
    assert distance(*(weights(train(model, [1, 2])) for model in models)) > 0
    assert {loss.dtype for loss in (models[1].output, *models[1].loss_terms.values())} == {torch.float32}


@pytest.mark.slow
def test_compiled_it_stays_near_fp32(tmp_path, logged):
    plain, compiled = (build(options(tmp_path, **SMOOTH, **{"train:compile": c})) for c in (False, True))
    start = weights(plain)
    train(plain, STEPS)
    train(compiled, STEPS)
    assert not [line for line in logged() if "torch.compile" in line]
    assert 0 < distance(weights(plain), weights(compiled)) <= 1e-3 * distance(weights(plain), start)


def test_any_number_of_named_losses(tmp_path):
    sections = {
        "pixel_opt": {"type": "L1Loss", "loss_weight": 2.0},
        "square_opt": {"type": "MSELoss", "loss_weight": 3.0},
        "perceptual_opt": None,
    }
    model = train(build(options(tmp_path, **{f"train:{name}": section for name, section in sections.items()})), [1])
    figures = model.get_current_log()
    assert [name for name in figures if name.startswith("l_")] == ["l_pix", "l_square"]
    error = (model.output - model.gt).detach()
    assert figures["l_pix"] == pytest.approx(2 * float(error.abs().mean()), rel=1e-5)
    assert figures["l_square"] == pytest.approx(3 * float(error.square().mean()), rel=1e-5)


def test_uint8_batches_are_made_float_and_turned_on_the_device(tmp_path):
    from dscsr_model.training.images import turned

    whole = {name: (255 * tensor).round().to(torch.uint8) for name, tensor in batch(1).items()}
    model = build(options(tmp_path, **{"train:channels_last": True}))
    model.feed_data(whole)
    assert torch.equal(model.lq, whole["lq"].float() / 255)
    assert model.lq.is_contiguous(memory_format=torch.channels_last)
    orientation = torch.tensor([0, 3, 5, 7])
    model.feed_data({**whole, "orientation": orientation, "lq_path": ["a"]})
    assert torch.equal(model.gt, turned(whole["gt"], orientation).float() / 255)
    assert not torch.equal(model.gt, whole["gt"].float() / 255)
    model.optimize_parameters(1)


# --- guards ---------------------------------------------------------------------------------------------------------


def train_with(model, bad_steps, steps, planted):
    for step in steps:
        data = batch(step)
        if step in bad_steps:
            data[planted][0, 0, 0, 0] = math.nan
        model.feed_data(data)
        model.optimize_parameters(step)


@pytest.mark.parametrize(
    ("changes", "decays"), [({}, [1 / 10, 2 / 11, 3 / 12]), ({"train:ema_warmup": False}, [0.99] * 3)]
)
def test_the_average_warms_up(tmp_path, changes, decays):
    model = build(options(tmp_path, **{"train:ema_decay": 0.99, **changes}))
    wanted = {name: tensor.clone() for name, tensor in model.net_g_ema.state_dict().items()}
    for step, decay in enumerate(decays, start=1):
        train(model, [step])
        for name, tensor in model.net_g.state_dict().items():
            wanted[name] = decay * wanted[name] + (1 - decay) * tensor
        torch.testing.assert_close(dict(model.net_g_ema.state_dict()), wanted)
    assert distance(wanted, model.net_g.state_dict()) > 1e-4


@pytest.mark.parametrize(("planted", "precision"), [("lq", "fp32"), ("gt", "bf16"), ("lq", "fp16")])
def test_a_nan_batch_is_skipped_and_counted_and_training_goes_on(tmp_path, planted, precision):
    model = build(options(tmp_path, **{"train:precision": precision}))
    train_with(model, {}, [1, 2], planted)
    before, moments = weights(model), model.optimizer_g.state_dict()["state"][0]["exp_avg"].clone()
    train_with(model, {3}, [3], planted)
    after = weights(model)
    assert all(torch.equal(before[name], after[name]) for name in before if not name.startswith("ema."))
    assert torch.equal(model.optimizer_g.state_dict()["state"][0]["exp_avg"], moments)
    figures = model.get_current_log()
    assert figures["skipped_steps"] == 1
    assert math.isnan(figures["l_pix"])
    train_with(model, {}, [4, 5], planted)
    assert distance(weights(model), after) > 0
    assert all(tensor.isfinite().all() for tensor in weights(model).values())
    assert model.get_current_log()["skipped_steps"] == 1


def test_a_nan_in_one_part_of_an_accumulated_batch_skips_all_of_it(tmp_path):
    model = build(options(tmp_path, **{"train:accumulate_steps": 4, "train:ema_decay": 0}))
    before = weights(model)
    train_with(model, {1}, [1], "lq")
    assert distance(weights(model), before) == 0


# --- weights to start from ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["params", None])
def test_a_fused_file_is_expanded_once_for_both(tmp_path, key, logged):
    """Branches are random: those of network and average must be the same for a mean of both to have a meaning."""
    fused = dscsr_arch.SPAN(feature_channels=8, upscale=2).fuse()
    torch.save({key: fused.state_dict()} if key else fused.state_dict(), tmp_path / "fused.pth")
    start = {"path:pretrain_network_g": str(tmp_path / "fused.pth")}
    model = build(options(tmp_path, network_g=SPAN, **start))
    state = weights(model)
    assert all(torch.equal(state[name], state[f"ema.{name}"]) for name in model.net_g.state_dict())
    x = torch.rand(1, 3, 9, 8)
    with torch.no_grad():
        torch.testing.assert_close(model.net_g(x), fused(x), rtol=1e-4, atol=1e-3)
    assert any("No `params` in " in line for line in logged()) == (key != "params")


# --- schedules ------------------------------------------------------------------------------------------------------


def test_any_optimizer_and_schedule_of_torch_with_basicsrs_warm_up(tmp_path):
    schedule = {"type": "StepLR", "step_size": 4, "gamma": 0.5}
    optimizer = {"type": "AdamW", "lr": 0.08, "weight_decay": 0.1}
    model = build(options(tmp_path, **{"train:scheduler": schedule, "train:optim_g": optimizer}))
    assert isinstance(model.optimizer_g, torch.optim.AdamW)
    rates = []
    for step in range(1, 11):
        train(model, [step], warmup=4)
        rates.append(model.get_current_learning_rate()[0])
    assert rates == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.04, 0.04, 0.04, 0.04, 0.02, 0.02])

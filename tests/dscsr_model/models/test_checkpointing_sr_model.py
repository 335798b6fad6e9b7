"""Checkpoints: whole, finite, pruned; and a resumed run takes the steps of one that never stopped."""

import copy
import datetime
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import option_files
import pytest
import torch
from small_models import build, distance, options, resumed, train, weights

from dscsr_arch.checkpoint import read_pickle, save_state_dict
from dscsr_model.data.keyed_samples import KeyedDataset, SampleKey


def test_an_average_goes_on_warming_up_where_it_was_or_begins(tmp_path):
    """Its updates are counted in the checkpoint; in one of before they were as many as the iterations."""
    opt = options(tmp_path)
    train(build(copy.deepcopy(opt)), [1, 2]).save(0, 2)
    without = options(tmp_path, **{"train:ema_decay": 0})
    train(resumed(without, 2), [3]).save(0, 3)
    assert [resumed(opt, iteration).averaging.count for iteration in (2, 3)] == [2, 0]
    state = tmp_path / "training_states/2.state"
    save_state_dict({key: value for key, value in read_pickle(state).items() if key != "ema_updates"}, state)
    assert resumed(opt, 2).averaging.count == 2


MULTI_STEP = {"type": "MultiStepLR", "milestones": [3, 6, 9], "gamma": 0.5}
RUNS = {
    "Adam, BasicSR's schedule": ({"type": "Adam", "lr": 1e-3}, MULTI_STEP, {}),
    "AdamW, one cycle, no decay": (
        {"type": "AdamW", "lr": 1e-3},
        {"type": "OneCycleLR", "max_lr": 0.01, "total_steps": 20},
        {"train:ema_decay": option_files.REMOVED},
    ),
    "SGD, cosine, clipped": (
        {"type": "SGD", "lr": 1e-2, "momentum": 0.9},
        {"type": "CosineAnnealingLR", "T_max": 12},
        {"train:grad_clip_norm": 0.1},
    ),
    "NAdam, fp16": ({"type": "NAdam", "lr": 1e-3}, MULTI_STEP, {"train:precision": "fp16"}),
    "no average": (
        {"type": "Adam", "lr": 1e-3},
        MULTI_STEP,
        {"train:ema_decay": 0, "train:accumulate_steps": 2, "train:channels_last": True},
    ),
    "SWA": (
        {"type": "Adam", "lr": 1e-3},
        MULTI_STEP,
        {"train:ema_decay": 0, "train:swa": {"start": 0.4, "every": 3}, "train:total_iter": 12},
    ),
}


@pytest.mark.parametrize(("run", "stopped_at"), [*zip(RUNS, [3, 7, 3, 7, 3, 7], strict=True)])
def test_stopping_and_resuming_is_as_if_never_stopped(tmp_path, run, stopped_at):
    """Bit for bit, optimizer, schedule and warm-up (up to step 5) included."""
    optimizer, schedule, more = RUNS[run]
    changes = {"train:optim_g": optimizer, "train:scheduler": schedule, "train:warmup_iter": 5, **more}
    opt = options(tmp_path, **changes)
    whole = train(build(copy.deepcopy(opt)), range(1, 13), warmup=5)
    train(build(copy.deepcopy(opt)), range(1, stopped_at + 1), warmup=5).save(0, stopped_at)
    model = resumed(opt, stopped_at)
    before = weights(model)
    train(model, range(stopped_at + 1, 13), warmup=5)
    assert distance(weights(whole), weights(model)) == 0
    assert distance(before, weights(model)) > 0
    assert whole.get_current_learning_rate() == model.get_current_learning_rate()
    assert whole.precision.scaler.state_dict() == model.precision.scaler.state_dict()


CHANGES = {
    "schedule": (
        {"train:scheduler": {"type": "CosineAnnealingLR", "T_max": 9}, "train:warmup_iter": -1},
        ["train:scheduler:type: MultiStepLR before this resume, CosineAnnealingLR from here on",
         "train:scheduler:milestones: [3, 6, 9] before this resume, not given from here on",
         "train:scheduler:gamma: 0.5 before this resume, not given from here on",
         "train:warmup_iter: 5 before this resume, -1 from here on",
         "train:scheduler:T_max: not given before this resume, 9 from here on"],
    ),
    "numbers": (
        {"train:optim_g:lr": 1e-4, "train:optim_g:betas": [0.5, 0.9], "train:optim_g:weight_decay": 0.1,
         "train:ema_decay": 0.5},
        ["train:optim_g:lr: 0.001 before this resume, 0.0001 from here on",
         "train:optim_g:betas: [0.9, 0.99] before this resume, [0.5, 0.9] from here on",
         "train:optim_g:weight_decay: not given before this resume, 0.1 from here on",
         "train:ema_decay: 0.9 before this resume, 0.5 from here on"],
    ),
    "optimizer": (
        {"train:optim_g:type": "Adamax"},
        ["train:optim_g:type: Adam before this resume, Adamax from here on",
         "The optimizer remembers other things than it did before: it starts anew."],
    ),
    "stages": (
        {"train:stages": [{"until": 7}, {"train": {"optim_g": {"lr": 0.02}}}]},
        ["train:stages:1:until: not given before this resume, 7 from here on",
         "train:stages:2:train:optim_g:lr: not given before this resume, 0.02 from here on"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "old"), [*((change, False) for change in CHANGES), ("numbers", True)])
def test_options_that_were_changed_take_effect(tmp_path, logged, change, old):
    """As if they had been those of the run since its start, but for what it has learned; each is told."""
    changes, told = CHANGES[change]
    opt = options(tmp_path, **{"train:scheduler": MULTI_STEP, "train:warmup_iter": 5})
    train(build(copy.deepcopy(opt)), range(1, 8), warmup=5).save(0, 7)
    state = tmp_path / "training_states/7.state"
    if old:  # as a version saved it that kept no record
        save_state_dict({name: value for name, value in read_pickle(state).items() if name != "options"}, state)
    opt = option_files.changed(opt, changes)
    warmup = opt["train"]["warmup_iter"]
    model = resumed(opt, 7)
    said = [line for line in logged() if "from here on" in line or "anew" in line]
    assert sorted(said) == ([] if old else sorted(told))
    fresh = train(build(copy.deepcopy(opt)), range(1, 9), warmup=warmup)
    before = weights(model)
    train(model, [8], warmup=warmup)
    ours, wanted = (dict(model.optimizer_g.param_groups[0]) for model in (model, fresh))
    assert ours.pop("params") is not wanted.pop("params")
    assert ours == wanted
    steps = [int(entry["step"]) for entry in model.optimizer_g.state.values()]
    assert set(steps) == ({1} if "optimizer" in str(told) else {8})
    assert distance(before, weights(model)) > 0


def test_random_draws_go_on_between_two_samples_of_a_thread_that_reads(tmp_path):
    """BasicSR's `prefetch_mode: cpu`; of what the thread draws in between, nothing is saved either."""
    opt = options(tmp_path)
    train(build(copy.deepcopy(opt)), [1]).save(0, 1)
    model, begun = resumed(opt, 1), threading.Event()

    class Slow(torch.utils.data.Dataset):
        def __getitem__(self, index):
            first = random.random()
            begun.set()
            time.sleep(0.05)
            return first, random.random()

    dataset = KeyedDataset(Slow(), 0)
    alone = dataset[SampleKey(0)]
    for go_on in (model.restore_random_state, lambda: model.save(0, 2)):
        begun.clear()
        with ThreadPoolExecutor(1) as thread:
            drawn = thread.submit(dataset.__getitem__, SampleKey(0))
            begun.wait()
            go_on()
            assert drawn.result() == alone
    one, two = (read_pickle(tmp_path / f"training_states/{number}.state")["random_states"] for number in (1, 2))
    assert str(one) == str(two)


def test_a_checkpoint_of_srmodel_can_be_gone_on_with(tmp_path, logged):
    opt = options(tmp_path, "SRModel")
    stock = train(build(copy.deepcopy(opt)), range(1, 5))
    stock.save(0, 4)
    opt["model_type"], opt["train"]["ema_warmup"] = "EfficientSRModel", False
    model = resumed(opt, 4)
    assert any("was not written by EfficientSRModel" in line for line in logged())
    train(stock, [5, 6])
    train(model, [5, 6])
    assert distance(weights(stock), weights(model)) <= 1e-6


def test_files_are_basicsrs(tmp_path):
    """Names, keys and wrapping: BasicSR's own loader and every other tool knows them."""
    model = train(build(options(tmp_path)), [1])
    model.save(epoch=3, current_iter=1)
    model.save(epoch=-1, current_iter=-1)
    assert sorted(file.name for file in (tmp_path / "models").iterdir()) == ["net_g_1.pth", "net_g_latest.pth"]
    assert [file.name for file in (tmp_path / "training_states").iterdir()] == ["1.state"]
    content = torch.load(tmp_path / "models/net_g_1.pth", weights_only=True)
    assert list(content) == ["params", "params_ema", "metadata"]  # which is told of in test_saved_metadata
    assert all(torch.equal(content["params"][name], tensor) for name, tensor in model.net_g.state_dict().items())
    assert all(
        torch.equal(content["params_ema"][name], tensor) for name, tensor in model.net_g_ema.state_dict().items()
    )
    state = torch.load(tmp_path / "training_states/1.state", weights_only=True)
    assert (state["epoch"], state["iter"]) == (3, 1)
    assert {"optimizers", "schedulers"} <= set(state)
    stock = build(
        options(tmp_path / "stock", "SRModel", **{"path:pretrain_network_g": str(tmp_path / "models/net_g_1.pth")})
    )
    assert distance(weights(stock), weights(model)) == 0


def test_a_state_opens_whatever_an_option_file_holds(tmp_path):
    """YAML makes dates; a state with one in it would not load."""
    foreign = {"since": datetime.date(2026, 1, 2), "steps": [{"lr": 1}, (2, None)]}
    model = build(options(tmp_path, **{"datasets:train:mine": foreign}))
    assert {"datasets:train:mine:since": "2026-01-02"}.items() <= model.trained_with.items()
    train(model, [1]).save(0, 1)
    saved = read_pickle(tmp_path / "training_states/1.state")["options"]
    assert saved == model.trained_with
    assert saved["datasets:train:mine:steps"] == ["{'lr': 1}", [2, None]]


@pytest.mark.parametrize(("of_the_average", "iteration"), [(False, -1), (True, 10)])
def test_weights_that_are_not_finite_are_never_written(tmp_path, logged, of_the_average, iteration):
    model = train(build(options(tmp_path)), [1])
    model.save(0, 5)
    model.save(-1, -1)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with torch.no_grad():
        (model.net_g_ema if of_the_average else model.net_g).conv_first.weight[0, 0, 0, 0] = torch.inf
    model.save(0, iteration)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    message = f"Checkpoint {iteration} is not saved: its weights are not finite. The last good one is "
    assert [line for line in logged() if line.startswith(message) and "net_g_" in line]


def test_old_checkpoints_are_pruned_but_never_the_best(tmp_path):
    model = train(build(options(tmp_path, **{"logger:keep_checkpoints": 2})), [1])
    (tmp_path / "models/net_g_best.pth").write_bytes(b"the best")
    (tmp_path / "training_states/20.validation").touch()  # of a run that was resumed from before 20
    for kind in ("lora_g", "fused_g", "student_w0.5"):
        (tmp_path / f"models/{kind}_5.pth").touch()
    for iteration in (5, 10, 15, -1, 20):
        model.save(0, iteration)
        if iteration == 5:
            (tmp_path / "training_states/5.validation").touch()
    names = [file.name for folder in ("models", "training_states") for file in sorted((tmp_path / folder).iterdir())]
    assert names == ["net_g_15.pth", "net_g_20.pth", "net_g_best.pth", "net_g_latest.pth", "15.state", "20.state"]

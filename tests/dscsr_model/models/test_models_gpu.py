"""Every model in every way of computing, on a GPU as on the CPU; what is skipped, resumed and waited for there."""

import copy
import os

import pytest
import torch
from small_models import EVERYTHING, batch, build, distance, everything, resumed, train, weights

from dscsr_model.training import precision
from dscsr_model.training.checkpoints import random_state, restore_random_state

# How far steps of SGD may lead from those of the CPU in float32, as a share of the way that these went: losses with a
# sign in their gradient leap where rounding turns it.
WAYS = {
    "fp32": ({}, 0.02),
    "channels_last": ({"train:channels_last": True}, 0.02),
    "bf16": ({"train:precision": "bf16", "train:channels_last": True}, 0.2),
    "fp16": ({"train:precision": "fp16"}, 0.2),
    "compiled": ({"train:compile": True}, 0.02),
    "reduce-overhead": ({"train:compile": "reduce-overhead", "train:grad_clip_norm": 1e9}, 0.02),
    "reduce-overhead in parts": ({"train:compile": "reduce-overhead", "train:accumulate_steps": 2}, 0.02),
    "reduce-overhead, bf16": ({"train:compile": "reduce-overhead", "train:precision": "bf16"}, 0.2),
}
CASES = [("cpu", "bf16"), *(pytest.param("cuda", way, marks=pytest.mark.gpu) for way in WAYS)]


def built(root, name, device, **changes):
    """Kept from overflowing in fp16's first steps."""
    changes = {"train:optim_g": {"type": "SGD", "lr": 1e-3}, "num_gpu": int(device.type == "cuda"), **changes}
    model = build(everything(root, name, **changes))
    if model.precision.scaler.is_enabled():
        model.guard.scaler = model.precision.scaler = torch.amp.GradScaler(device.type, init_scale=64.0)
    return model


def drawing_alike(model, steps):
    """As `train`, each of CSD's models drawing the same negatives."""
    torch.manual_seed(0)
    return train(model, steps)


@pytest.mark.parametrize(("device", "way"), CASES, indirect=["device"])
@pytest.mark.parametrize("name", EVERYTHING)
def test_20_steps_are_near_those_of_the_cpu(tmp_path, name, device, way, logged):
    changes, share = WAYS[way]
    steps = range(1, 21 if device.type == "cuda" else 4)
    plain = built(tmp_path, name, torch.device("cpu"))
    model = built(tmp_path, name, device, **changes)
    start = weights(plain)
    drawing_alike(plain, steps)
    drawing_alike(model, steps)
    found = {key: tensor.cpu() for key, tensor in weights(model).items()}
    assert not [line for line in logged() if "torch.compile" in line]
    assert distance(weights(plain), found) <= share * distance(weights(plain), start)
    assert {tensor.device.type for tensor in weights(model).values()} == {device.type}
    assert model.guard.total == 0
    assert model.get_current_log()


@pytest.mark.parametrize("name", ["fp32", "fp16"])
def test_a_nan_is_skipped_by_the_fused_optimizer_and_nothing_else(tmp_path, device, name):
    optimizer = {"type": "Adam", "lr": 1e-3, "fused": True}
    model = built(tmp_path, "EfficientSRModel", device, **{"train:optim_g": optimizer, "train:precision": name})
    train(model, [1])
    before, scale = weights(model), model.precision.scaler.get_scale()
    broken = batch(2)
    broken["lq"][0, 0, 0, 0] = torch.nan
    model.feed_data(broken)
    model.optimize_parameters(2)
    after = weights(model)
    assert all(torch.equal(before[key], after[key]) for key in before if not key.startswith("ema."))
    assert model.guard.total == 1
    assert model.precision.scaler.get_scale() == (scale / 2 if name == "fp16" else scale)
    train(model, [3])
    assert distance(after, weights(model)) > 0


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", EVERYTHING)
def test_the_host_waits_for_nothing(tmp_path, name, way, gpu):
    model = train(built(tmp_path, name, gpu, **WAYS[way][0], **{"train:optim_g": {"type": "Adam", "lr": 1e-3}}), [1, 2])
    batches = [{key: tensor.pin_memory() for key, tensor in batch(step).items()} for step in range(3, 7)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step, images in enumerate(batches, start=3):
            model.update_learning_rate(step)
            model.feed_data(images)
            model.optimize_parameters(step)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_a_resumed_run_ends_at_the_same_bits(tmp_path, gpu, monkeypatch):
    """Moments, average and loss scale included; on the CPU: test_checkpointing_sr_model.py."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    opt = everything(tmp_path, "EfficientSRModel", num_gpu=1, **WAYS["fp16"][0])
    whole = train(build(copy.deepcopy(opt)), range(1, 7))
    train(build(copy.deepcopy(opt)), range(1, 4)).save(0, 3)
    model = train(resumed(opt, 3), range(4, 7))
    assert distance(weights(whole), weights(model)) == 0
    assert whole.precision.scaler.state_dict() == model.precision.scaler.state_dict()


def test_generators_go_on_where_they_were(device):
    state = random_state()
    drawn = torch.rand(3, device=device)
    restore_random_state(state)
    assert torch.equal(drawn, torch.rand(3, device=device))


class Graphs:
    """What CUDA graphs do to what they put out: the next step writes over it, or the next call where none is begun."""

    def __init__(self):
        self.outputs, self.steps = [], 0

    def begin_step(self):
        self.steps += 1
        for output in self.outputs:
            output.data.fill_(torch.nan)
        self.outputs = []

    def compile(self, network, mode):
        def forward(x, **arguments):
            if not self.steps:
                self.begin_step()
            output = network(x, **arguments)
            self.outputs += output.values() if isinstance(output, dict) else [output]
            return output

        return forward


@pytest.mark.parametrize(("name", "parts"), [("CSDModel", 1), ("CSDModel", 2), ("DistillationModel", 2)])
def test_outputs_of_a_replayed_graph_are_not_read_after_their_step(tmp_path, monkeypatch, name, parts):
    looked_at = {"train:teacher_opt": None} if name == "CSDModel" else {}  # the teacher runs for itself
    graphs = Graphs()
    monkeypatch.setattr(precision.torch, "compile", graphs.compile)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", graphs.begin_step)
    changes = {"train:accumulate_steps": parts, **looked_at}
    opts = [everything(tmp_path, name, **changes, **{"train:compile": mode}) for mode in (False, "reduce-overhead")]
    plain, model = (drawing_alike(build(opt), [1, 2, 3]) for opt in opts)
    assert graphs.steps == 3
    assert distance(weights(plain), weights(model)) == 0

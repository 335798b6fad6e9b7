"""DistillationModel: what its losses compare, one forward of the student, nothing of the teacher in checkpoints."""

import copy

import pytest
import small_models
import torch
from small_models import batch, build, train
from torch.nn import functional as F

from dscsr_arch import SPAN
from dscsr_arch.checkpoint import read_pickle, save_state_dict
from dscsr_arch.errors import DscsrError
from dscsr_model import stored_values
from dscsr_model.losses.spatial_affinity_loss import SpatialAffinityLoss

LOSSES = {
    "train:teacher_opt": {"type": "MSELoss", "target": "teacher", "loss_weight": 0.5},
    "train:affinity_opt": {"type": "SpatialAffinityLoss", "layers": ["body.0", "conv_first"], "loss_weight": 2.0,
                           "teacher_layers": ["block_1", "block_6"]},
}  # fmt: skip


@pytest.fixture
def options(tmp_path):
    """A teacher of another kind, width and naming than the student."""
    torch.manual_seed(1)
    save_state_dict({"params": SPAN(feature_channels=6, upscale=2).state_dict()}, tmp_path / "teacher.pth")
    teacher = {"weights": str(tmp_path / "teacher.pth")}

    def options(**changes):
        return small_models.options(
            tmp_path, "DistillationModel", **copy.deepcopy({"teacher": teacher, **LOSSES, **changes})
        )

    return options


def test_losses_are_those_of_their_formulas(options, logged):
    model = build(options())
    (assumed,) = [line for line in logged() if "teacher.pth does not say" in line]
    assert assumed.endswith("norm true. If that is wrong, write `teacher: network:`.")
    lq, gt = batch(1)["lq"], batch(1)["gt"]
    losses = model.compute_losses(lq, gt)
    assert list(losses) == ["l_pix", "l_teacher", "l_affinity"]
    student, teacher = model.net_g, model.teacher.networks[0]
    output, affinity = student(lq), SpatialAffinityLoss()
    wanted = teacher(lq)
    first = student.conv_first((lq - student.mean) * student.img_range)
    block_1 = teacher.block_1(teacher.conv_1((lq - teacher.mean) * teacher.img_range))[0]
    features = model.teacher(lq).features
    torch.testing.assert_close(features["block_1"], block_1)
    expected = {
        "l_pix": F.l1_loss(output, gt),
        "l_teacher": 0.5 * F.mse_loss(output, wanted),
        "l_affinity": 2 * (affinity(student.body[0](first), block_1) + affinity(first, features["block_6"])),
    }
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)


def test_the_teachers_output_is_compared_with_inside_the_border_alone(options):
    model = build(options(**{"teacher:border": 2}))
    lq, gt = batch(1)["lq"], batch(1)["gt"]
    losses = model.compute_losses(lq, gt)
    output, wanted = model.net_g(lq), model.teacher.networks[0](lq)
    inner = F.mse_loss(output[..., 4:-4, 4:-4], wanted[..., 4:-4, 4:-4])  # x2: 4 pixels of the output
    torch.testing.assert_close(losses["l_teacher"], 0.5 * inner)
    assert not torch.isclose(inner, F.mse_loss(output, wanted))
    torch.testing.assert_close(losses["l_pix"], F.l1_loss(output, gt))  # the ground truth holds everywhere


def test_one_forward_gives_output_and_features_and_validation_taps_nothing(options):
    model = build(options())
    calls = []
    model.net_g.register_forward_hook(lambda *_: calls.append(model.hooks._features is not None))
    train(model, [1])
    assert calls == [True]
    del model.net_g_ema  # the network in training itself is validated then
    model.test()
    assert calls == [True, False]


def test_nothing_of_the_teacher_is_saved_or_trained(options, tmp_path):
    model = build(options())
    before = {name: tensor.clone() for name, tensor in model.teacher.networks[0].state_dict().items()}
    train(model, range(1, 4))
    model.save(0, 3)
    after = model.teacher.networks[0].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert set(read_pickle(tmp_path / "models/net_g_3.pth")["params"]) == set(model.net_g.state_dict())
    state = read_pickle(tmp_path / "training_states/3.state")
    assert len(state["optimizers"][0]["state"]) == len(list(model.net_g.parameters()))
    assert sorted(file.name for file in (tmp_path / "models").iterdir()) == ["net_g_3.pth"]


def test_without_losses_on_it_no_teacher_is_built(options):
    model = build(options(**{"train:teacher_opt": None, "train:affinity_opt": None, "teacher:weights": "nowhere"}))
    assert model.teacher is None
    assert train(model, [1]).get_current_log()["l_pix"] > 0


HINT = {"type": "MSELoss", "layers": ["body.0"], "teacher_layers": ["block_3"], "regress": True, "loss_weight": 0.01}


def test_regressors_train_beside_the_network_and_stay_in_training(options, tmp_path):
    """Exact resume, later stages: test_stages.py; two ranks: test_runs.py."""
    model = build(options(**{"train:hint_opt": HINT, "train:precision": "bf16", "train:channels_last": True}))
    (regressor,) = model.regressors.values()
    weight = regressor.weight
    assert weight.shape == (6, model.net_g.conv_first.out_channels, 1, 1)
    lq, gt = batch(1)["lq"], batch(1)["gt"]
    loss = model.compute_losses(lq, gt)["l_hint"]
    ours, theirs = model.features["body.0"].float(), model.teacher_output.features["block_3"].float()
    expected = F.conv2d(ours, weight, regressor.bias)
    torch.testing.assert_close(loss, 0.01 * F.mse_loss(expected, theirs))
    before = weight.detach().clone()
    train(model, [1])
    assert weight.dtype == torch.float32
    assert (weight - before).abs().min() > 1e-4  # Adam's first step is the rate, 1e-3
    model.guard._max_norm = 1e-9
    train(model, [2])
    norm = torch.stack([p.grad.norm() for p in (*model.net_g.parameters(), *regressor.parameters())]).norm()
    assert norm <= 1.1e-9
    model.save(0, 2)
    files = read_pickle(tmp_path / "models/net_g_2.pth")
    assert set(files["params"]) == set(files["params_ema"]) == set(model.net_g.state_dict())
    saved = read_pickle(tmp_path / "training_states/2.state")["regressors"]
    assert torch.equal(saved["body/0 as block_3.weight"], weight)


def test_a_run_resumed_with_other_regressors_starts_them_anew(options, tmp_path, logged):
    model = train(build(options()), [1])
    model.save(0, 1)
    state = read_pickle(tmp_path / "training_states/1.state")
    model = build(options(**{"train:hint_opt": HINT}))
    model.resume_training(state)
    assert "The checkpoint has other regressors: those of this run start anew." in logged()
    train(model, [2])
    moments = model.optimizer_g.state_dict()["state"]
    assert (moments[0]["step"], moments[len(moments) - 1]["step"]) == (2, 1)


@pytest.fixture
def stored(options, tmp_path):
    """Options with stored outputs, and batches that have them."""
    made = SPAN(feature_channels=6, upscale=2).eval()

    def with_outputs(step):
        with torch.no_grad():
            numbers = stored_values.as_numbers(made(batch(step)["lq"])).to(torch.int16)
        return {**batch(step), "teacher_image": numbers}

    return lambda **more: options(**small_models.stored_teacher(tmp_path), **more), with_outputs


def test_stored_outputs_are_what_is_compared_with_and_no_teacher_runs(stored):
    options, with_outputs = stored
    found = []
    for parts in (1, 2):
        model = build(options(**{"train:affinity_opt": None, "train:accumulate_steps": parts, "teacher": None}))
        assert model.teacher is None
        model.update_learning_rate(1)
        model.feed_data(with_outputs(1))
        output, wanted = model.net_g(model.lq), stored_values.as_values(with_outputs(1)["teacher_image"])
        expected = 0.5 * F.mse_loss(output, wanted)
        model.optimize_parameters(1)
        torch.testing.assert_close(model.loss_terms["l_teacher"], expected.detach())
        found.append(small_models.weights(model))
    assert small_models.distance(*found) < 1e-5
    with pytest.raises(DscsrError, match="images \\(B, C, H, W\\) as `teacher_image` of each batch"):
        train(build(options(**{"train:affinity_opt": None})), [1])


def test_of_layers_the_teacher_tells_while_its_outputs_are_stored(stored):
    options, with_outputs = stored
    model = build(options())
    images = with_outputs(1)
    losses = model.compute_losses(images["lq"], images["gt"], stored_values.as_values(images["teacher_image"]))
    assert not model.teacher.wants_output
    live = model.teacher(images["lq"]).features
    assert set(live) == {"block_1", "block_6"}
    wanted = 0.5 * F.mse_loss(model.output, stored_values.as_values(images["teacher_image"]))
    torch.testing.assert_close(losses["l_teacher"], wanted)
    assert losses["l_affinity"] > 0

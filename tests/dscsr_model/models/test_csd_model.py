"""CSDModel: the published step, the trainings it is compared with, every width validated and saved."""

import copy

import cv2
import option_files
import pytest
import small_models
import torch
from small_models import EDSR, batch, build, distance, train, weights
from torch.nn import functional as F

from dscsr_arch.checkpoint import read_pickle, read_state_dict, save_state_dict
from dscsr_model.losses.contrastive_loss import ContrastiveLoss

TEACHER = {"type": "L1Loss", "loss_weight": 0.5, "output_of": "teacher"}
# The teacher's own layers: VGG-19 takes a second a step here.
CONTRAST = {"type": "ContrastiveLoss", "loss_weight": 0.01, "num_negatives": 3, "features": "teacher"}
METRICS = {"psnr": {"type": "calculate_psnr", "crop_border": 2}, "ssim": {"type": "calculate_ssim", "crop_border": 2}}


@pytest.fixture
def options(tmp_path):
    """CSD of a small EDSR whose teacher is in teacher.pth; without losses but pixel_opt."""
    torch.manual_seed(1)
    save_state_dict({"params": option_files.build(EDSR).state_dict()}, tmp_path / "teacher.pth")

    def options(*widths, **changes):
        network = {"type": "CSSRNet", "backbone": dict(EDSR), "widths": list(widths or (0.5,))}
        changes = {"network_g": network, "path:pretrain_network_g": str(tmp_path / "teacher.pth"), **changes}
        return small_models.options(tmp_path, "CSDModel", **copy.deepcopy(changes))

    return options


def contrast(**changes):
    return {"train:contrastive_opt": {**CONTRAST, **changes}}


BOTH = {"train:teacher_opt": TEACHER, **contrast()}


def gradients(model, **changes):
    """Of one step's losses, by parameter."""
    torch.manual_seed(3)
    model.net_g.zero_grad()
    sum(model.compute_losses(**{**batch(1), **changes}).values()).backward()
    return {name: parameter.grad for name, parameter in model.net_g.backbone.named_parameters()}


def test_losses_are_those_of_their_formulas(options):
    model = build(options(0.5, 0.25, **BOTH, **{"train:kd_opt": {"type": "MSELoss", "target": "teacher"}}))
    lq, gt = batch(1)["lq"], batch(1)["gt"]
    torch.manual_seed(3)
    losses = model.compute_losses(lq, gt)
    torch.manual_seed(3)
    net, features = model.net_g, model.features["contrastive"]
    teacher = net.backbone(lq)
    negatives = F.interpolate(lq[torch.randperm(4)[:3]], scale_factor=2, mode="bicubic")
    loss = ContrastiveLoss(0.01, features="teacher")
    expected = {"l_teacher": 0.5 * F.l1_loss(teacher, gt)}
    for width in (0.5, 0.25):
        student = net.student(width)(lq)
        expected |= {
            f"l_pix_{width}": F.l1_loss(student, gt),
            f"l_kd_{width}": F.mse_loss(student, teacher),
            f"l_contrastive_{width}": loss.compare(features(student), features(teacher), features(negatives)),
        }
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)


def test_with_stored_outputs_students_are_compared_with_them(options, tmp_path):
    changes = {**small_models.stored_teacher(tmp_path), **contrast(every=3), "train:teacher_opt": TEACHER}
    model = build(options(**changes, **{"train:kd_opt": {"type": "MSELoss", "target": "teacher"}}))
    lq, gt = batch(1)["lq"], batch(1)["gt"]
    stored = gt.flip(0)
    torch.manual_seed(3)
    losses = model.compute_losses(lq, gt, stored)
    torch.manual_seed(3)
    negatives = F.interpolate(lq[torch.randperm(4)[:3]], scale_factor=2, mode="bicubic")
    student, features = model.net_g.student(0.5)(lq), model.features["contrastive"]
    contrasted = ContrastiveLoss(0.01, features="teacher").compare(*map(features, (student, stored, negatives)))
    torch.testing.assert_close(losses["l_kd"], F.mse_loss(student, stored))
    torch.testing.assert_close(losses["l_contrastive"], contrasted)
    torch.testing.assert_close(losses["l_teacher"], 0.5 * F.l1_loss(model.net_g.backbone(lq), gt))
    found = []
    for step in range(1, 7):
        model.feed_data({"lq": lq, "gt": gt, "teacher_image": stored})
        model.optimize_parameters(step)
        found.append("l_contrastive" in model.loss_terms)
    assert found == [False, False, True] * 2


STORED = {"datasets:train:dataroot_teacher": True}


@pytest.mark.parametrize(
    ("losses", "forwards"),
    [
        (BOTH, [((1.0, 0.5), True)]),
        (contrast(), [((1.0,), False), ((0.5,), True)]),
        (STORED | contrast(), [((0.5,), True)]),
        ({}, [((0.5,), True)]),
        ({"train:pixel_opt": None, "train:teacher_opt": TEACHER}, [((1.0,), True)]),
    ],
    ids=["CSD", "a teacher that is not trained", "a stored teacher", "students alone", "the teacher alone"],
)
def test_only_what_is_needed_runs_and_what_is_trained_in_one_forward(options, losses, forwards, tmp_path):
    stored = small_models.stored_teacher(tmp_path) if losses.keys() & STORED.keys() else {}
    model, seen = build(options(**{**losses, **stored})), []

    def remember(_module, _inputs, arguments, output):
        seen.append((arguments["width"], any(one.requires_grad for one in output.values())))

    model.net_g.register_forward_hook(remember, with_kwargs=True)
    model.feed_data({**batch(1), "teacher_image": batch(1)["gt"]})
    model.optimize_parameters(1)
    assert seen == forwards


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_students_alone_send_gradients_to_their_channels_and_the_teachers_output_none(options, precision):
    """Also where weights are cast: what autocast casts without a graph must not reach the students."""
    network = build(options(**contrast(), **{"train:precision": precision}))
    found = gradients(network)
    student = dict(network.net_g.student(0.5).named_parameters())
    for name, gradient in found.items():
        own = tuple(slice(size) for size in student[name].shape)
        assert gradient[own].abs().max() > 0, name
        rest = gradient.clone()
        rest[own] = 0
        assert rest.abs().max() == 0, name
    in_one_forward = build(options(**contrast(), **{"train:precision": precision}))
    in_one_forward.run_widths = lambda lq: in_one_forward._run((1.0, 0.5), lq)
    expected = gradients(in_one_forward)
    assert all(torch.equal(gradient, expected[name]) for name, gradient in found.items())


# --- what it is compared with --------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["scratch", "teacher"])
def test_a_student_alone_trains_as_the_plain_network_of_its_size(options, tmp_path, start):
    """20 steps of Adam: of the channels that only the teacher has, gradients are zero and nothing moves."""
    changes = {"path:pretrain_network_g": None} if start == "scratch" else {}
    alone = build(options(**changes))
    begin = weights(alone)
    save_state_dict({"params": alone.net_g.student(0.5).state_dict()}, tmp_path / "student.pth")
    section = {**EDSR, "num_feat": 4}
    plain = build(
        small_models.options(
            tmp_path / "plain", network_g=section, **{"path:pretrain_network_g": str(tmp_path / "student.pth")}
        )
    )
    for model in (alone, plain):
        train(model, range(1, 21), warmup=5)
    found, wanted = alone.net_g.student(0.5).state_dict(), plain.net_g.state_dict()
    assert max(float((found[name] - wanted[name]).abs().max()) for name in wanted) <= 1e-6
    assert distance(weights(alone), begin) > 1e-3
    averages = alone.net_g_ema.student(0.5).state_dict(), plain.net_g_ema.state_dict()
    assert max(float((averages[0][name] - averages[1][name]).abs().max()) for name in wanted) <= 1e-6
    assert alone.get_current_log()["l_pix"] == pytest.approx(plain.get_current_log()["l_pix"], rel=1e-5)


def test_where_a_training_starts(options, logged, tmp_path):
    scratch = {"path:pretrain_network_g": None}
    alone, joint, warm = (build(options(**c)) for c in (scratch, {**scratch, "train:teacher_opt": TEACHER}, {}))
    assert sum("starts as a plain network" in line for line in logged()) == 1
    # Drawn for half as many inputs: a plain network's weights are larger by about the square root of two.
    spreads = [float(m.net_g.student(0.5).conv_after_body.weight.detach().std()) for m in (alone, joint)]
    assert 1.2 < spreads[0] / spreads[1] < 1.7
    given = read_state_dict(tmp_path / "teacher.pth")
    assert all(torch.equal(tensor, given[name]) for name, tensor in warm.net_g.state_dict().items())


# --- every width ---------------------------------------------------------------------------------------------------


@pytest.fixture
def loader(tmp_path):
    return small_models.pair_loader(tmp_path)


def scores_of(network, loader, tmp_path):
    """What BasicSR's SRModel says of a plain network, and the images that it makes."""
    kind = {**EDSR, "num_feat": network.conv_first.out_channels}
    model = build(small_models.options(tmp_path, "SRModel", network_g=kind, **{"val:metrics": METRICS}))
    model.net_g_ema.load_state_dict(network.state_dict())
    model.validation(loader, 3, None, save_img=True)
    folder = tmp_path / "visualization/image0"
    return model.metric_results, cv2.imread(str(folder / "image0_3.png"))


def test_every_width_is_validated_as_the_plain_network_would_be(options, loader, tmp_path, logged):
    model = train(build(options(**BOTH, **{"val:metrics": METRICS})), range(1, 4))
    model.validation(loader, 3, None, save_img=True)
    assert list(model.metric_results) == [
        f"{m}_w{w}{ending}" for m in METRICS for ending in ("", "_ema") for w in (0.5, 1.0)
    ]
    for width in (0.5, 1.0):
        scores, image = scores_of(model.net_g_ema.student(width), loader, tmp_path / str(width))
        found = {name: model.metric_results[f"{name}_w{width}_ema"] for name in METRICS}
        assert found == pytest.approx(scores, rel=1e-5)
        file = tmp_path / f"visualization/image0/image0_w{width}_3.png"
        assert abs(cv2.imread(str(file)).astype(int) - image).max() <= 1  # summed up in another order
    assert len(list((tmp_path / "visualization").rglob("*.png"))) == 2 * len(loader.dataset)
    assert any("psnr_w0.5: " in line for line in logged())
    assert any("on Set so far: saved as net_g_best.pth" in line for line in logged())
    assert model.net_g.training


@pytest.mark.parametrize(
    ("changes", "validated", "best"),
    [
        ({}, ["psnr_w0.25", "psnr_w0.5"], "psnr_w0.25"),
        ({"val:widths": [0.5]}, ["psnr_w0.5"], "psnr_w0.5"),
        ({**BOTH, "val:best_metric": "psnr_w1.0"}, ["psnr_w0.25", "psnr_w0.5", "psnr_w1.0"], "psnr_w1.0"),
        ({"is_train": False, "val:suffix": None}, ["psnr_w0.25", "psnr_w0.5", "psnr_w1.0"], None),
    ],
    ids=["students alone", "widths", "best_metric", "test"],
)
def test_which_widths_are_validated_and_which_decides(options, loader, tmp_path, changes, validated, best):
    model = build(options(0.25, 0.5, **changes))
    model.validation(loader, 1, None, save_img=False)
    endings = ("", "_ema") if best else ("",)
    assert list(model.metric_results) == [f"{name}{ending}" for name in validated for ending in endings]
    file = tmp_path / "models/net_g_best.pth"
    assert (read_pickle(file)["best"]["metric"] if file.exists() else None) == best


# --- what is saved -------------------------------------------------------------------------------------------------


def test_students_go_with_their_network(options, tmp_path, loader):
    model = build(options(**{"logger:keep_checkpoints": 2}))
    for step in (1, 2, 3):
        train(model, [step])
        model.save(0, step)
    model.validation(loader, 3, None, save_img=False)
    model.save(-1, -1)
    names = {file.name for file in (tmp_path / "models").iterdir()}
    assert names == {f"{kind}_{n}.pth" for kind in ("net_g", "student_w0.5") for n in ("2", "3", "best", "latest")}
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_contrast_that_comes_later_begins_with_the_checkpoint(options, logged):
    train(build(options()), [1, 2]).save(0, 2)
    again = small_models.resumed(options(**contrast()), 2)
    assert any("began without `features: teacher` in `contrastive_opt`" in line for line in logged())
    first = again.features["contrastive"].state()["conv_first.weight"]
    assert torch.equal(first, again.net_g.backbone.conv_first.weight)

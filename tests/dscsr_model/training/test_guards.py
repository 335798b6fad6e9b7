"""Steps that are not finite are skipped, counted, and in the end stop the run."""

import pytest
import torch
from torch import nn

from dscsr_arch.errors import DscsrError
from dscsr_model.training import guards
from dscsr_model.training.guards import RunningStatistics, StepGuard

CPU = torch.device("cpu")
NAN = torch.tensor(torch.nan)


def scaler(enabled: bool = False) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", enabled=enabled)


def weight_with_gradient(value: float = 1.0) -> nn.Parameter:
    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.full((3,), value)
    return weight


@pytest.mark.parametrize(
    ("loss", "norm", "skipped"),
    [(1.0, 1.0, False), (torch.nan, 1.0, True), (torch.inf, 1.0, True), (1.0, torch.nan, True), (1.0, torch.inf, True)],
)
def test_steps_only_if_loss_and_gradients_are_finite(loss, norm, skipped):
    guard, weight = StepGuard(9, CPU), weight_with_gradient()
    optimizer = torch.optim.SGD([weight], lr=0.5)
    bad = guard.step(optimizer, torch.tensor(loss), torch.tensor(norm), scaler())
    assert bool(bad) == skipped
    assert weight[0].item() == (1.0 if skipped else 0.5)
    assert (guard.total, guard.in_row) == (int(skipped), int(skipped))


def test_a_fused_optimizer_skips_by_its_own_flag():
    guard, weight = StepGuard(9, CPU), weight_with_gradient()
    optimizer = torch.optim.Adam([weight], lr=0.5, fused=True)
    guard.step(optimizer, NAN, torch.tensor(1.0), scaler())
    assert weight.tolist() == [1, 1, 1]
    guard.step(optimizer, torch.tensor(1.0), torch.tensor(1.0), scaler())
    assert weight.tolist() != [1, 1, 1]
    assert (guard.total, guard.in_row) == (1, 0)


def test_the_scaler_lowers_its_scale_after_an_overflow_and_the_step_is_skipped():
    guard, weight, scale = StepGuard(9, CPU), weight_with_gradient(torch.inf), scaler(True)
    optimizer = torch.optim.SGD([weight], lr=0.5)
    scale.scale(torch.ones(()))  # what `backward` would be called on: starts the scaler
    before = scale.get_scale()
    scale.unscale_(optimizer)
    guard.step(optimizer, torch.tensor(1.0), torch.tensor(torch.inf), scale)
    assert scale.get_scale() == before / 2
    assert weight.tolist() == [1, 1, 1]


def test_a_good_step_starts_the_row_anew():
    guard, weight = StepGuard(3, CPU), weight_with_gradient()
    optimizer = torch.optim.SGD([weight], lr=0.0)
    good = torch.tensor(1.0)
    for loss in (NAN, NAN, good, NAN, NAN):
        guard.step(optimizer, loss, good, scaler())
        guard.check(1, {}, None)
    assert (guard.total, guard.in_row) == (4, 2)
    guard.step(optimizer, NAN, good, scaler())
    message = (
        r"Expected finite losses and gradients, but got none in the last 3 steps, up to iteration 77 "
        r"\(l_pixel nan, l_other 2\)\. The weights on disk are good; the last checkpoint is models/net_g_70\.pth\."
    )
    with pytest.raises(DscsrError, match=message):
        guard.check(77, {"l_pixel": NAN, "l_other": torch.tensor(2.0)}, "models/net_g_70.pth")
    with pytest.raises(DscsrError, match="the last checkpoint is none yet"):
        guard.check(77, {}, None)


@pytest.mark.parametrize("max_norm", [None, 0.1, 1e9])
def test_clipping_is_torchs(max_norm):
    nets = [nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)]
    for net in nets:
        torch.manual_seed(1)
        net.weight.grad = torch.randn(net.weight.shape)  # the bias has none
    norm = guards.clip_gradients(list(nets[0].parameters()), max_norm)
    wanted = nn.utils.clip_grad_norm_(nets[1].parameters(), torch.inf if max_norm is None else max_norm)
    torch.testing.assert_close(norm, wanted)
    torch.testing.assert_close(nets[0].weight.grad, nets[1].weight.grad, rtol=1e-4, atol=0)  # torch adds 1e-6 below


def test_batch_statistics_are_kept_clean_of_a_skipped_batch():
    net = nn.BatchNorm2d(2)
    statistics = RunningStatistics(nn.Sequential(net))
    statistics.remember()
    net(torch.full((2, 2, 3, 3), torch.nan))
    assert net.running_mean.isnan().all()
    statistics.put_back_if(torch.tensor(True))
    assert net.running_mean.tolist() == [0, 0]
    assert net.num_batches_tracked.item() == 0
    statistics.remember()
    net(torch.ones(2, 2, 3, 3))
    statistics.put_back_if(torch.tensor(False))
    assert net.running_mean.tolist() != [0, 0]


def test_all_finite():
    good = {"a": torch.ones(2), "count": torch.tensor(3)}
    assert guards.all_finite(good)
    assert guards.all_finite({})
    assert not guards.all_finite(good | {"b": torch.tensor([1.0, torch.inf])})
    assert not guards.all_finite(good | {"b": torch.tensor([1.0, torch.nan])})

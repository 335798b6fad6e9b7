"""Steps that are not finite are skipped, counted, and in the end stop the run; ranks agree upon signals with them."""

import pytest
import torch
from torch import nn

from dscsr_arch.errors import DscsrError
from dscsr_model.training.guards import StepGuard
from dscsr_model.training.stopping import StopRequest

NAN, GOOD = torch.tensor(torch.nan), torch.tensor(1.0)


class Step:
    """A guard of one weight, whose gradient is given."""

    def __init__(self, lr=0.5, fp16=False, optimizer=torch.optim.SGD, network=None, **arguments):
        self.weight = nn.Parameter(torch.ones(3))
        self.scaler = torch.amp.GradScaler("cpu", enabled=fp16)
        self.stop = StopRequest()
        optimizer = optimizer([self.weight], lr=lr, **arguments)
        network = network or nn.Identity()
        self.guard = StepGuard(optimizer, network, self.scaler, max_bad_steps=3, stop=self.stop)

    def __call__(self, loss=GOOD, gradient=1.0):
        self.guard.begin()
        self.weight.grad = torch.full((3,), gradient)
        self.guard.step(loss)


@pytest.mark.parametrize(
    ("loss", "gradient", "skipped"),
    [(1.0, 1.0, 0), (torch.nan, 1.0, 1), (torch.inf, 1.0, 1), (1.0, torch.nan, 1), (1.0, torch.inf, 1)],
)
@pytest.mark.parametrize("optimizer", [{}, {"optimizer": torch.optim.Adam, "fused": True}], ids=["plain", "fused"])
def test_steps_only_if_loss_and_gradients_are_finite(loss, gradient, skipped, optimizer):
    """A fused optimizer skips by its own flag, and goes on afterwards."""
    step = Step(**optimizer)
    step(torch.tensor(loss), gradient)
    assert step.weight.tolist() == pytest.approx([1.0 if skipped else 0.5] * 3)
    assert (step.guard.total, step.guard.in_row) == (skipped, skipped)
    step()
    assert step.weight[0].item() == pytest.approx(0.5 if skipped else 0.0, abs=1e-6)
    assert (step.guard.total, step.guard.in_row) == (skipped, 0)


def test_a_good_step_starts_the_row_anew():
    step = Step()
    for loss in (NAN, NAN, GOOD, NAN, NAN):
        step(loss)
        step.guard.check(1, {}, None)
    assert (step.guard.total, step.guard.in_row) == (4, 2)
    step(NAN)
    with pytest.raises(DscsrError, match=r"iteration 77 \(l_pixel nan, l_other 2\).* the last checkpoint is none yet"):
        step.guard.check(77, {"l_pixel": NAN, "l_other": torch.tensor(2.0)}, None)


@pytest.mark.parametrize("bad", [True, False])
def test_batch_statistics_are_kept_clean_of_a_skipped_batch(bad):
    net = nn.BatchNorm2d(2)
    step = Step(network=nn.Sequential(net))
    step.guard.begin()
    net(torch.full((2, 2, 3, 3), torch.nan if bad else 1.0))
    assert net.running_mean.tolist() != [0, 0]
    step.weight.grad = torch.ones(3)
    step.guard.step(NAN if bad else GOOD)
    assert (net.running_mean.tolist() == [0, 0]) == bad
    assert net.num_batches_tracked.item() == (not bad)

"""What the log shows of a training."""

import time

import pytest
import torch

from dscsr_arch.errors import DscsrError
from dscsr_model.training import log
from dscsr_model.training.clock import TrainingClock
from dscsr_model.training.log import named


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

    monkeypatch.setattr(time, "perf_counter", lambda: Clock.now)
    return Clock


def test_images_per_second_are_counted_from_the_end_of_the_first_step_without_pauses(clock):
    training = TrainingClock()
    throughput = log.Throughput(training, world_size=2)
    training.start()
    clock.now += 5
    throughput.add(8)  # compiling, opening files, …: not timed
    assert throughput.read() is None
    clock.now += 4
    throughput.add(8)
    throughput.add(8)
    assert throughput.read() == 8.0  # 16 images in 4 s, on 2 ranks
    clock.now += 1
    with training.paused():
        clock.now += 50
    throughput.add(8)
    assert throughput.read() == 16.0


def test_terms_of_a_loss_are_named():
    one, two = torch.tensor(1.0), torch.tensor(2.0)
    assert named("pixel", one) == {"l_pix": one}  # SRModel's names, where it has one
    assert named("pixel", one, "_0.5") == {"l_pix_0.5": one}
    assert named("perceptual", (one, two)) == {"l_percep": one, "l_style": two}
    assert named("perceptual", (None, two), "_0.5") == {"l_style_0.5": two}
    assert named("vgg", (one, two)) == {"l_vgg": one, "l_vgg_style": two}


@pytest.mark.parametrize(
    ("loss", "got"),
    [(torch.zeros(2, 3), r"something else \(\(2, 3\)\)"), (0.5, r"something else \(0.5\)"), ((None, None), "neither")],
)
def test_a_loss_is_a_number(loss, got):
    with pytest.raises(DscsrError, match=f"Expected `x_opt` to give a number, .* but got {got}. Set its `red"):
        named("x", loss)

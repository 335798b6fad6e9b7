"""Figures for the log."""

import pytest
import torch

from dscsr_model.training import log


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

    monkeypatch.setattr(log.time, "perf_counter", lambda: Clock.now)
    return Clock


def test_terms_of_a_loss_are_named():
    assert log.named("pixel", 1) == {"l_pix": 1}  # SRModel's names, where it has one
    assert log.named("pixel", 1, "_0.5") == {"l_pix_0.5": 1}
    assert log.named("perceptual", (1, 2)) == {"l_percep": 1, "l_style": 2}
    assert log.named("perceptual", (None, 2), "_0.5") == {"l_style_0.5": 2}
    assert log.named("edge", 1) == {"l_edge": 1}
    assert log.named("vgg", (1, 2)) == {"l_vgg": 1, "l_vgg_style": 2}


def test_no_two_losses_share_a_name():
    log.check_names(["pixel", "perceptual", "edge"])
    log.check_names(["pix", "style"])
    with pytest.raises(log.LossNameError, match=r"`style_opt` beside `perceptual_opt`, .* as `l_style`. Rename"):
        log.check_names(["perceptual", "style"])


def test_losses_are_read_by_name():
    losses = {"l_a": torch.tensor(1.5, requires_grad=True), "l_b": torch.tensor([1.0, 2.0], dtype=torch.bfloat16)}
    assert log.reduced(losses) == {"l_a": 1.5, "l_b": 1.5}
    assert log.reduced({}) == {}


def test_images_per_second_are_counted_from_the_end_of_the_first_step(clock):
    throughput = log.Throughput(world_size=2)
    throughput.add(8)  # compiling, opening files, …: not timed
    assert throughput.read() is None
    clock.now += 4
    throughput.add(8)
    throughput.add(8)
    assert throughput.read() == 8.0  # 16 images in 4 s, on 2 ranks
    clock.now += 1
    throughput.add(8)
    assert throughput.read() == 16.0


def test_pauses_do_not_count(clock):
    throughput = log.Throughput(1)
    with throughput.paused():
        clock.now += 5  # nothing runs yet
    throughput.add(1)
    clock.now += 1
    with throughput.paused():
        clock.now += 50
    clock.now += 1
    throughput.add(6)
    assert throughput.read() == 3.0


def test_peak_memory_is_that_of_this_process():
    before = log.peak_memory_gib(torch.device("cpu"))
    block = torch.ones(2**26)  # 256 MiB
    assert log.peak_memory_gib(torch.device("cpu")) >= min(before + 0.2, before * 1.01)
    assert 0.1 < before < 100
    del block

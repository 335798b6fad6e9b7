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

"""Timing against calls whose time is known."""

import time

import pytest
import torch

from dscsr_model.profiling.latency import LEAST, Latency, measure, milliseconds, summarise

CPU = torch.device("cpu")


def test_summary_of_known_times():
    assert summarise([4.0, 1.0, 2.0, 3.0, 5.0]) == Latency(3.0, 2.0, 4.0, 3.0, 5)


def test_every_call_has_its_seconds_and_turns_are_taken():
    order = []
    calls = {
        name: lambda name=name, s=s: (order.append(name), time.sleep(s)) for name, s in (("a", 0.002), ("b", 0.01))
    }
    result = measure(calls, device=CPU, seconds=0.04)
    assert list(result) == ["a", "b"]
    assert result["a"].median_ms >= 2
    assert result["b"].median_ms >= 10
    assert result["a"].runs > result["b"].runs >= LEAST
    assert result["a"].low_ms <= result["a"].median_ms <= result["a"].high_ms
    turns = "".join(order).lstrip("a").lstrip("b")  # without the warm-up
    assert turns.startswith("aaaabbbbaaaa"), "they must be timed in turns"


def test_the_first_call_does_not_count():
    """It may compile."""
    waits = iter([0.1])
    result = measure({0: lambda: time.sleep(next(waits, 0))}, device=CPU, seconds=0.01)[0]
    assert result.mean_ms < 50


@pytest.mark.gpu
def test_a_gpu_is_waited_for(gpu):
    x = torch.rand(4096, 4096, device="cuda")
    x @ x
    waited = milliseconds(lambda: [x @ x for _ in range(20)], torch.device("cuda"))
    begin = time.perf_counter()
    for _ in range(20):
        x @ x
    torch.cuda.synchronize()
    assert waited > 0.3 * 1000 * (time.perf_counter() - begin)

"""Precision and compiled forms."""

import logging

import pytest
import torch
from torch import nn

from dscsr_model.training import precision
from dscsr_model.training.precision import CompiledForward


@pytest.fixture
def compiling(monkeypatch):
    """Stand in for torch.compile; gives the modes that it is asked for."""

    def stand_in(compiled):
        modes = []
        monkeypatch.setattr(precision.torch, "compile", lambda network, mode: modes.append(mode) or compiled(network))
        return modes

    return stand_in


def test_a_compiler_that_fails_is_told_once_and_training_goes_on(compiling, caplog):
    def fail(x):
        raise RuntimeError("no C++ compiler\nand a long story")

    modes = compiling(lambda network: fail)
    net, x = nn.Conv2d(3, 4, 3), torch.rand(1, 3, 5, 5)
    forward = CompiledForward(net, "max-autotune", logging.getLogger("test"))
    with caplog.at_level(logging.WARNING, "test"):
        for _ in range(3):
            assert torch.equal(forward(x), net(x))
    assert modes == ["max-autotune"]
    assert [record.getMessage() for record in caplog.records] == [
        "torch.compile(mode='max-autotune') does not work here, so training goes on without it. "
        "(RuntimeError: no C++ compiler)"
    ]


def test_a_fault_of_the_network_itself_is_not_hidden(compiling):
    compiling(lambda network: network)
    with pytest.raises(RuntimeError, match="expected input"):
        CompiledForward(nn.Conv2d(3, 4, 3), True, logging.getLogger("test"))(torch.rand(1, 2, 5, 5))


def test_a_compiler_that_works_is_used_from_then_on(compiling):
    modes = compiling(lambda network: lambda x: network(x) + 1)
    net, x = nn.Conv2d(3, 4, 3), torch.rand(1, 3, 5, 5)
    forward = CompiledForward(net, True, logging.getLogger("test"))
    for _ in range(2):
        assert torch.equal(forward(x), net(x) + 1)
    assert modes == ["default"]


@pytest.mark.parametrize(("mode", "begun"), [("reduce-overhead", 1), (True, 0)])
def test_steps_begin_where_graphs_are_replayed(compiling, monkeypatch, mode, begun):
    compiling(lambda network: network)
    marks = []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: marks.append(1))
    forward = CompiledForward(nn.Conv2d(3, 4, 3), mode, logging.getLogger("test"))
    forward.begin_step()
    assert len(marks) == begun

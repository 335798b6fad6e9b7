"""Precision and compiled forms."""

import logging

import pytest
import torch
from torch import nn

from dscsr_model.training import precision
from dscsr_model.training.precision import CompiledForward


def test_a_compiler_that_fails_is_told_once_and_training_goes_on(monkeypatch, caplog):
    calls = []

    def broken_compile(network, mode):
        calls.append(mode)

        def fail(x):
            raise RuntimeError("no C++ compiler\nand a long story")

        return fail

    monkeypatch.setattr(precision.torch, "compile", broken_compile)
    net = nn.Conv2d(3, 4, 3)
    forward = CompiledForward(net, "max-autotune", logging.getLogger("test"))
    x = torch.rand(1, 3, 5, 5)
    with caplog.at_level(logging.WARNING, "test"):
        for _ in range(3):
            assert torch.equal(forward(x), net(x))
    assert calls == ["max-autotune"]
    assert [record.getMessage() for record in caplog.records] == [
        "torch.compile(mode='max-autotune') does not work here, so training goes on without it. "
        "(RuntimeError: no C++ compiler)"
    ]


def test_a_fault_of_the_network_itself_is_not_hidden(monkeypatch):
    monkeypatch.setattr(precision.torch, "compile", lambda network, mode: network)
    with pytest.raises(RuntimeError, match="expected input"):
        CompiledForward(nn.Conv2d(3, 4, 3), True, logging.getLogger("test"))(torch.rand(1, 2, 5, 5))


def test_a_compiler_that_works_is_used_from_then_on(monkeypatch):
    compiled = []

    def record_compile(network, mode):
        compiled.append(mode)
        return lambda x: network(x) + 1

    monkeypatch.setattr(precision.torch, "compile", record_compile)
    net = nn.Conv2d(3, 4, 3)
    forward = CompiledForward(net, True, logging.getLogger("test"))
    x = torch.rand(1, 3, 5, 5)
    assert torch.equal(forward(x), net(x) + 1)
    assert torch.equal(forward(x), net(x) + 1)
    assert compiled == ["default"]

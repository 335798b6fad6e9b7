"""Ranks stop after the same step, whichever of them a signal has reached."""

import signal

import torch
from torch import distributed, nn

from dscsr_model.training.guards import StepGuard
from dscsr_model.training.stopping import StopRequest


def test_a_rank_stops_when_the_step_has_told_all_of_them():
    stop = StopRequest()
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    guard = StepGuard(3, torch.device("cpu"), stop)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    stop.asked = int(signal.SIGTERM)
    assert stop.agreed == signal.SIGTERM  # alone there is nobody to ask
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        assert stop.agreed == 0
        guard.step(optimizer, torch.tensor(1.0), torch.tensor(1.0), scaler)
        assert stop.agreed == signal.SIGTERM
    finally:
        distributed.destroy_process_group()

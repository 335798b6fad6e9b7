"""What keeps a run from being ruined: steps that are not finite are skipped and counted, then end it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from dscsr_arch.errors import DscsrError
from dscsr_arch.words import many
from dscsr_model.training.ranks import together
from dscsr_model.training.stopping import StopRequest


class StepGuard:
    """Takes optimizer steps, but not those whose loss or gradients are not finite.

    A fused optimizer, the default on a GPU, gets the flag as a tensor, so that nothing waits for the device; the
    counters stay there until somebody asks. For any other it is read on every step.

    Attributes:
        optimizer: Takes the steps; another one may take its place.

    The network's batch statistics are kept clean of a batch that is skipped. Gradients are scaled down to ``max_norm``,
    and ranks agree upon ``stop`` with every step.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        network: nn.Module,
        scaler: torch.amp.GradScaler,
        *,
        max_bad_steps: int,
        max_norm: float | None = None,
        stop: StopRequest,
    ) -> None:
        self.scaler = scaler
        self.max_bad_steps = max_bad_steps
        self.optimizer = optimizer
        self._max_norm = torch.inf if max_norm is None else max_norm
        self._stop = stop
        self._statistics = [
            buffer
            for module in network.modules()
            if getattr(module, "track_running_stats", False)
            for buffer in module.buffers(recurse=False)
        ]
        self._before: list[Tensor] = []
        device = self._weights()[0].device
        self._total = torch.zeros((), dtype=torch.int64, device=device)
        self._in_row = torch.zeros((), dtype=torch.int64, device=device)

    @property
    def total(self) -> int:
        """Steps skipped so far. Waits for the device, as does `in_row`."""
        return int(self._total)

    @property
    def in_row(self) -> int:
        """Steps skipped since the last good one."""
        return int(self._in_row)

    def begin(self) -> None:
        """Before the forward passes of a step."""
        self.optimizer.zero_grad(set_to_none=True)
        self._before = [buffer.clone() for buffer in self._statistics]

    def step(self, loss: Tensor) -> None:
        """Clip the gradients, which are complete; step if they and ``loss`` are finite on every rank, and count."""
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self._weights(), self._max_norm, foreach=True)
        bad = ~(torch.isfinite(loss.detach()) & torch.isfinite(norm))
        if together():
            # Ranks share gradients but not losses: one of them alone must not skip.
            mine = [torch.full_like(norm, value, dtype=torch.float32) for value in self._stop.mine]
            anywhere = torch.stack([bad.float(), *mine])
            distributed.all_reduce(anywhere, distributed.ReduceOp.MAX)
            bad = anywhere[0].bool()
            self._stop.agree(anywhere[1:])
        self._total += bad
        self._in_row += bad
        self._in_row *= bad
        self._step_unless(bad)
        self.scaler.update()
        for buffer, before in zip(self._statistics, self._before, strict=True):
            buffer.copy_(torch.where(bad, before, buffer))

    def _step_unless(self, bad: Tensor) -> None:
        optimizer = self.optimizer
        if optimizer.defaults.get("fused"):  # gradients of fp16 are unscaled by now
            optimizer.found_inf, optimizer.grad_scale = bad.float(), None  # type: ignore[attr-defined]
            optimizer.step()
        elif not bad:
            self.scaler.step(optimizer)
        else:  # the schedule goes on; without this torch warns that the optimizer should be called before it
            optimizer._opt_called = True  # type: ignore[attr-defined]

    def _weights(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def check(self, iteration: int, losses: Mapping[str, Tensor], last_checkpoint: object) -> None:
        """Stop a run that does not recover. On a GPU only now and then: reading the counters waits for the device.

        Raises:
            DscsrError: ``max_bad_steps`` in a row were bad.
        """
        now_and_then = iteration % min(50, self.max_bad_steps) == 0
        if (self._in_row.is_cuda and not now_and_then) or self.in_row < self.max_bad_steps:
            return
        terms = ", ".join(f"{name} {float(value):.3g}" for name, value in losses.items())
        raise DscsrError(
            "finite losses and gradients",
            f"none in the last {many(self.in_row, 'step')}, up to iteration {iteration} ({terms})",
            f"The weights on disk are good; the last checkpoint is {last_checkpoint or 'none yet'}. Look at the data, "
            "and resume with a lower learning rate, `grad_clip_norm`, or `precision: bf16` or fp32.",
        )


def all_finite(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether every floating-point tensor is free of NaN and infinity."""
    floats = [tensor for tensor in state_dict.values() if tensor.is_floating_point()]
    return bool(torch.stack([torch.isfinite(tensor).all() for tensor in floats]).all()) if floats else True

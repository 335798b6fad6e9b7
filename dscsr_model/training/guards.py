"""What keeps a run from being ruined: steps that are not finite are skipped and counted, then end it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from dscsr_arch.errors import DscsrError
from dscsr_model.training.stopping import StopRequest


class StepGuard:
    """Takes optimizer steps, but not those whose loss or gradients are not finite.

    On the CPU the flag is read at once. A fused optimizer on a GPU gets it as a tensor, so that nothing waits for
    the device; the counters stay there until somebody asks. fp16's scaler reads it on every step in any case.

    Args:
        max_bad_steps: So many bad steps in a row stop the run.
        device: Where the losses are.
        stop: Agreed upon by the ranks with every step.
    """

    def __init__(self, max_bad_steps: int, device: torch.device, stop: StopRequest | None = None) -> None:
        self.max_bad_steps = max_bad_steps
        self._stop = stop or StopRequest()
        self._total = torch.zeros((), dtype=torch.int64, device=device)
        self._in_row = torch.zeros((), dtype=torch.int64, device=device)

    @property
    def total(self) -> int:
        """Steps skipped so far; reads from the device."""
        return int(self._total)

    @property
    def in_row(self) -> int:
        """Steps skipped since the last good one; reads from the device."""
        return int(self._in_row)

    def step(self, optimizer: Optimizer, loss: Tensor, norm: Tensor, scaler: torch.amp.GradScaler) -> Tensor:
        """Step if all is finite on every rank, and count.

        Args:
            optimizer: Its gradients are complete, unscaled and clipped.
            loss: Total loss of the step, a scalar.
            norm: Norm of all gradients, a scalar.
            scaler: The loss scaler; enabled for fp16 only.

        Returns:
            Whether the step was skipped, a bool on the device.
        """
        bad = ~(torch.isfinite(loss.detach()) & torch.isfinite(norm))
        if distributed.is_available() and distributed.is_initialized():
            # Ranks share gradients but not losses: one of them alone must not skip.
            anywhere = torch.stack([bad.float(), torch.full_like(norm, self._stop.asked, dtype=torch.float32)])
            distributed.all_reduce(anywhere, distributed.ReduceOp.MAX)
            bad = anywhere[0].bool()
            self._stop.agree(anywhere[1])
        self._total += bad
        self._in_row += bad
        self._in_row *= bad
        if optimizer.defaults.get("fused") and not scaler.is_enabled():
            optimizer.found_inf, optimizer.grad_scale = bad.float(), None  # type: ignore[attr-defined]
            optimizer.step()
        elif not bad:
            scaler.step(optimizer)
        else:  # the schedule goes on; without this torch warns that the optimizer should be called before it
            optimizer._opt_called = True  # type: ignore[attr-defined]
        scaler.update()
        return bad

    def check(self, iteration: int, losses: Mapping[str, Tensor], last_checkpoint: str | None) -> None:
        """Stop a run that does not recover.

        Raises:
            DscsrError: ``max_bad_steps`` in a row were bad.
        """
        if self.in_row < self.max_bad_steps:
            return
        terms = ", ".join(f"{name} {float(value):.3g}" for name, value in losses.items())
        raise DscsrError(
            f"Expected finite losses and gradients, but got none in the last {self.in_row} steps, up to iteration "
            f"{iteration} ({terms}). The weights on disk are good; the last checkpoint is "
            f"{last_checkpoint or 'none yet'}. Look at the data, and resume with a lower learning rate, "
            "`grad_clip_norm`, or `precision: bf16` or fp32."
        )


class RunningStatistics:
    """Batch statistics that a forward pass writes into a network, kept clean of a batch that is skipped."""

    def __init__(self, network: nn.Module) -> None:
        self._buffers = [
            buffer
            for module in network.modules()
            if getattr(module, "track_running_stats", False)
            for buffer in module.buffers(recurse=False)
        ]
        self._remembered: list[Tensor] = []

    def remember(self) -> None:
        """Before a forward pass."""
        self._remembered = [buffer.clone() for buffer in self._buffers]

    def put_back_if(self, bad: Tensor) -> None:
        """After it; ``bad`` is a bool on the device, which is not read."""
        for buffer, before in zip(self._buffers, self._remembered, strict=True):
            buffer.copy_(torch.where(bad, before, buffer))


def clip_gradients(parameters: list[nn.Parameter], max_norm: float | None) -> Tensor:
    """Norm of all gradients together, which are scaled down to ``max_norm`` if it is given and exceeded."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if max_norm is not None:
        torch._foreach_mul_(gradients, (max_norm / norm).clamp(max=1))
    return norm


def all_finite(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether every floating-point tensor is free of NaN and infinity."""
    floats = [tensor for tensor in state_dict.values() if tensor.is_floating_point()]
    return bool(torch.stack([torch.isfinite(tensor).all() for tensor in floats]).all()) if floats else True

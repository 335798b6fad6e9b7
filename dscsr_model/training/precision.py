"""In which numbers, memory format and form (eager or compiled) a network runs while it trains."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

_RECORDED = ("reduce-overhead", "max-autotune")
"""Modes of torch.compile that replay CUDA graphs."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """Autocast and loss scaling. Weights stay in float32; fp16 scales the loss so that small gradients survive."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = name
        self.device = device
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    def autocast(self) -> AbstractContextManager[Any]:
        """Context in which the network runs; losses are computed outside it."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=DTYPES[self.name])


class CompiledForward:
    """Calls a network, compiled in this mode if that works here; else, after one warning, as it is.

    CUDA graphs (reduce-overhead) put out tensors, gradients too, whose memory is theirs: a replay may overwrite them.
    `begin_step` says when: what was put out before is not read after it, but for several calls and backwards within
    one step, as of parts of a batch, all stays as it is.
    """

    def __init__(self, network: nn.Module, mode: str | bool | None, logger: logging.Logger) -> None:
        self.network = network
        self._logger = logger
        self._mode = mode if isinstance(mode, str) else "default"
        self._run: Any = None if mode else network
        self._works = not mode

    def begin_step(self) -> None:
        """Before the first call of a step: nobody wants what the last step has put out."""
        if self._mode in _RECORDED and self._run is not self.network:
            torch.compiler.cudagraph_mark_step_begin()

    def __call__(self, x: Tensor, **arguments: Any) -> Any:
        """Run the network; ``arguments`` are further ones of its ``forward``."""
        try:
            if self._run is None:
                self._run = torch.compile(self.network, mode=self._mode)
            output = self._run(x, **arguments)
        except Exception as error:  # whatever keeps the compiler from working: no C++ compiler, an old GPU, a graph
            if self._works:
                raise
            self._logger.warning(
                f"torch.compile(mode={self._mode!r}) does not work here, so training goes on without it. "
                f"({type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]})"
            )
            self._run = self.network
            output = self.network(x, **arguments)
        self._works = True
        return output

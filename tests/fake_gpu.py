"""A pretended GPU: tensors that have a shape and a device, but no numbers; mixing devices fails as on a real one.

What needs a number (``item``, ``bool``, ``nonzero``: on a GPU the host would wait for it) fails, too.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import basicsr.models.base_model
import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dscsr_model.host.patches import Overlay

DEVICE = torch.device("cuda:0")
_CUDA, _META = 1, 14  # of c10::DeviceType


@contextmanager
def fake_gpu() -> Iterator[torch.device]:
    """Inside, tensors are such, and BasicSR's models go to the device that is given."""
    _let_torch_know_gpus()
    pretended = Overlay(torch, device=lambda name: torch.device("cuda:0" if name == "cuda" else name))
    with ExitStack() as stack:
        patched = lambda owner, name, value: stack.enter_context(mock.patch.object(owner, name, value))  # noqa: E731
        patched(nn.Module, "_apply", _apply)
        patched(basicsr.models.base_model, "torch", pretended)
        patched(Tensor, "backward", _give_gradients)
        patched(torch.cuda, "is_bf16_supported", lambda *_: True)
        patched(Tensor, "record_stream", lambda self, stream: None)
        patched(torch, "randperm", lambda size, **_: np.arange(size))  # drawn on the CPU: read at once
        for name in ("current_stream", "get_rng_state", "set_rng_state"):
            patched(torch.cuda, name, lambda *_: None)
        patched(torch.cuda, "Event", lambda **_: SimpleNamespace(record=lambda: None))
        patched(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        stack.enter_context(_Mode())
        yield DEVICE


class _Mode(FakeTensorMode):
    def __deepcopy__(self, memo: dict[int, Any]) -> FakeTensorMode:
        return self  # a copied tensor is of the same device


def _let_torch_know_gpus() -> None:
    """A torch without CUDA refuses to index a tensor of a GPU: nobody there could change to its device."""
    if not torch.version.cuda:
        library = ctypes.CDLL(str(Path(torch.__path__[0], "lib", "libc10.so")))
        guards = (ctypes.c_void_p * (_META + 1)).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
        guards[_CUDA] = guards[_META]  # which does nothing


def _give_gradients(loss: Tensor, *_: Any, **__: Any) -> None:
    """To all that the loss depends on: torch's engine for backward has to know the device's streams."""
    waiting, seen = [loss.grad_fn], set()
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [before for before, _ in node.next_functions]
        if (leaf := getattr(node, "variable", None)) is not None:
            leaf.grad = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad + 1


def _apply(self: nn.Module, fn: Callable[[Any], Any], recurse: bool = True) -> nn.Module:
    """torch's exchanges tensors in place, which such ones do not allow."""
    for child in self.children():
        child._apply(fn)
    for name, parameter in self._parameters.items():
        if parameter is not None:
            self._parameters[name] = nn.Parameter(fn(parameter.detach()), parameter.requires_grad)
    for name, buffer in self._buffers.items():
        self._buffers[name] = buffer if buffer is None else fn(buffer)
    return self

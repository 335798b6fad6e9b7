"""Losses whose gradient falls out of the computation of their value, so that nothing large is kept for a backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.autograd import Function


def attach_gradients(value: Tensor, inputs: Sequence[Tensor], gradients: Sequence[Tensor | None], name: str) -> Tensor:
    """Make a scalar that was computed without a graph differentiable: backward hands out gradients known already.

    There is one per input and of its shape, None for an input that needs none. Differentiating twice raises a
    RuntimeError that calls the loss ``name``: the gradients are numbers, not functions.
    """
    pairs = [(given, gradient) for given, gradient in zip(inputs, gradients, strict=True) if gradient is not None]
    if not pairs:
        return value
    return _Attach.apply(name, value, *(gradient for _, gradient in pairs), *(given for given, _ in pairs))


class _Attach(Function):
    @staticmethod
    def forward(ctx: Any, name: str, value: Tensor, *gradients_and_inputs: Tensor) -> Tensor:
        ctx.name = name
        ctx.save_for_backward(*gradients_and_inputs)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        half = len(ctx.saved_tensors) // 2
        gradients, inputs = ctx.saved_tensors[:half], ctx.saved_tensors[half:]
        scaled = (_Scale.apply(ctx.name, grad_output, *pair) for pair in zip(gradients, inputs, strict=True))
        return None, None, *(None for _ in gradients), *scaled


class _Scale(Function):
    """Scale a gradient; ``source``, what it is a function of, makes a second differentiation come by here.

    torch's ``once_differentiable`` notices one only if ``grad_output`` has a graph, which that of a loss has not.
    """

    @staticmethod
    def forward(ctx: Any, name: str, grad_output: Tensor, gradient: Tensor, source: Tensor) -> Tensor:
        ctx.name = name
        return grad_output * gradient

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[None, ...]:
        raise RuntimeError(
            f"Expected {ctx.name} to be differentiated once, but got a second differentiation. Its gradient is "
            "computed together with its value and has no graph: leave this loss out of what needs create_graph=True."
        )

"""LoRA and DoRA, the layers: frozen convolutions and linear layers that learn by a low-rank update of their weight.

LoRA: arXiv 2106.09685, https://github.com/microsoft/LoRA; as used by DSCLoRA, arXiv 2504.11271.
DoRA: arXiv 2402.09353, https://github.com/NVlabs/DoRA. Formulas: `low_rank`.

Different from the originals:

- A layer is an ``nn.Conv2d`` or ``nn.Linear`` whose parameters keep their names, so a file of the base network loads as
  it is.
- The effective weight is formed once per forward and one product meets the image, also while training.
- DoRA's norm takes part in the gradient; the authors hold it fixed to save the memory of an LLM.
- ``train()`` and ``eval()`` never merge. ``merge()`` keeps the base weight, so ``unmerge()`` is exact, and a state
  dict always holds the base: whether it was merged does not matter.
- ``lora_alpha`` is in the state dict, so that a file says itself what its updates are.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parameter import is_lazy

from dscsr_arch.errors import LoRAError
from dscsr_arch.low_rank import ENTRIES, Adapter, factor_shapes, is_number, norms, rank_limit, rank_unit, rescaled
from dscsr_arch.no_autocast import no_autocast


class LoRALayer(nn.Module):
    """What `ConvLoRA` and `LinearLoRA` have in common: weight and bias are frozen, an update of the weight is learned.

    Formula: the layer's, with ``weight + (alpha/rank) · (lora_B @ lora_A)`` in the weight's shape; with ``dora``, each
    output's weights of that are as long as ``lora_magnitude`` says. ``lora_A`` starts Kaiming-uniform (a = √5),
    ``lora_B`` zero, ``lora_magnitude`` with the lengths of ``weight``: a new layer is exactly its base.

    Shapes: those of the layer; those of the factors are in `low_rank`.

    Args:
        layer: Whose parameters, which become frozen, geometry, dtype, device and mode the layer takes over.
        rank: Of the update, at most what the weight allows.
        alpha: The update is multiplied by alpha/rank.
        dropout: Probability in [0, 1) with which, in training, a value of the update's input is dropped. It costs a
            second product.
        dora: Learn magnitude and direction.

    Raises:
        LoRAError: See `check_layer`.
    """

    weight: Tensor
    bias: Any
    lora_alpha: Tensor
    lora_magnitude: nn.Parameter | None
    base_weight: Tensor | None

    def __init__(self, layer: Any, rank: int, alpha: float, dropout: float = 0.0, dora: bool = False) -> None:
        check_layer(layer, rank, alpha, dropout)
        super().__init__(**self._geometry(layer))
        self.weight, self.bias = layer.weight, layer.bias
        self.requires_grad_(False)
        self.dropout = dropout
        shape_a, shape_b = factor_shapes(self.weight.shape, rank)
        self.lora_A = nn.Parameter(self.weight.new_empty(shape_a))
        self.lora_B = nn.Parameter(self.weight.new_zeros(shape_b))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        precise = torch.promote_types(self.weight.dtype, torch.float32)
        self.register_buffer("lora_alpha", torch.tensor(float(alpha), device=self.weight.device, dtype=precise))
        self.register_parameter("lora_magnitude", nn.Parameter(norms(self.weight.detach())) if dora else None)
        self.register_buffer("base_weight", None, persistent=False)
        self.train(layer.training)

    @staticmethod
    def _geometry(layer: Any) -> dict[str, Any]:
        """Constructor arguments of a plain layer like this one, without memory for its weight."""
        raise NotImplementedError

    def _plain(self) -> nn.Module:
        """A plain layer of this geometry."""
        raise NotImplementedError

    def _apply_weight(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002
        """The plain layer's formula."""
        raise NotImplementedError

    @property
    def rank(self) -> int:
        """Rank of the update."""
        return self.lora_A.shape[0] // rank_unit(self.weight.shape)

    @property
    def alpha(self) -> float:
        """The update is multiplied by alpha/rank. Reading it waits for the device."""
        return float(self.lora_alpha)

    @property
    def merged(self) -> bool:
        """Whether ``weight`` holds the merged weight at the moment."""
        return self.base_weight is not None

    @property
    def dora(self) -> bool:
        """Whether magnitude and direction are learned."""
        return self.lora_magnitude is not None

    def delta(self) -> Tensor:
        """What is added to the base weight, in its shape, in float32 at least, merged or not; differentiable."""
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        with no_autocast(self.weight.device):
            # A new tensor, not the buffer, goes into the graph: DistributedDataParallel writes buffers at each forward.
            scaling = self.lora_alpha.to(dtype) / self.rank
            update = (self.lora_B.to(dtype) @ self.lora_A.to(dtype)).view(self.weight.shape) * scaling
            if self.lora_magnitude is None:
                return update
            base = (self.weight if self.base_weight is None else self.base_weight).to(dtype)
            return rescaled(base + update, self.lora_magnitude.to(dtype)) - base

    def effective_weight(self) -> Tensor:
        """What the input meets: base and update added up, in the weight's dtype; differentiable."""
        if self.merged:
            return self.weight
        delta = self.delta()
        return (self.weight.to(delta.dtype) + delta).to(self.weight.dtype)

    def adapter(self) -> Adapter:
        """The LoRA entries, as a state dict has them."""
        magnitude = None if self.lora_magnitude is None else self.lora_magnitude.detach()
        return Adapter(self.lora_A.detach(), self.lora_B.detach(), self.lora_alpha, magnitude)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that the plain layers have
        """As the plain layer."""
        if self.merged or not self.training or not self.dropout:
            return self._apply_weight(input, self.effective_weight(), self.bias)
        base = self._apply_weight(input, self.weight, self.bias)
        return base + self._apply_weight(F.dropout(input, self.dropout), self.delta().to(self.weight.dtype), None)

    @torch.no_grad()
    def merge(self) -> LoRALayer:
        """Write base plus update into ``weight``; undone by ``unmerge``. On a merged layer, does nothing."""
        if not self.merged:
            merged = self.effective_weight()
            self.base_weight = self.weight.detach()
            self.weight = nn.Parameter(merged, requires_grad=False)
        return self

    @torch.no_grad()
    def unmerge(self) -> LoRALayer:
        """Put the base weight back, bit by bit as it was. On a layer that is not merged, does nothing."""
        if self.base_weight is not None:
            self.weight = nn.Parameter(self.base_weight, requires_grad=False)
            self.base_weight = None
        return self

    @torch.no_grad()
    def reset(self) -> LoRALayer:
        """Let the update be none: an unmerged layer is then its base."""
        nn.init.zeros_(self.lora_B)
        if self.lora_magnitude is not None:
            self.lora_magnitude.copy_(norms(self.weight))
        return self

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        """The plain layer that this one amounts to, frozen; the layer itself stays as it is."""
        plain = self._plain()
        plain.weight = nn.Parameter(self.effective_weight().clone(), requires_grad=False)
        plain.bias = self.bias
        return plain.train(self.training)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.base_weight is not None:
            destination[f"{prefix}weight"] = self.base_weight

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load a file of the base too: then the layer is exactly the base. A merged layer is merged anew."""
        merged = self.merged
        self.unmerge()
        is_base = f"{prefix}weight" in state_dict and not any(f"{prefix}{entry}" in state_dict for entry in ENTRIES)
        if is_base:
            own = self.adapter()._asdict().items()
            state_dict.update({f"{prefix}{entry}": tensor for entry, tensor in own if tensor is not None})
        super()._load_from_state_dict(state_dict, prefix, *args)
        if is_base:
            self.reset()
        if merged:
            self.merge()

    def extra_repr(self) -> str:
        """What ``print`` shows between the brackets."""
        own = f"rank={self.rank}, dropout={self.dropout}, dora={self.dora}, merged={self.merged}"
        return f"{super().extra_repr()}, {own}"


class ConvLoRA(LoRALayer, nn.Conv2d):
    """A convolution that learns by a low-rank update of its weight: see `LoRALayer`."""

    @staticmethod
    def _geometry(layer: Any) -> dict[str, Any]:
        return conv_geometry(layer)

    def _plain(self) -> nn.Conv2d:
        return nn.Conv2d(**self._geometry(self))

    def _apply_weight(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002
        return self._conv_forward(input, weight, bias)


class LinearLoRA(LoRALayer, nn.Linear):
    """A linear layer that learns by a low-rank update of its weight: see `LoRALayer`."""

    @staticmethod
    def _geometry(layer: Any) -> dict[str, Any]:
        return {**{name: getattr(layer, name) for name in ("in_features", "out_features")}, **_placed(layer)}

    def _plain(self) -> nn.Linear:
        return nn.Linear(**self._geometry(self))

    def _apply_weight(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002
        return F.linear(input, weight, bias)


def conv_geometry(layer: Any) -> dict[str, Any]:
    """Constructor arguments of a convolution like this one, without memory for its weight."""
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    return {**{name: getattr(layer, name) for name in names}, **_placed(layer)}


def with_lora(layer: nn.Module, *settings: Any) -> LoRALayer:
    """A convolution or linear layer with LoRA; ``settings`` as `LoRALayer` takes them."""
    return (ConvLoRA if isinstance(layer, nn.Conv2d) else LinearLoRA)(layer, *settings)


def is_plain(layer: Any) -> bool:
    """Whether a layer computes with a weight and a bias of its own as ``nn.Conv2d`` or ``nn.Linear`` does."""
    kind = type(layer)
    return (
        kind.forward in (nn.Conv2d.forward, nn.Linear.forward)
        and getattr(kind, "_conv_forward", nn.Conv2d._conv_forward) is nn.Conv2d._conv_forward
        and {name for name, _ in layer.named_parameters()} <= {"weight", "bias"}
        and not is_lazy(layer.weight)
    )


def check_layer(plain: Any, rank: object, alpha: object, dropout: object, layer: str = "this layer") -> None:
    """Raise LoRAError unless ``plain``, called ``layer``, can carry LoRA of this rank, alpha and dropout."""
    if not is_plain(plain):
        got = f"{type(plain).__name__}, which forms its weight in a way of its own"
        remedy = "Leave it out of the patterns, or make it a plain layer first."
        raise LoRAError(f"{layer} to be a plain nn.Conv2d or nn.Linear", got, remedy)
    limit = rank_limit(plain.weight.shape)
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= limit:
        allowed = f"an integer from 1 to {limit} (what its weight {tuple(plain.weight.shape)} allows)"
        remedy = "Give a smaller positive integer, or leave the layer out."
        raise LoRAError(f"the LoRA rank of {layer} to be {allowed}", repr(rank), remedy)
    if not is_number(alpha) or alpha <= 0:  # type: ignore[operator]
        raise LoRAError(f"the LoRA alpha of {layer} to be a positive number", repr(alpha), "Twice the rank is usual.")
    if not is_number(dropout) or not 0 <= dropout < 1:  # type: ignore[operator]
        raise LoRAError(f"the LoRA dropout of {layer} to be a number in [0, 1)", repr(dropout), "Take 0 for none.")


def _placed(layer: Any) -> dict[str, Any]:
    return {"bias": layer.bias is not None, "device": "meta", "dtype": layer.weight.dtype}

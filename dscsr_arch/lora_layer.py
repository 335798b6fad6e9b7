"""ConvLoRA, the layer: a frozen convolution that learns by a low-rank update of its weight.

LoRA: arXiv 2106.09685, https://github.com/microsoft/LoRA; as used by DSCLoRA, arXiv 2504.11271. Formula: `low_rank`.

Different from the original:

- A layer is an ``nn.Conv2d`` whose parameters keep their names, so a file of the base network loads as it is.
- The effective weight is formed once per forward and one convolution meets the image, also while training.
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
from dscsr_arch.low_rank import ENTRIES, Adapter, factor_shapes, is_number, rank_limit, rank_unit
from dscsr_arch.no_autocast import no_autocast


class ConvLoRA(nn.Conv2d):
    """A convolution with frozen weight and bias that learns by a low-rank update of its weight.

    Formula: the convolution's, with ``weight + (alpha/rank) · (lora_B @ lora_A)`` in the weight's shape.
    ``lora_A`` starts Kaiming-uniform (a = √5), ``lora_B`` zero: a new layer is exactly its base.

    Shapes: those of the convolution; those of the factors are in `low_rank`.

    Args:
        conv: Whose parameters, which become frozen, geometry, dtype, device and mode the layer takes over.
        rank: Of the update, at most what the weight allows.
        alpha: The update is multiplied by alpha/rank.
        dropout: Probability in [0, 1) with which, in training, a value of the update's input is dropped. It costs a
            second convolution.

    Raises:
        LoRAError: See `check_layer`.
    """

    lora_alpha: Tensor
    base_weight: Tensor | None

    def __init__(self, conv: nn.Conv2d, rank: int, alpha: float, dropout: float = 0.0) -> None:
        check_layer(conv, rank, alpha, dropout)
        super().__init__(**_geometry(conv))
        self.weight, self.bias = conv.weight, conv.bias
        self.requires_grad_(False)
        self.dropout = dropout
        shape_a, shape_b = factor_shapes(self.weight.shape, rank)
        self.lora_A = nn.Parameter(self.weight.new_empty(shape_a))
        self.lora_B = nn.Parameter(self.weight.new_zeros(shape_b))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        precise = torch.promote_types(self.weight.dtype, torch.float32)
        self.register_buffer("lora_alpha", torch.tensor(float(alpha), device=self.weight.device, dtype=precise))
        self.register_buffer("base_weight", None, persistent=False)
        self.train(conv.training)

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

    def delta(self) -> Tensor:
        """The weight update, in the weight's shape, in float32 at least, merged or not; differentiable."""
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        with no_autocast(self.weight.device):
            # A new tensor, not the buffer, goes into the graph: DistributedDataParallel writes buffers at each forward.
            scaling = self.lora_alpha.to(dtype) / self.rank
            return (self.lora_B.to(dtype) @ self.lora_A.to(dtype)).view(self.weight.shape) * scaling

    def effective_weight(self) -> Tensor:
        """What the image is convolved with: base and update added up, in the weight's dtype; differentiable."""
        if self.merged:
            return self.weight
        delta = self.delta()
        return (self.weight.to(delta.dtype) + delta).to(self.weight.dtype)

    def adapter(self) -> Adapter:
        """The three LoRA entries, as a state dict has them."""
        return Adapter(self.lora_A.detach(), self.lora_B.detach(), self.lora_alpha)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Conv2d's name
        """Convolve ``input`` (B, in_channels, H, W)."""
        if self.merged or not self.training or not self.dropout:
            return self._conv_forward(input, self.effective_weight(), self.bias)
        base = self._conv_forward(input, self.weight, self.bias)
        return base + self._conv_forward(F.dropout(input, self.dropout), self.delta().to(self.weight.dtype), None)

    @torch.no_grad()
    def merge(self) -> ConvLoRA:
        """Write base plus update into ``weight``; undone by ``unmerge``. On a merged layer, does nothing."""
        if not self.merged:
            merged = self.effective_weight()
            self.base_weight = self.weight.detach()
            self.weight = nn.Parameter(merged, requires_grad=False)
        return self

    @torch.no_grad()
    def unmerge(self) -> ConvLoRA:
        """Put the base weight back, bit by bit as it was. On a layer that is not merged, does nothing."""
        if self.base_weight is not None:
            self.weight = nn.Parameter(self.base_weight, requires_grad=False)
            self.base_weight = None
        return self

    @torch.no_grad()
    def fuse(self) -> nn.Conv2d:
        """The plain convolution that this layer amounts to, frozen; the layer itself stays as it is."""
        conv = nn.Conv2d(**_geometry(self))
        conv.weight = nn.Parameter(self.effective_weight().clone(), requires_grad=False)
        conv.bias = self.bias
        return conv.train(self.training)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.base_weight is not None:
            destination[f"{prefix}weight"] = self.base_weight

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load a file of the base too: then the layer is exactly the base. A merged layer is merged anew."""
        merged = self.merged
        self.unmerge()
        if f"{prefix}weight" in state_dict and not any(f"{prefix}{entry}" in state_dict for entry in ENTRIES):
            own = self.adapter()._replace(lora_B=torch.zeros_like(self.lora_B))
            state_dict.update({f"{prefix}{entry}": tensor for entry, tensor in own._asdict().items()})
        super()._load_from_state_dict(state_dict, prefix, *args)
        if merged:
            self.merge()

    def extra_repr(self) -> str:
        """What ``print`` shows between the brackets."""
        return f"{super().extra_repr()}, rank={self.rank}, dropout={self.dropout}, merged={self.merged}"


def check_layer(conv: nn.Conv2d, rank: object, alpha: object, dropout: object, layer: str = "this convolution") -> None:
    """Raise LoRAError unless a convolution, called ``layer``, can become ConvLoRA of this rank, alpha and dropout."""
    kind = type(conv)
    if (
        kind.forward is not nn.Conv2d.forward
        or kind._conv_forward is not nn.Conv2d._conv_forward
        or not {name for name, _ in conv.named_parameters()} <= {"weight", "bias"}
        or is_lazy(conv.weight)
    ):
        got = f"{kind.__name__}, which forms its weight in a way of its own"
        remedy = "Leave it out of the patterns, or make it a plain convolution first."
        raise LoRAError(f"{layer} to be a plain nn.Conv2d", got, remedy)
    limit = rank_limit(conv.weight.shape)
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= limit:
        allowed = f"an integer from 1 to {limit} (what its weight {tuple(conv.weight.shape)} allows)"
        remedy = "Give a smaller positive integer, or leave the layer out."
        raise LoRAError(f"the LoRA rank of {layer} to be {allowed}", repr(rank), remedy)
    if not is_number(alpha) or alpha <= 0:  # type: ignore[operator]
        raise LoRAError(f"the LoRA alpha of {layer} to be a positive number", repr(alpha), "Twice the rank is usual.")
    if not is_number(dropout) or not 0 <= dropout < 1:  # type: ignore[operator]
        raise LoRAError(f"the LoRA dropout of {layer} to be a number in [0, 1)", repr(dropout), "Take 0 for none.")


def _geometry(conv: nn.Conv2d) -> dict[str, Any]:
    """Constructor arguments of a convolution like this one, without memory for its weight."""
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    arguments = {name: getattr(conv, name) for name in names}
    return {**arguments, "bias": conv.bias is not None, "device": "meta", "dtype": conv.weight.dtype}

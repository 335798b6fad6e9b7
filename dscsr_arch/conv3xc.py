"""Conv3XC: a 3x3 convolution that is trained as four (1x1, 3x3, 1x1 and a 1x1 shortcut) and used as one.

From SPAN, Swift Parameter-free Attention Network (arXiv 2311.12770, https://github.com/hongyuanyu/SPAN).

Different from the original:

- The original runs all four convolutions while training. They are linear, so the single kernel they add up to is
  computed from their weights inside ``forward``, differentiably, and only that one convolution meets the image:
  same output, same gradients for the same parameters, a fraction of the time. The zero padding comes before the
  biased 1x1, as in the original, so this is exact at the borders too.
- ``eval_conv``, the merged kernel, is written into every state dict (the original and spandrel expect it) but is no
  idle parameter of the network in training. After ``fuse()`` it is all that is left.
- A fused file can be loaded for training: ``unfuse_kernel`` finds branches that merge to it exactly.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dscsr_arch.errors import LoRAError
from dscsr_arch.lora_layer import ConvLoRA
from dscsr_arch.no_autocast import no_autocast
from dscsr_arch.reparameterization import Branches, Kernel, merge_branches, unfuse_kernel

_BRANCHES = tuple(f"{conv}.{kind}" for kind in ("weight", "bias") for conv in ("conv.0", "conv.1", "conv.2", "sk"))
"""Names in state dicts of what `Branches` holds, in its order."""
_MERGED = "eval_conv"


class Conv3XC(nn.Module):
    """Re-parameterisable 3x3 convolution, stride 1, zero padding 1.

    Shapes: (B, in_channels, H, W) → (B, out_channels, H, W). The branches are ``gain`` times wider inside; with
    ``bias`` every convolution of them has one.
    """

    def __init__(self, in_channels: int, out_channels: int, *, gain: int = 2, bias: bool = True) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.gain = gain
        self.bias = bias
        inner, outer = in_channels * gain, out_channels * gain
        self.sk: nn.Conv2d | None = nn.Conv2d(in_channels, out_channels, 1, bias=bias)
        self.conv: nn.Sequential | None = nn.Sequential(
            nn.Conv2d(in_channels, inner, 1, bias=bias),
            nn.Conv2d(inner, outer, 3, bias=bias),
            nn.Conv2d(outer, out_channels, 1, bias=bias),
        )
        self.eval_conv: nn.Conv2d | None = None

    @property
    def fused(self) -> bool:
        """Whether only the plain 3x3 convolution is left."""
        return self.eval_conv is not None

    def kernel(self) -> Kernel:
        """The plain 3x3 kernel this layer amounts to; differentiable."""
        return merge_layers([self])[0]

    def forward(self, x: Tensor, kernel: Kernel | None = None) -> Tensor:
        """Convolve ``x`` (B, in_channels, H, W); ``kernel`` is this layer's own, if it was merged with others."""
        if self.eval_conv is not None:  # called, not read: it may carry ConvLoRA, or a hook
            return self.eval_conv(x)
        weight, bias = self.kernel() if kernel is None else kernel
        return F.conv2d(x, weight, bias, padding=1)

    @torch.no_grad()
    def fuse(self) -> Conv3XC:
        """Leave only the plain 3x3 convolution, in place. The branches are lost; a second call does nothing."""
        if self.eval_conv is None:
            kernel, trained = self.kernel(), any(parameter.requires_grad for parameter in self.parameters())
            conv = nn.Conv2d(self.in_channels, self.out_channels, 3, padding=1, bias=self.bias, device="meta")
            conv.load_state_dict(_entries(kernel, ""), assign=True)
            self.sk, self.conv, self.eval_conv = None, None, conv.requires_grad_(trained).train(self.training)
        return self

    @torch.no_grad()
    def unfuse(self) -> Conv3XC:
        """Give a fused layer new random branches that merge to its kernel exactly. Otherwise does nothing."""
        if self.eval_conv is not None:
            if isinstance(self.eval_conv, ConvLoRA):
                raise LoRAError("Expected a layer without ConvLoRA to unfuse. Call fuse() of its network first.")
            with torch.device("meta"):
                new = Conv3XC(self.in_channels, self.out_channels, gain=self.gain, bias=self.bias)
            new.load_state_dict(_entries(self.kernel(), f"{_MERGED}."), assign=True)
            new.requires_grad_(self.eval_conv.weight.requires_grad).train(self.training)
            self.sk, self.conv, self.eval_conv = new.sk, new.conv, None
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not self.fused:
            with torch.no_grad():
                destination.update(_entries(self.kernel(), f"{prefix}{_MERGED}."))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Accept either form: branches into a fused layer, a fused kernel into branches.

        Where a file holds both, the branches are the truth: the original code updates ``eval_conv`` only when it
        evaluates, so that its training checkpoints may carry an old one.
        """
        names = [name for name in state_dict if name.startswith(prefix)]
        given = {name.removeprefix(prefix): state_dict.pop(name) for name in names}
        try:
            wanted = _merged(given) if self.fused else self._expanded(given)
        except (RuntimeError, ValueError) as error:
            args[-1].append(f"{prefix}*: {error}")  # the list of faults that load_state_dict raises together
            wanted = given
        state_dict.update({prefix + name: tensor for name, tensor in wanted.items()})
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _expanded(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Entries for a layer with branches: those given, or new ones that merge to the given kernel."""
        weight, bias = given.get(f"{_MERGED}.weight"), given.get(f"{_MERGED}.bias")
        branches = {name: tensor for name, tensor in given.items() if not name.startswith(_MERGED)}
        if branches or weight is None:
            return branches | _stray(given)
        expected = (self.out_channels, self.in_channels, 3, 3)
        if tuple(weight.shape) != expected or (bias is not None) != self.bias:
            raise ValueError(
                f"Expected a fused kernel of shape {expected} {'with' if self.bias else 'without'} bias, "
                f"but got {tuple(weight.shape)} {'without' if bias is None else 'with'} bias."
            )
        found = unfuse_kernel(Kernel(weight, bias), self.gain)
        branches = {name: tensor[0] for name, tensor in zip(_BRANCHES, found, strict=True) if tensor is not None}
        return branches | _stray(given)


def merge_layers(layers: Sequence[Conv3XC]) -> list[Kernel]:
    """Plain kernels of many layers, in their dtypes, those of one shape merged together. Differentiable.

    A fused layer gives its own. Under autocast, too, they are formed in float32.
    """
    kernels: dict[int, Kernel] = {}
    alike: dict[Any, list[int]] = defaultdict(list)
    for index, layer in enumerate(layers):
        if layer.eval_conv is None:
            weight = layer.conv[1].weight  # type: ignore[index]
            kind = (layer.in_channels, layer.out_channels, layer.gain, layer.bias, weight.dtype, weight.device)
            alike[index if weight.is_meta else kind].append(index)
        else:
            kernels[index] = Kernel(layer.eval_conv.weight, layer.eval_conv.bias)
    for indices in alike.values():
        columns = zip(*(_branches(layers[index]) for index in indices), strict=True)
        kernels.update(zip(indices, _merge(Branches(*map(_stack, columns))), strict=True))
    return [kernels[index] for index in range(len(layers))]


def _branches(layer: Conv3XC) -> list[Tensor | None]:
    """Of a layer that is not fused: what `Branches` holds of many."""
    convs = [*layer.conv, layer.sk]  # type: ignore[misc]
    return [conv.weight for conv in convs] + [conv.bias for conv in convs]


def _stack(tensors: Sequence[Tensor | None]) -> Any:
    """Tensors side by side, or None where there are none. One alone becomes a view, which needs no numbers."""
    first = tensors[0]
    if first is None or len(tensors) == 1:
        return None if first is None else first.unsqueeze(0)
    return torch.stack([tensor for tensor in tensors if tensor is not None])


def _merge(branches: Branches) -> list[Kernel]:
    """``merge_branches``, never in less than float32."""
    dtype = branches.w2.dtype
    if branches.w2.is_meta:  # shapes alone: to compute with them, torch imports its compiler, a second at every start
        size, out, inp = branches.ws.shape[:3]
        weights, biases = branches.w2.new_empty((size, out, inp, 3, 3)), branches.b3
    else:
        with no_autocast(branches.w2.device):
            weights, biases = merge_branches(branches.to(torch.promote_types(dtype, torch.float32)))
    each_bias = [None] * len(weights) if biases is None else biases.to(dtype).unbind()
    return list(map(Kernel, weights.to(dtype).unbind(), each_bias))


def _merged(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Entries for a fused layer: ``given``, its branches (if there are any) merged."""
    if any(name not in given for name in _BRANCHES[:4]):
        return dict(given)
    (kernel,) = _merge(Branches(*(_stack([given.get(name)]) for name in _BRANCHES)))
    return _entries(kernel, f"{_MERGED}.") | _stray(given)


def _stray(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a file has of the merged convolution beside its kernel (ConvLoRA): never dropped in silence."""
    kernel = (f"{_MERGED}.weight", f"{_MERGED}.bias")
    return {name: tensor for name, tensor in given.items() if name.startswith(_MERGED) and name not in kernel}


def _entries(kernel: Kernel, prefix: str) -> dict[str, Tensor]:
    """``kernel`` as state dicts have it."""
    named = {f"{prefix}weight": kernel.weight, f"{prefix}bias": kernel.bias}
    return {name: tensor.detach() for name, tensor in named.items() if tensor is not None}

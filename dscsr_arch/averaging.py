"""One network of several: its weights are the mean of theirs.

Averaged is what layers compute with: merged kernels, not the branches of a Conv3XC or the factors of ConvLoRA. A kernel
is a product of branches, and the mean of products is not the product of means; nor need two files have the same
branches (a fused file is re-expanded into random ones), or any. So checkpoints, fused files, and adapters on their base
can stand side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from dscsr_arch.deployable import deployable
from dscsr_arch.errors import WeightsError
from dscsr_arch.metadata import describe, differences, in_words, shown
from dscsr_arch.quantized_conv import quantized_layers


@torch.no_grad()
def average_networks(networks: Mapping[str, nn.Module], shares: Sequence[float]) -> nn.Module:
    """The mean of networks, as plain convolutions: `deployable`, summed in float64 and rounded once more.

    Args:
        networks: By names for messages, such as their files; at least one. They stay as they are.
        shares: What each counts; they should add up to 1.

    Raises:
        WeightsError: They are not of one kind, width and scale, or compute with other ranges, means or scalings.
    """
    plain = [deployable(network) for network in networks.values()]
    names, result = list(networks), plain[0]
    for name, other in zip(names[1:], plain[1:], strict=True):
        _check_alike(names[0], result, name, other)
    states = [network.state_dict() for network in plain]
    for key, tensor in result.state_dict().items():
        if tensor.is_floating_point():  # a counter stays the first one's
            terms = [share * state[key].double() for share, state in zip(shares, states, strict=True)]
            tensor.copy_(torch.stack(terms).sum(0))
    return result


def _check_alike(name: str, network: nn.Module, other_name: str, other: nn.Module) -> None:
    remedy = "Average what comes of one training, or of trainings from one start."
    ours, theirs = describe(network), describe(other)
    words = f"networks of one kind: {in_words(ours)} ({name})"
    if in_words(ours) != in_words(theirs):
        raise WeightsError(words, f"{in_words(theirs)} ({other_name})", remedy)
    bits, other_bits = _bits(network), _bits(other)
    if unlike := [layer for layer in {**bits, **other_bits} if bits.get(layer) != other_bits.get(layer)]:
        its, their = (levels.get(unlike[0], "full precision") for levels in (bits, other_bits))
        got = f"`{unlike[0]}` in {its} and in {their} ({other_name})"
        raise WeightsError(words, got, "Average files of the same bits, of one method of quantization.")
    shapes, others = (
        {key: tuple(tensor.shape) for key, tensor in one.state_dict().items()} for one in (network, other)
    )
    if unlike := [key for key in {**shapes, **others} if shapes.get(key) != others.get(key)]:
        key = unlike[0]
        got = f"`{key}` of {shapes.get(key, 'no such shape')} and of {others.get(key, 'no such shape')} ({other_name})"
        raise WeightsError(words, got, remedy)
    for argument, (its, their) in differences(ours, theirs).items():
        got = f"{argument} {shown(its)} and {shown(their)} ({other_name})"
        raise WeightsError(words, got, f"{remedy} If a file is wrong of itself: --set {argument}=…")


def _bits(network: nn.Module) -> dict[str, str]:
    """The lowest and the highest level of the input of each quantized layer."""
    return {
        name: f"levels of {' to '.join(str(int(level)) for level in layer.quant_levels)}"
        for name, layer in quantized_layers(network).items()
    }

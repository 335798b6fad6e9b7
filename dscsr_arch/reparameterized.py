"""What all networks of Conv3XC layers have in common: they are fused, unfused, and read files of other names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from torch import nn

from dscsr_arch import conv_lora
from dscsr_arch.architecture import StateDict, our_names
from dscsr_arch.conv3xc import Conv3XC
from dscsr_arch.errors import LoRAError

if TYPE_CHECKING:
    from typing_extensions import Self

Network = TypeVar("Network", bound="Reparameterized")


class Reparameterized(nn.Module):
    """A network whose 3x3 convolutions are trained as `Conv3XC`."""

    size_multiple = 1  # images of any size; see `size_requirements`
    released: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Patterns in names of weights that others released, and what we have instead."""

    def layers(self) -> list[Conv3XC]:
        """The re-parameterisable layers, in the order in which they were built."""
        return [module for module in self.modules() if isinstance(module, Conv3XC)]

    def fuse(self) -> Self:
        """Leave plain convolutions only, in place. Cannot be undone; a second call does nothing."""
        for layer in self.layers():
            layer.fuse()
        return conv_lora.fuse(self)

    def unfuse(self) -> Self:
        """Give fused layers new random branches, so that training can go on; the output stays the same.

        `LoRAError` if there is ConvLoRA in the network.
        """
        if conv_lora.lora_layers(self):
            raise LoRAError("Expected a network without ConvLoRA to unfuse. Call fuse() first.")
        for layer in self.layers():
            layer.unfuse()
        return self

    @classmethod
    def our_name(cls, name: str) -> str:
        """What we call a weight that released files call ``name``."""
        for pattern, ours in cls.released:
            name = re.sub(pattern, ours, name)
        return name

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        own = [name.removeprefix(prefix) for name in state_dict if name.startswith(prefix)]
        for name, ours in our_names(own, self.our_name).items():
            state_dict[prefix + ours] = state_dict.pop(prefix + name)
        super()._load_from_state_dict(state_dict, prefix, *args)


def in_form_of(network: Network, state_dict: StateDict) -> Network:
    """``network`` fused, unless these weights have branches."""
    expanded = any(name.endswith(".sk.weight") for name in state_dict)
    return network if expanded else network.fuse()

"""Features of images in the first layers of a trained network: a measure of likeness that needs no download."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dscsr_arch.errors import DscsrError
from dscsr_arch.no_autocast import no_autocast
from dscsr_model.training.feature_hooks import FeatureHooks
from dscsr_model.training.teacher import frozen

DEFAULT_LAYERS = 3
"""So many convolutions are tapped where no layers are named: the first ones of the network."""


class TeacherFeatures:
    """Features of images at some layers of a frozen, fused copy of a network; what comes behind them never runs.

    Images may be of any size that the network takes. The copy stays as it is while the network goes on learning;
    `state` and `load_state` carry it from one process to the next.

    Args:
        network: A network that maps images; copied.
        layers: Names as in ``network.named_modules()`` of the fused network, in any order; none for its first
            `DEFAULT_LAYERS` convolutions.

    Raises:
        DscsrError: There is no such layer, or no convolution.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str] = ()) -> None:
        self._network = frozen(copy.deepcopy(network))
        self.layers = tuple(layers) or first_convolutions(self._network)
        self._taps = FeatureHooks(self._network, self.layers)
        modules = dict(self._network.named_modules())
        self._unseen: set[str] = set()
        self._running: set[str] = set()
        for name, module in modules.items():
            module.register_forward_pre_hook(lambda _module, _inputs, name=name: self._running.add(name))
        for name in self.layers:  # behind the hooks of the taps
            modules[name].register_forward_hook(lambda _module, _inputs, _output, name=name: self._see(name))

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Features of ``images`` (B, C, H, W), one map per layer, in float32 (or the network's own dtype).

        Gradients go through to the images. Autocast does not count.

        Raises:
            DscsrError: A layer did not run.
        """
        dtype = next(self._network.parameters()).dtype
        with no_autocast(images.device):
            _, features = self._taps.watch(self._until_all_are_seen, images.to(dtype))
        return [features[layer] for layer in self.layers]

    def state(self) -> dict[str, Tensor]:
        """The tensors that its features depend on, on the CPU."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self._tensors().items()}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave.

        Raises:
            DscsrError: It belongs to another network or other layers.
        """
        ours = {**dict(self._network.named_parameters()), **dict(self._network.named_buffers())}
        shapes = {name: tensor.shape for name, tensor in ours.items()}
        if odd := [name for name, tensor in state.items() if shapes.get(name) != tensor.shape]:
            raise DscsrError(
                f"Expected the first layers that this run began with, but got others, such as {odd[0]!r}. Give "
                "`network_g` the values of the run to resume."
            )
        for name, tensor in state.items():
            ours[name].copy_(tensor)

    def _tensors(self) -> dict[str, Tensor]:
        """Of the modules that have run; of all of them before the first run."""
        modules = dict(self._network.named_modules())
        return {
            f"{module}.{name}".removeprefix("."): tensor
            for module in modules
            if not self._running or module in self._running
            for group in (modules[module].named_parameters, modules[module].named_buffers)
            for name, tensor in group(recurse=False)
        }

    def _until_all_are_seen(self, images: Tensor) -> Any:
        self._unseen = set(self.layers)
        try:
            return self._network(images)
        except _Enough:
            return None

    def _see(self, layer: str) -> None:
        self._unseen.discard(layer)
        if not self._unseen:
            raise _Enough


class _Enough(Exception):  # noqa: N818 - no error: it ends a forward whose rest nobody needs
    pass


def first_convolutions(network: nn.Module) -> tuple[str, ...]:
    """Names of the first `DEFAULT_LAYERS` convolutions of ``network``.

    Raises:
        DscsrError: It has none.
    """
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    if not names:
        raise DscsrError(
            f"Expected convolutions in {type(network).__name__}, but got none. Name its layers as `feature_layers`."
        )
    return tuple(names[:DEFAULT_LAYERS])

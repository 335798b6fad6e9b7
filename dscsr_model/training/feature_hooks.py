"""Feature maps from inside a network, by the names of its layers: hooks that come off again."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from dscsr_arch.errors import DscsrError

Features = dict[str, Tensor]
"""Layer name to what the layer put out."""


class FeatureHooks:
    """Taps on layers of a network: what they put out during one forward, taken from that very forward.

    They only listen inside `watch`; every other forward, such as validation's, keeps nothing. Put them on the bare
    network: what wraps it (DistributedDataParallel, torch.compile) may come before or after, but the first compiled
    forward has to come after.

    A layer that returns a tuple or a list (SPAB) gives its first element; one that runs several times gives its last
    output. What a later layer writes in place (``ReLU(inplace=True)``) is in the feature map.

    Args:
        network: The network, without anything around it.
        layers: Names as in ``network.named_modules()``; each one once.

    Raises:
        DscsrError: There is no layer of that name.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str]) -> None:
        modules = dict(network.named_modules())
        for layer in layers:
            check_layer(layer, modules, type(network).__name__)
        self.layers = tuple(dict.fromkeys(layers))
        self._features: Features | None = None
        self._handles = [modules[layer].register_forward_hook(partial(self._keep, layer)) for layer in self.layers]

    def watch(self, forward: Callable[[Tensor], Any], x: Tensor) -> tuple[Any, Features]:
        """Run ``forward(x)``, which runs the network once; give its result and the features on the way, by layer.

        Args:
            forward: The network, or what wraps it.
            x: Its input.

        Raises:
            DscsrError: A layer did not run, or put out no tensor.
        """
        self._features = {}
        try:
            output = forward(x)
            features = self._features
        finally:
            self._features = None
        for layer in self.layers:
            if layer not in features:
                raise DscsrError(
                    f"Expected the layer {layer!r} to run in every forward, but it did not. Tap a layer that is "
                    "called itself, such as the block that it belongs to."
                )
        return output, features

    def remove(self) -> None:
        """Take the hooks off. A second call does nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __enter__(self) -> FeatureHooks:
        """Taps for the time of a ``with`` block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove them."""
        self.remove()

    def _keep(self, layer: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if self._features is None:
            return
        if isinstance(output, tuple | list) and output:
            output = output[0]
        if not isinstance(output, Tensor):
            raise DscsrError(
                f"Expected the layer {layer!r} to put out a tensor (or a tuple that begins with one), but got "
                f"{type(output).__name__}. Tap another layer."
            )
        self._features[layer] = output


def check_layer(layer: str, layers: Sequence[str] | dict[str, Any], network: str) -> None:
    """Raise DscsrError unless ``layer`` is one of ``layers``, the names of a network's modules ("" is itself)."""
    names = [name for name in layers if name]
    if layer in names:
        return
    close = difflib.get_close_matches(str(layer), names, n=3) or [name for name in names if "." not in name][:12]
    raise DscsrError(
        f"Expected a layer of {network}, but got {layer!r}. "
        f"{'Perhaps one of these' if names else 'It has no layers'}: {', '.join(close)}."
    )

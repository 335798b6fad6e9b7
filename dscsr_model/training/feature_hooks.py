"""Feature maps from inside a network, by the names of its layers."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from dscsr_arch.errors import DscsrError

Features = dict[str, Tensor]
"""Layer name to what the layer put out."""


class FeatureHooks:
    """Hooks on layers of a network: what they put out during one forward, taken from that very forward.

    They only listen inside `watch`; every other forward, such as validation's, keeps nothing. Put them on the network
    itself: what wraps it (DistributedDataParallel, torch.compile) may come before or after, but the first compiled
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
        for layer in self.layers:
            modules[layer].register_forward_hook(partial(self._keep, layer))

    def watch(self, forward: Callable[[Tensor], Any], x: Tensor, *, whole: bool = True) -> tuple[Any, Features]:
        """Run ``forward(x)``, which runs the network once; give its result and the features on the way, by layer.

        If it is not needed ``whole``, the result is None, and what comes behind the last layer never runs.

        Raises:
            DscsrError: A layer did not run, or put out no tensor.
        """
        self._features, self._whole = {}, whole
        output, features = None, self._features
        try:
            output = forward(x)
        except _Enough:
            pass
        finally:
            self._features = None
        for layer in self.layers:
            if layer not in features:
                remedy = "Name a layer that is called itself, such as the block that it belongs to."
                raise DscsrError(f"the layer {layer!r} to run in every forward", "a forward without it", remedy)
        return output, features

    def _keep(self, layer: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if self._features is None:
            return
        if isinstance(output, (tuple, list)) and output:  # in parentheses: torch 2.6 compiles no union
            output = output[0]
        if not isinstance(output, Tensor):
            expected = f"the layer {layer!r} to put out a tensor (or a tuple that begins with one)"
            raise DscsrError(expected, type(output).__name__, "Name another layer.")
        self._features[layer] = output
        if not self._whole and len(self._features) == len(self.layers):
            raise _Enough


class _Enough(Exception):  # noqa: N818 - no error: it ends a forward whose rest nobody needs
    pass


def check_layer(layer: str, layers: Iterable[str], network: str) -> None:
    """Raise DscsrError unless ``layer`` is one of ``layers``, the names of a network's modules ("" is itself)."""
    names = [name for name in layers if name]
    if layer in names:
        return
    close = difflib.get_close_matches(str(layer), names, n=3) or [name for name in names if "." not in name][:12]
    remedy = f"Perhaps one of these: {', '.join(close)}." if names else "It has no layers."
    raise DscsrError(f"a layer of {network}", repr(layer), remedy)

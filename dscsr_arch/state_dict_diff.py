"""Why weights do not load into a network."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence

from torch import Tensor, nn


def state_dict_diff(network: nn.Module, state_dict: Mapping[str, Tensor]) -> str | None:
    """What keeps ``state_dict`` from loading strictly into ``network``, in lines; None if nothing does."""
    expected = network.state_dict()
    shapes = [
        f"{name}: expected {tuple(expected[name].shape)}, but the file has {tuple(tensor.shape)}"
        for name, tensor in state_dict.items()
        if name in expected and expected[name].shape != tensor.shape
    ]
    if shapes:
        return _listed("differently shaped", shapes)
    # Only names and shapes matter: on the meta device nothing is copied and no fused kernel is re-expanded.
    given = {name: tensor.to("meta") for name, tensor in state_dict.items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they come when the weights are loaded; torch's, that meta copies nothing
            missing, unexpected = copy.deepcopy(network).to("meta").load_state_dict(given, strict=False)
    except RuntimeError as error:
        return str(error)
    lines = [_listed("missing in the file", missing), _listed("unexpected in the file", unexpected)]
    return "\n".join(line for line in lines if line) or None


def _listed(what: str, names: Sequence[str], most: int = 8) -> str:
    rest = f" (+{len(names) - most} more)" if len(names) > most else ""
    return f"  {what}: {'; '.join(names[:most])}{rest}" if names else ""

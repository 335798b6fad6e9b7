"""Which single-file network does what a trained one does, with which arguments and weights."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from dscsr_arch.deployable import deployable
from dscsr_arch.errors import DscsrError
from dscsr_arch.metadata import describe
from dscsr_model.export.ntire import networks
from dscsr_model.export.ntire.folding import BORDER, fold_span

FOLDS = ("exact", "all")
"""``exact``: what changes nothing; ``all``: also what changes the border of the image. See `folding`."""

_FILES = {"SPAN": "span", "CARN": "carn", "EDSR": "edsr"}


class Standalone(NamedTuple):
    """A network as a file of `networks` with its arguments and weights."""

    module: str
    """Name of the file in `networks`."""
    class_name: str
    arguments: dict[str, Any]
    state: dict[str, Tensor]
    border: int = 0
    """Pixels of the input, from each side, in which the output may differ from the trained network's."""

    @property
    def source(self) -> str:
        """The text of the file."""
        return Path(networks.__path__[0], f"{self.module}.py").read_text(encoding="utf-8")

    def build(self) -> nn.Module:
        """The network, on the CPU, in eval mode, in the type of its weights."""
        network_class = getattr(importlib.import_module(f"{networks.__name__}.{self.module}"), self.class_name)
        network: nn.Module = network_class(**self.arguments).to(next(iter(self.state.values())).dtype)
        network.load_state_dict(self.state, strict=True)
        return network.eval()


def standalone(network: nn.Module, fold: str | None = None) -> Standalone:
    """Find the single-file form of a network, which stays as it is.

    Args:
        network: SPAN, DSCLoRA, CARN or BasicSR's EDSR, in any state of training.
        fold: Of SPAN, which layers to fold into each other: one of `FOLDS`, or None.

    Returns:
        Its form with float32 weights.

    Raises:
        DscsrError: There is no single file for this network, or nothing to fold in it.
    """
    fused = deployable(network)
    name, arguments = describe(fused)
    if name not in _FILES:
        raise DscsrError(
            f"Expected a network that has a single-file form ({', '.join(_FILES)}), but got {name}. "
            "Write its file by hand, after a kit of one of these."
        )
    if fold is not None and (name != "SPAN" or fold not in FOLDS):
        raise DscsrError(
            f"Expected a SPAN and a fold of {', '.join(FOLDS)}, but got {name} and {fold!r}. Leave --fold out."
        )
    state = {key: tensor.detach().clone().contiguous() for key, tensor in fused.state_dict().items()}
    arguments = {**arguments, "rgb_mean": tuple(arguments["rgb_mean"])}
    if name != "SPAN":
        return Standalone(_FILES[name], name, arguments, state)
    state = {key.replace(".eval_conv.", "."): tensor for key, tensor in state.items() if key != "no_norm"}
    return Standalone("span", name, arguments, state) if fold is None else _folded(arguments, state, fold == "all")


def _folded(arguments: dict[str, Any], state: dict[str, Tensor], fold_conv_1: bool) -> Standalone:
    folded = fold_span(state, fold_conv_1=fold_conv_1)
    border = BORDER if fold_conv_1 else 0
    return Standalone("span_folded", "SPAN", {**arguments, "fold_conv_1": fold_conv_1}, folded, border)

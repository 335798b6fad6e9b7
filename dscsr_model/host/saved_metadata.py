"""What shapes cannot tell, in files of networks of ours under models of others: BasicSR's SRModel, a project's.

Models of ours write and read it themselves. BasicSR's ``save_network`` runs as it is; only the ``torch.save`` that it
looks up adds an entry, and only for networks of `dscsr_arch`. BasicSR and others read ``params`` and ``params_ema`` as
before. ``load_network`` first refuses a file that says that it was trained as another network.
"""

import functools
import inspect
from contextlib import suppress
from typing import Any

from dscsr_model.host.patches import Overlay, installed, replaced


def install() -> None:
    """Let ``BaseModel`` of the imported ``basicsr`` do so. A repeat does nothing."""
    import torch
    from basicsr.models.base_model import BaseModel

    from dscsr_arch.arguments import trained_otherwise
    from dscsr_arch.errors import WeightsError
    from dscsr_arch.metadata import beside, describe
    from dscsr_arch.weight_files import read_weight_file

    original, loading = BaseModel.save_network, BaseModel.load_network
    saving = inspect.unwrap(original)
    if hasattr(original, "dscsr_adds_metadata") or "torch" not in getattr(saving, "__globals__", {}):
        return

    @functools.wraps(original)
    def save_network(self: Any, net: Any, *args: Any, **kwargs: Any) -> None:
        network = self.get_bare_model(net[0] if isinstance(net, list) else net)
        metadata = beside(network) if _is_ours(network) else {}

        def save(content: dict[str, Any], *where: Any, **options: Any) -> None:
            torch.save({**content, **metadata}, *where, **options)

        with replaced(saving.__globals__, torch=Overlay(torch, save=save) if metadata else torch):
            original(self, net, *args, **kwargs)

    @functools.wraps(loading)
    def load_network(self: Any, net: Any, load_path: str, strict: bool = True, *args: Any, **kwargs: Any) -> None:
        network, fault = self.get_bare_model(net), ""
        if strict and _is_ours(network):
            with suppress(WeightsError):  # of what cannot be read BasicSR tells
                fault = trained_otherwise(read_weight_file(load_path), load_path, describe(network))
        if fault:
            raise WeightsError(f"{load_path} does not fit {type(network).__name__}:\n{fault}")
        loading(self, net, load_path, strict, *args, **kwargs)

    save_network.dscsr_adds_metadata = True  # type: ignore[attr-defined]
    installed.set(BaseModel, "save_network", save_network)
    installed.set(BaseModel, "load_network", load_network)


def _is_ours(network: object) -> bool:
    return type(network).__module__.startswith("dscsr_arch.")

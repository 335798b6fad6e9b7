"""What shapes cannot tell, in the files of networks of ours that models of others save: BasicSR's SRModel, a project's.

Models of ours write it themselves. BasicSR's ``save_network`` runs as it is; only the ``torch.save`` that it looks up
adds an entry, and only for networks of `dscsr_arch`. BasicSR and others read ``params`` and ``params_ema`` as before.
"""

import functools
import inspect
from typing import Any

from dscsr_model.host.compat_running import Overlay, globals_of
from dscsr_model.host.patches import installed


def install() -> None:
    """Let ``BaseModel.save_network`` of the imported ``basicsr`` do so. A repeat does nothing."""
    import torch
    from basicsr.models.base_model import BaseModel

    from dscsr_arch.facts import beside

    original = BaseModel.save_network
    saving = inspect.unwrap(original)
    if hasattr(original, "dscsr_adds_facts") or "torch" not in getattr(saving, "__globals__", {}):
        return

    @functools.wraps(original)
    def save_network(self: Any, net: Any, *args: Any, **kwargs: Any) -> None:
        network = self.get_bare_model(net[0] if isinstance(net, list) else net)
        facts = beside(network) if type(network).__module__.startswith("dscsr_arch.") else {}

        def save(content: dict[str, Any], *where: Any, **options: Any) -> None:
            torch.save({**content, **facts}, *where, **options)

        if not facts:
            original(self, net, *args, **kwargs)
            return
        with globals_of(saving, torch=Overlay(torch, save=save)):
            original(self, net, *args, **kwargs)

    save_network.dscsr_adds_facts = True  # type: ignore[attr-defined]
    installed.set(BaseModel, "save_network", save_network)

"""Networks in the form in which spandrel (and so chaiNNer) knows them.

spandrel takes from shapes what they tell, and the networks' defaults for the rest. So what differs from the defaults
is worked into the weights where that is exact, and refused where it is not.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dscsr_arch import SPAN, conv_lora
from dscsr_arch.architecture import architectures
from dscsr_arch.deployable import deployable
from dscsr_arch.errors import DscsrError, UnavailableError
from dscsr_arch.metadata import Metadata, describe

MEAN = [0.4488, 0.4371, 0.4040]
"""What spandrel's SPAN, and those of `spandrel_support`, have and cannot be told otherwise."""

KNOWN = ("SPAN",)
"""Networks here that spandrel knows by itself."""

OURS = ("CARN", "EDSR")
"""Networks that `spandrel_support.register` makes known to it."""


def to_spandrel_form(network: nn.Module) -> nn.Module:
    """Copy ``network`` so that spandrel, given its state dict, builds one that does the same.

    A SPAN gets its branches: those it has, or, if it is fused or has LoRA, new ones that merge to its kernels.

    Args:
        network: SPAN, DSCLoRA, CARN, EDSR, with or without LoRA; it stays as it is.

    Returns:
        A network of the same kind with the default range, in eval mode, in float32, on the CPU.

    Raises:
        DscsrError: spandrel cannot do what this network does.
    """
    metadata = describe(deployable(network))
    _check(metadata)
    form = _expanded(network) if isinstance(network, SPAN) else deployable(network)
    spandrel = architectures()[metadata.network].spandrel
    assert spandrel is not None  # else `_check` has refused it
    spandrel.work_in(form)
    return form


def run_spandrel(path: Any, name: str) -> Callable[[Tensor], Tensor]:
    """The file at ``path`` as spandrel loads it, as a function of images.

    Args:
        path: The file.
        name: The network's. One of `OURS` is made known for this call alone.

    Raises:
        UnavailableError: spandrel cannot be imported.
        DscsrError: spandrel does not load it.
    """
    spandrel = _spandrel()
    from dscsr_model.export.spandrel_support import register

    registry = spandrel.MAIN_REGISTRY.copy()
    if name in OURS:
        register(registry)
    try:
        model = spandrel.ModelLoader(device="cpu", registry=registry).load_from_file(path).model
    except Exception as error:  # it raises anything for a file that it does not know
        raise DscsrError(f"Expected spandrel to load the file, but it says: {error}") from error
    run: Callable[[Tensor], Tensor] = model.float().eval()
    return run


def _spandrel() -> Any:
    try:
        return importlib.import_module("spandrel")
    except ImportError as error:
        if error.name == "spandrel":
            raise UnavailableError("it is not installed: pip install 'dscsr[spandrel]'") from error
        raise UnavailableError(f"its import fails: {error}") from error
    except Exception as error:  # RuntimeError, where torchvision, which it needs, does not fit torch
        reason = " ".join(str(error).split())[:200]
        raise UnavailableError(f"its import fails: {type(error).__name__}: {reason}") from error


def _check(metadata: Metadata) -> None:
    arguments = metadata.arguments
    forms = [each.name for each in architectures().values() if each.spandrel is not None]
    if metadata.network not in forms:
        raise DscsrError(
            f"Expected {', '.join(forms)} for spandrel, but got {metadata.network}, whose layers have other names "
            "there. Export it to another format."
        )
    if arguments.get("norm", True) and arguments["rgb_mean"] != MEAN:
        raise DscsrError(
            f"Expected rgb_mean {MEAN} for spandrel, which cannot be told another, but got {arguments['rgb_mean']}. "
            "Export to another format (a mean cannot be worked into the weights, because of the borders), or train "
            "with `norm: false`."
        )
    if not arguments.get("bias", True):
        raise DscsrError(
            "Expected a SPAN with biases for spandrel, which knows no other, but got bias=False. "
            "Export it to another format."
        )
    if arguments.get("final_relu"):
        raise DscsrError(
            "Expected a CARN with final_relu=False for spandrel, since shapes do not tell of it, but got true. "
            "Export it to another format."
        )


@torch.no_grad()
def _expanded(network: SPAN) -> nn.Module:
    """A SPAN with branches, its own where it has them. Drawn from a fixed seed: one source gives one file."""
    if any(name.endswith(".sk.weight") for name in network.state_dict()):
        return conv_lora.fuse(copy.deepcopy(network).cpu().float()).eval().requires_grad_(False)
    metadata = describe(fused := deployable(network))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        form = SPAN(**metadata.arguments).double()
        form.load_state_dict(fused.double().state_dict())
    return form.float().eval().requires_grad_(False)

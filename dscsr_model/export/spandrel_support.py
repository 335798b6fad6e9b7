"""Networks in the form in which spandrel (and so chaiNNer) knows them, and ours made known to it.

spandrel takes from shapes what they tell, and the networks' defaults for the rest. So what differs from the defaults
is worked into the weights where that is exact, and refused where it is not. It has neither CARN nor EDSR (checked in
0.4.2); one call makes it load their files, those that `dscsr export --format spandrel` wrote:

    from dscsr_model.export.spandrel_support import register
    register()
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dscsr_arch import SPAN, conv_lora
from dscsr_arch.architecture import Architecture, architectures
from dscsr_arch.deployable import deployable
from dscsr_arch.errors import DscsrError
from dscsr_arch.foreign import import_extra
from dscsr_arch.metadata import describe, shown
from dscsr_arch.quantized_conv import require_full_precision


def to_spandrel_form(network: nn.Module) -> nn.Module:
    """Copy ``network`` so that spandrel, given its state dict, builds one that does the same.

    A SPAN gets its branches: those it has, or, if it is fused or has LoRA, new ones that merge to its kernels.

    Args:
        network: One whose `Architecture` has a form for spandrel, with or without LoRA; it stays as it is.

    Returns:
        A network of the same kind with the default range, in eval mode, in float32, on the CPU.

    Raises:
        DscsrError: spandrel cannot do what this network does.
    """
    require_full_precision(network, "spandrel")
    name, arguments = describe(deployable(network))
    known = {each.name: each.spandrel for each in architectures().values() if each.spandrel}
    if name not in known:
        got = f"{name}, which it does not know, or by other names of layers" if name in architectures() else name
        remedy = "Export it to another format; pth keeps the names that its layers have."
        raise DscsrError(f"{', '.join(known)} for spandrel", got, remedy)
    for argument, value in known[name].required.items():
        unread = argument == "rgb_mean" and arguments.get("norm") is False
        if not unread and shown(arguments[argument]) != shown(value):
            what = f"{argument} {shown(value)} for spandrel, which cannot be told another"
            remedy = "Export it to another format"
            if argument == "rgb_mean":
                remedy += ", or train with `norm: false`: borders keep a mean out of the weights"
            raise DscsrError(what, shown(arguments[argument]), f"{remedy}.")
    form = _expanded(network) if isinstance(network, SPAN) else deployable(network)
    known[name].work_in(form)
    return form


def run_spandrel(path: Any) -> Callable[[Tensor], Tensor]:
    """The file at ``path`` as spandrel loads it, as a function of images. Our networks are known for this call alone.

    Raises:
        UnavailableError: spandrel cannot be imported.
        DscsrError: spandrel does not load it.
    """
    spandrel = import_extra("spandrel")
    registry = spandrel.MAIN_REGISTRY.copy()
    register(registry)
    try:
        model = spandrel.ModelLoader(device="cpu", registry=registry).load_from_file(path).model
    except Exception as error:  # it raises anything for a file that it does not know
        raise DscsrError("spandrel to load the file", f"this from it: {error}") from error
    run: Callable[[Tensor], Tensor] = model.float().eval()
    return run


def register(registry: Any = None) -> None:
    """Make those of our networks that spandrel lacks known to its ``registry``, by default the main one.

    Those that it has already, by whomever, stay: a repeat does nothing.
    """
    spandrel = import_extra("spandrel")
    registry = spandrel.MAIN_REGISTRY if registry is None else registry
    for ours in architectures().values():
        if ours.spandrel and not ours.spandrel.known and ours.name not in registry:
            registry.add(spandrel.ArchSupport.from_architecture(_support(spandrel, ours)))


def _support(spandrel: Any, ours: Architecture) -> Any:
    """An architecture of spandrel's: ``ours`` with its default range and mean, and no scale on its residuals."""

    class Support(spandrel.Architecture):
        """How spandrel loads it."""

        def load(self, state_dict: dict[str, Any]) -> Any:
            told = ours.arguments(state_dict, {})
            arguments = {name: value for name, value in told.items() if name not in ours.not_in_shapes}
            return spandrel.ImageModelDescriptor(
                ours.network(**arguments),
                state_dict,
                architecture=self,
                purpose="SR",
                tags=[f"{arguments[name]}{name}" for name in ours.width_arguments],
                supports_half=True,
                supports_bfloat16=True,
                scale=arguments["upscale"],
                input_channels=arguments["num_in_ch"],
                output_channels=arguments["num_out_ch"],
            )

    return Support(id=ours.name, detect=ours.recognise)


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

"""CARN and EDSR for spandrel, which has neither (checked in 0.4.2): one call makes it load their files.

    from dscsr_model.export.spandrel_support import register
    register()

Files that `dscsr export --format spandrel` wrote then load by ``spandrel.ModelLoader()``, like those of any other
network. Importing this module needs spandrel.
"""

from __future__ import annotations

from typing import Any

from spandrel import MAIN_REGISTRY, Architecture, ArchRegistry, ArchSupport, ImageModelDescriptor
from spandrel.util import KeyCondition

from dscsr_arch.architecture import architectures
from dscsr_arch.carn_arch import CARN
from dscsr_model.export.ntire.networks.edsr import EDSR


def register(registry: ArchRegistry = MAIN_REGISTRY) -> None:
    """Make CARN and EDSR known to ``registry``. Those that it has already, by whomever, stay: a repeat does nothing."""
    registry.add(*(ArchSupport.from_architecture(each) for each in (_CARN(), _EDSR()) if each.id not in registry))


class _CARN(Architecture):
    """CARN as in `dscsr_arch.carn_arch`, with the default range and mean."""

    def __init__(self) -> None:
        names = ("entry.weight", "exit.weight", "b1.b1.conv1.weight", "c3.conv.weight", "upsample.blocks.0.weight")
        super().__init__(id="CARN", detect=KeyCondition.has_all(*names))

    def load(self, state_dict: dict[str, Any]) -> ImageModelDescriptor:
        """Build it from the shapes of ``state_dict``."""
        arguments = architectures()["CARN"].arguments(state_dict, {})
        return _descriptor(self, CARN(**arguments), state_dict, arguments)


class _EDSR(Architecture):
    """EDSR with BasicSR's names, with the default range and mean, and no scale on its residuals."""

    def __init__(self) -> None:
        names = ("conv_first.weight", "body.0.conv1.weight", "conv_after_body.weight", "conv_last.weight")
        super().__init__(id="EDSR", detect=KeyCondition.has_all(*names, "upsample.0.weight"))

    def load(self, state_dict: dict[str, Any]) -> ImageModelDescriptor:
        """Build it from the shapes of ``state_dict``."""
        arguments = {**architectures()["EDSR"].arguments(state_dict, {}), "res_scale": 1.0}
        return _descriptor(self, EDSR(**arguments), state_dict, arguments)


def _descriptor(
    architecture: Architecture, network: Any, state_dict: dict[str, Any], arguments: dict[str, Any]
) -> ImageModelDescriptor:
    return ImageModelDescriptor(
        network,
        state_dict,
        architecture=architecture,
        purpose="SR",
        tags=[f"{arguments['num_feat']}nf"],
        supports_half=True,
        supports_bfloat16=True,
        scale=arguments["upscale"],
        input_channels=arguments["num_in_ch"],
        output_channels=arguments["num_out_ch"],
    )

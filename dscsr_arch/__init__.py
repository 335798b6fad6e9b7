"""Networks of dscsr in pure PyTorch: usable without BasicSR, without training code, from weight files alone.

Names are looked up when they are first used, so that ``dscsr_arch.errors`` costs no import of torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dscsr_arch.carn_arch import CARN
    from dscsr_arch.checkpoint import load_model
    from dscsr_arch.cssr_arch import CSSRNet
    from dscsr_arch.dsclora_arch import DSCLoRA
    from dscsr_arch.edsr_arch import EDSR
    from dscsr_arch.rcan_arch import RCAN
    from dscsr_arch.span_arch import SPAN
    from dscsr_arch.spanf_arch import SPANF
    from dscsr_arch.spanv2_arch import SPANV2

_HOMES = {
    "CARN": "carn_arch",
    "CSSRNet": "cssr_arch",
    "DSCLoRA": "dsclora_arch",
    "EDSR": "edsr_arch",
    "RCAN": "rcan_arch",
    "SPAN": "span_arch",
    "SPANF": "spanf_arch",
    "SPANV2": "spanv2_arch",
    "load_model": "checkpoint",
}

__all__ = ["CARN", "EDSR", "RCAN", "SPAN", "SPANF", "SPANV2", "CSSRNet", "DSCLoRA", "load_model"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "errors"]

"""Losses as an option file has them, sections ``<name>_opt`` of ``train:``, and their terms as the log has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dscsr_arch.errors import DscsrError

BASICSR_NAMES = {"pixel": ("pix", "pix_style"), "perceptual": ("percep", "style")}
"""What SRModel calls its losses, and the style of a PerceptualLoss."""


def loss_sections(train: Mapping[Any, Any]) -> dict[str, Any]:
    """The sections of losses that are asked for, by names without ``_opt`` (the optimizer's is called ``optim_g``)."""
    return {str(key).removesuffix("_opt"): value for key, value in train.items() if str(key).endswith("_opt") and value}


def named(name: str, loss: Any, suffix: str = "") -> dict[str, Tensor]:
    """Terms of a loss as they are logged.

    Args:
        name: Of the loss.
        loss: A scalar, logged as ``l_<name>``; or BasicSR's PerceptualLoss's pair (perceptual, style), of which each
            may be None, logged as ``l_<name>`` and ``l_<name>_style``. SRModel's losses are called as SRModel does:
            ``l_pix``, ``l_percep``, ``l_style``.
        suffix: Ends the names.

    Raises:
        DscsrError: It is neither.
    """
    names = BASICSR_NAMES.get(name, (name, f"{name}_style"))
    given = loss if isinstance(loss, tuple) else (loss,)
    terms = [term for term in given if term is not None]
    if len(given) > 2 or not terms or not all(isinstance(term, Tensor) and term.dim() == 0 for term in terms):
        got = ", ".join(str(tuple(term.shape) if isinstance(term, Tensor) else term) for term in terms)
        raise DscsrError(
            f"`{name}_opt` to give a number, or a pair (perceptual, style)",
            f"something else ({got})" if terms else "neither",
            "Set its `reduction` to mean or sum, and a weight.",
        )
    return {f"l_{key}{suffix}": term for key, term in zip(names, given, strict=False) if term is not None}

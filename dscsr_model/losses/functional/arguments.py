"""What losses take, checked."""

from __future__ import annotations

from torch import Tensor

REDUCTIONS = ("mean", "sum")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise a ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"Expected `{name}` to be one of {choices}, but got {value!r}.")


def check_images(output: Tensor, target: Tensor) -> None:
    """Raise a ValueError unless both are images (B, C, H, W) of one shape."""
    if output.ndim != 4 or output.shape != target.shape:
        got = f"{tuple(output.shape)} and {tuple(target.shape)}"
        raise ValueError(f"Expected two images (B, C, H, W) of one shape, but got {got}. Compare what has one shape.")

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


def check_features(student: Tensor, teacher: Tensor) -> None:
    """Raise a ValueError unless both are features (B, C, H, W) that agree in all but C."""
    shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
    if student.ndim != 4 or teacher.ndim != 4 or 0 in student.shape or 0 in teacher.shape:
        raise ValueError(f"Expected features (B, C, H, W) that are not empty, but got {shapes}. Take other layers.")
    if student.shape[0] != teacher.shape[0] or student.shape[2:] != teacher.shape[2:]:
        raise ValueError(
            "Expected features of student and teacher to agree in batch, height and width, "
            f"but got {shapes}. Compare layers of one resolution."
        )

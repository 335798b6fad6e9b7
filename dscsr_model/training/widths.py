"""Names of what belongs to one width of a network: its metrics, result images and weight files."""

from __future__ import annotations

from collections.abc import Sequence

TEACHER = 1.0


def label(width: float) -> str:
    """``w0.25``."""
    return f"w{float(width)}"


def validated_widths(given: Sequence[float] | None, students: Sequence[float], teacher: bool) -> tuple[float, ...]:
    """The widths to validate, in ascending order.

    Args:
        given: ``val: widths``; None for every student and, if it takes part, the teacher.
        students: Those that the network has beside `TEACHER`.
        teacher: Whether the teacher takes part.
    """
    if given is None:
        given = [*students, *([TEACHER] if teacher else [])]
    return tuple(sorted({float(width) for width in given}))

"""Names of what belongs to one width of a network: its metrics, its result images, its weight files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dscsr_arch.errors import DscsrError

TEACHER = 1.0
FILE_KIND = "student"
"""Files ``student_w<width>_<iteration>.pth`` beside ``net_g_<iteration>.pth``."""


def label(width: float) -> str:
    """``w0.25``."""
    return f"w{float(width)}"


def metric_sections(metrics: Mapping[str, Mapping[str, Any]], widths: Iterable[float]) -> dict[str, Mapping[str, Any]]:
    """The sections of ``val: metrics`` once per width: ``psnr`` becomes ``psnr_w0.25``, ``psnr_w1.0`` and so on."""
    widths = list(widths)
    return {f"{name}_{label(width)}": section for name, section in metrics.items() for width in widths}


def best_metric(name: str | None, metrics: Mapping[str, Any], widths: Sequence[float]) -> str | None:
    """The metric with its width that decides which network is best: as named, or of the smallest width.

    Args:
        name: ``val: best_metric``: a name of ``metrics`` with or without a width; None for the first of them.
        metrics: The sections of ``val: metrics``.
        widths: Those that are validated, at least one.

    Returns:
        None if there are no metrics.

    Raises:
        DscsrError: There is no such metric.
    """
    if not metrics:
        return None
    known = metric_sections(metrics, widths)
    name = name or next(iter(metrics))
    wanted = f"{name}_{label(min(widths))}" if name in metrics else name
    if wanted not in known:
        raise DscsrError(
            f"Expected `val: best_metric` to be one of {', '.join([*metrics, *known])}, but got {name!r}. Take one."
        )
    return wanted


def validated_widths(given: object, students: Sequence[float], teacher: bool) -> tuple[float, ...]:
    """The widths to validate, in ascending order.

    Args:
        given: ``val: widths``: a list of them; None for every student and, if it takes part, the teacher.
        students: Those that the network has beside `TEACHER`.
        teacher: Whether the teacher takes part.

    Raises:
        DscsrError: The network has no such width.
    """
    if given is None:
        return tuple(sorted([*students, *([TEACHER] if teacher else [])]))
    known = (TEACHER, *students)
    if not isinstance(given, list | tuple) or not given or not all(width in known for width in given):
        raise DscsrError(
            f"Expected `val: widths` to be a list of widths among {', '.join(map(str, sorted(known)))}, but got "
            f"{given!r}. Take these, or add to `network_g: widths`."
        )
    return tuple(sorted({float(width) for width in given}))

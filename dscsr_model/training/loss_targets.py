"""What a loss of a student is about: its output or its layers, and what these are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from dscsr_arch.errors import DscsrError

TARGETS = ("gt", "teacher")
KEYS = ("target", "layers", "teacher_layers")
"""Keys of a loss section that are not the loss's own arguments."""


class LossTarget(NamedTuple):
    """What a loss compares.

    Attributes:
        target: Without layers: the student's output with the ground truth (``gt``) or the teacher's output.
        layers: Layers of the student, each compared with the teacher's of the same place; the losses are summed.
        teacher_layers: As many layers of the teacher.
    """

    target: str = "gt"
    layers: tuple[str, ...] = ()
    teacher_layers: tuple[str, ...] = ()

    @property
    def needs_teacher(self) -> bool:
        """Whether there is nothing to compare with without a teacher."""
        return self.target == "teacher" or bool(self.layers)


def split(section: Mapping[str, Any], name: str) -> tuple[LossTarget, dict[str, Any]]:
    """Take a loss section apart: what it aims at, and the loss with its own arguments.

    Args:
        section: A section ``<name>_opt`` of ``train:``.
        name: How messages call it.

    Raises:
        DscsrError: A value is of the wrong kind, or two contradict each other.
    """
    arguments = {key: value for key, value in section.items() if key not in KEYS}
    layers = _names(section.get("layers"), f"{name}: layers")
    teacher_layers = _names(section.get("teacher_layers"), f"{name}: teacher_layers")
    target = section.get("target")
    if target not in (None, *TARGETS):
        raise DscsrError(f"Expected `{name}: target` to be one of {', '.join(TARGETS)}, but got {target!r}. Take one.")
    if teacher_layers and not layers:
        raise DscsrError(f"Expected `{name}: layers` beside `teacher_layers`, but got none. Name the student's layers.")
    if layers and target == "gt":
        raise DscsrError(
            f"Expected `{name}: target` to be the teacher, since layers are compared, but got 'gt'. Leave one "
            "of them out."
        )
    if teacher_layers and len(teacher_layers) != len(layers):
        raise DscsrError(
            f"Expected `{name}: teacher_layers` to name {len(layers)} layers, one for each of `layers`, but got "
            f"{len(teacher_layers)}. Name as many."
        )
    return LossTarget(target or ("teacher" if layers else "gt"), layers, teacher_layers or layers), arguments


def _names(value: Any, name: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or not value or not all(isinstance(one, str) and one for one in value):
        raise DscsrError(
            f"Expected `{name}` to be a list of layer names, but got {value!r}. Write `[block_1, block_2]`."
        )
    return tuple(value)

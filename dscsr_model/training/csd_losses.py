"""What a loss of CSDModel is about: whose output, compared with what, and in which iterations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from dscsr_arch.errors import DscsrError

WHOSE = ("student", "teacher")
TARGETS = ("gt", "teacher")
KEYS = ("output_of", "target", "feature_layers", "start_iter", "end_iter")
"""Keys of a loss section that are not the loss's own arguments."""
CONTRASTIVE = ("ContrastiveLoss", "ContrastiveLoss_dscsr")
"""Types whose loss draws the students to the teacher and away from negatives."""


class CSDLoss(NamedTuple):
    """What a loss compares, and when.

    Attributes:
        contrastive: Whether it is a ContrastiveLoss: students, teacher and negatives.
        output_of: Whose output is trained: every student's, or the teacher's.
        target: What it is compared with: the ground truth (``gt``), or the ``teacher``'s output, without gradient.
        feature_layers: For ``features: teacher``: the layers; none for the default of `TeacherFeatures`.
        start: The first iteration in which it counts; the first of all is 1.
        end: The last one; None for no end.
    """

    contrastive: bool = False
    output_of: str = "student"
    target: str = "gt"
    feature_layers: tuple[str, ...] = ()
    start: int = 1
    end: int | None = None

    @property
    def trains_teacher(self) -> bool:
        """Whether its gradient goes into the teacher's output."""
        return self.output_of == "teacher"

    @property
    def needs_teacher(self) -> bool:
        """Whether it cannot be computed without the teacher's output."""
        return self.contrastive or self.trains_teacher or self.target == "teacher"

    def covers(self, iteration: int) -> bool:
        """Whether it counts in this iteration."""
        return self.start <= iteration and (self.end is None or iteration <= self.end)


def split(section: Mapping[str, Any], name: str) -> tuple[CSDLoss, dict[str, Any]]:
    """Take a loss section apart: what it is about, and the loss with its own arguments.

    Args:
        section: A section ``<name>_opt`` of ``train:``.
        name: How messages call it.

    Raises:
        DscsrError: A value is of the wrong kind, or two contradict each other.
    """
    contrastive = section.get("type") in CONTRASTIVE
    output_of = _one_of(section, "output_of", WHOSE, name)
    target = _one_of(section, "target", ("teacher", *TARGETS) if contrastive else TARGETS, name)
    if contrastive and (output_of, target) != ("student", "teacher"):
        raise DscsrError(
            f"Expected `{name}` to draw students to the teacher, since it is a ContrastiveLoss, but got other values "
            "for `output_of` or `target`. Leave both out."
        )
    if not contrastive and (output_of, target) == ("teacher", "teacher"):
        raise DscsrError(
            f"Expected `{name}: target` to be gt beside `output_of: teacher`, but got teacher: it would be compared "
            "with itself. Leave `target` out."
        )
    start, end = _iteration(section, "start_iter", name), _iteration(section, "end_iter", name)
    if start is not None and end is not None and end < start:
        raise DscsrError(
            f"Expected `{name}: end_iter` to be at least `start_iter: {start}`, but got {end}. Correct one of them."
        )
    layers = _layers(section, contrastive, name)
    arguments = {key: value for key, value in section.items() if key not in KEYS}
    return CSDLoss(contrastive, output_of, target, layers, start or 1, end), arguments


def read_csd_losses(train: Mapping[str, Any]) -> dict[str, CSDLoss]:
    """The csd_losses of all sections ``<name>_opt`` of ``train:``, by name.

    Raises:
        DscsrError: What `split` says.
    """
    sections = {key: value for key, value in train.items() if key.endswith("_opt") and value}
    return {key.removesuffix("_opt"): split(section, key)[0] for key, section in sections.items()}


def check_cover(csd_losses: Mapping[str, CSDLoss], total_iter: int) -> None:
    """Check that there is something to train in every iteration.

    Raises:
        DscsrError: Somewhere no loss counts.
    """
    begins = [1, *(role.end + 1 for role in csd_losses.values() if role.end is not None)]
    for iteration in sorted(begins):
        if iteration <= total_iter and not any(role.covers(iteration) for role in csd_losses.values()):
            raise DscsrError(
                f"Expected a loss in every iteration, but got none in iteration {iteration} of {total_iter}. Correct "
                "`start_iter` and `end_iter`, or `total_iter`."
            )


def _one_of(section: Mapping[str, Any], key: str, values: tuple[str, ...], name: str) -> str:
    value = section.get(key)
    if value is not None and value not in values:
        raise DscsrError(
            f"Expected `{name}: {key}` to be one of {', '.join(sorted(set(values)))}, but got {value!r}. Take one."
        )
    return values[0] if value is None else str(value)


def _iteration(section: Mapping[str, Any], key: str, name: str) -> int | None:
    value = section.get(key)
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool) and float(value).is_integer()
    if not number or value < 1:
        raise DscsrError(
            f"Expected `{name}: {key}` to be a whole number of at least 1, but got {value!r}. Write an iteration."
        )
    return int(value)


def _layers(section: Mapping[str, Any], contrastive: bool, name: str) -> tuple[str, ...]:
    value = section.get("feature_layers")
    if value is None:
        return ()
    if not contrastive or section.get("features") != "teacher":
        raise DscsrError(
            f"Expected `{name}: feature_layers` beside `type: ContrastiveLoss` and `features: teacher` only, but got "
            "it without. Remove it."
        )
    if not isinstance(value, list | tuple) or not value or not all(isinstance(one, str) and one for one in value):
        raise DscsrError(
            f"Expected `{name}: feature_layers` to be a list of layer names, but got {value!r}. Write "
            "`[conv_first, body.0]`."
        )
    return tuple(value)

"""Keys of a loss section that the model reads, not the loss: whose output it trains, compared with what, and when."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator
from typing_extensions import Self

from dscsr_arch.errors import DscsrError
from dscsr_arch.words import many
from dscsr_model.options.section import Section, option
from dscsr_model.options.values import Iteration, Layers, Text


class LossTarget(Section):
    """What a loss of a student with a teacher compares (DistillationModel, DSCLoRAModel).

    Without layers it is the student's output, with the ground truth or with the teacher's output. Each layer is
    compared with the teacher's of the same place; their losses are summed.
    """

    target: Literal["gt", "teacher"] | None = option("what the output is compared with; by default gt")
    layers: Layers | None = option("layers of the student that are compared, instead of its output")
    teacher_layers: Layers | None = option("as many layers of the teacher; by default those of the same names")
    regress: bool | None = option("compare what a learned 1×1 convolution makes of the student's layer (FitNets)")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.regress and not self.layers:
            raise DscsrError("`layers` beside `regress`", "none", "Name the layers that are regressed.")
        if self.teacher_layers and not self.layers:
            raise DscsrError("`layers` beside `teacher_layers`", "none", "Name the student's layers.")
        if self.layers and self.target == "gt":
            expected = "`target` to be the teacher, since layers are compared"
            raise DscsrError(expected, "gt", "Leave one of them out.")
        if self.layers and self.teacher_layers and len(self.teacher_layers) != len(self.layers):
            expected = f"`teacher_layers` to name {many(len(self.layers), 'layer')}, one for each of `layers`"
            raise DscsrError(expected, len(self.teacher_layers), "Name as many.")
        return self

    @property
    def compares_with_output(self) -> bool:
        """Whether the student's output is compared with the teacher's."""
        return self.target == "teacher" and not self.layers

    def asks_teacher(self, stored: bool) -> bool:
        """Whether a teacher has to run, or only if its outputs are not stored."""
        return bool(self.layers) or (self.compares_with_output and not stored)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Layers of the student, each with the teacher's that it is compared with."""
        layers = self.layers or []
        return list(zip(layers, self.teacher_layers or layers, strict=True))


class CSDLoss(Section):
    """What a loss of CSDModel compares, and when.

    A ContrastiveLoss draws every student to the teacher and away from negatives; another loss trains the output of
    every student, or the teacher's, against the ground truth or against the teacher's output, without gradient.
    """

    type: Text = option("loss class", "")
    features: Text | None = option("features that a ContrastiveLoss compares")
    output_of: Literal["student", "teacher"] | None = option("whose output is trained; by default every student's")
    target: Literal["gt", "teacher"] | None = option("what the output is compared with; by default gt")
    feature_layers: Layers | None = option("with `features: teacher`: layers of the teacher that compare the images")
    start_iter: Iteration | None = option("the first iteration in which the loss counts; by default 1")
    end_iter: Iteration | None = option("the last one; by default it has no end")
    every: Iteration | None = option("it counts, at its full weight, in each iteration that this divides; by default 1")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.contrastive and (self.trains_teacher or self.target == "gt"):
            expected = "a ContrastiveLoss to draw students to the teacher"
            raise DscsrError(expected, "other values for `output_of` or `target`", "Leave both out.")
        if self.trains_teacher and self.target == "teacher":
            expected = "`target` to be gt beside `output_of: teacher`"
            raise DscsrError(expected, "teacher: it would be compared with itself", "Leave `target` out.")
        if self.end_iter is not None and self.end_iter < self.start:
            expected = f"`end_iter` to be at least `start_iter: {self.start}`"
            raise DscsrError(expected, self.end_iter, "Correct one of them.")
        if self.feature_layers and not (self.contrastive and self.features == "teacher"):
            expected = "`feature_layers` beside `type: ContrastiveLoss` and `features: teacher` only"
            raise DscsrError(expected, "it without", "Remove it.")
        return self

    @property
    def contrastive(self) -> bool:
        """Whether it is a ContrastiveLoss: students, teacher and negatives."""
        return self.type.removesuffix("_dscsr") == "ContrastiveLoss"

    @property
    def trains_teacher(self) -> bool:
        """Whether its gradient goes into the teacher's output."""
        return self.output_of == "teacher"

    @property
    def compares_with_output(self) -> bool:
        """Whether students learn from the teacher's output."""
        return self.contrastive or self.target == "teacher"

    def asks_teacher(self, stored: bool) -> bool:
        """Whether the teacher has to run: to be trained, or to be compared with if its outputs are not stored."""
        return self.trains_teacher or (self.compares_with_output and not stored)

    @property
    def start(self) -> int:
        """The first iteration in which it counts."""
        return self.start_iter or 1

    def covers(self, iteration: int) -> bool:
        """Whether it counts in iterations around this one."""
        return self.start <= iteration and (self.end_iter is None or iteration <= self.end_iter)

    def skips(self, iteration: int) -> bool:
        """Whether it leaves this iteration out."""
        return iteration % (self.every or 1) != 0


TARGET_KEYS = tuple(LossTarget.declared())
CSD_KEYS = tuple(key for key in CSDLoss.declared() if key not in ("type", "features"))

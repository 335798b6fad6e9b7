"""DistillationModel: a student learns from images and from a frozen teacher, by any losses on outputs and layers."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from basicsr.archs import build_network
from basicsr.utils import get_root_logger
from torch import Tensor, nn

from dscsr_arch.arguments import AssumedWarning
from dscsr_arch.errors import DscsrError, DscsrWarning
from dscsr_model.models.efficient_sr_model import EfficientSRModel
from dscsr_model.training import loss_targets
from dscsr_model.training.feature_hooks import FeatureHooks, Features
from dscsr_model.training.images import check_patch
from dscsr_model.training.teacher import AS_TEACHER, Teacher, TeacherOutput, build_teachers


class DistillationModel(EfficientSRModel):
    """Trains a student with the help of a teacher; tests and validates the student alone.

    Options beside EfficientSRModel's:

    - ``teacher:`` ``weights`` (a file or a list: outputs are averaged, features are the first one's), ``network``
      (left out: built from the file by `dscsr_arch.load_model`), ``param_key``, ``self_ensemble`` (outputs are
      averaged over the eight flips and rotations), ``border`` (LQ pixels at each side of a patch in which the teacher's
      output is not compared with: zeros around a patch are not what is around it in the image). It is fused and
      frozen, runs in the precision and memory format of the training, and belongs to no checkpoint: a resumed run
      reads the same files again.
    - in each section ``train: <name>_opt:`` either ``target: gt | teacher`` (gt by default), or ``layers``, names of
      the student's layers, and ``teacher_layers``, the teacher's (the same by default): then the loss compares
      feature maps, summed over the layers.

    A student that starts from trained weights (``path: pretrain_network_g``) is validated before its first step, as
    iteration 0, so that the log shows what was gained. ``net_g_best.pth`` is this start until a better one comes.
    """

    def init_training_settings(self) -> None:
        """Also the teacher, and taps on the layers that losses compare; before anything can be compiled."""
        self.loss_targets: dict[str, loss_targets.LossTarget] = {}
        self.validates_start = bool(self.opt["path"].get("pretrain_network_g"))
        super().init_training_settings()
        self.hooks = FeatureHooks(self.get_bare_model(self.net_g), _all("layers", self.loss_targets))
        self.teacher = self.build_teacher()
        self.teacher_output = TeacherOutput(None, {})
        self.features: Features = {}

    def build_criterion(self, name: str, section: dict[str, Any]) -> nn.Module:
        """Build a loss, and remember what it aims at."""
        self.loss_targets[name], arguments = loss_targets.split(section, f"{name}_opt")
        return super().build_criterion(name, arguments)

    def build_teacher(self) -> Teacher | None:
        """The teacher of the option file; None if no loss needs one.

        Raises:
            DscsrError: A loss needs one, and there is none.
        """
        needing = [name for name, aim in self.loss_targets.items() if aim.needs_teacher]
        if not needing:
            return None
        if not self.opt.get("teacher"):
            raise DscsrError(
                f"Expected a section `teacher:`, since `{needing[0]}_opt` compares with one, but got none. Add it at "
                "the top level, with `weights:`."
            )
        section = self.opt["teacher"]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DscsrWarning)
            networks = build_teachers(section, build_network)
        for warning in caught:
            remedy = " If that is wrong, write `teacher: network:`." * issubclass(warning.category, AssumedWarning)
            get_root_logger().warning(f"{warning.message}{remedy}")
        get_root_logger().info(
            "Teacher: "
            + ", ".join(
                f"{type(net).__name__} of {sum(p.numel() for p in net.parameters()):,} parameters" for net in networks
            )
        )
        layers = _all("teacher_layers", self.loss_targets)
        teacher = Teacher(
            networks,
            layers,
            output=any(aim.target == "teacher" and not aim.layers for aim in self.loss_targets.values()),
            ensemble=bool(section.get("self_ensemble", False)),
            precision=self.precision,
            memory_format=self.memory_format,
        )
        if layers:
            check_patch(self.opt, teacher.size_requirements[0], type(networks[0]).__name__ + AS_TEACHER)
        return teacher

    def run_network(self, lq: Tensor) -> Tensor:
        """One forward of the student, which gives output and features, and the teacher's answer to the same batch."""
        if self.teacher is not None:
            self.teacher_output = self.teacher(lq)
        output, self.features = self.hooks.watch(super().run_network, lq)
        return output

    def compute_loss(self, name: str, output: Tensor, gt: Tensor) -> Any:
        """The loss of this name, on what it aims at."""
        aim = self.loss_targets[name]
        if not aim.layers:
            if aim.target == "teacher" and self.teacher_output.output is not None:
                output, gt = self._inner(output), self._inner(self.teacher_output.output)
            return super().compute_loss(name, output, gt)
        pairs = zip(aim.layers, aim.teacher_layers, strict=True)
        losses = [
            self.criteria[name](self.features[ours].float(), self.teacher_output.features[theirs].float())
            for ours, theirs in pairs
        ]
        return torch.stack(losses).sum()

    def _inner(self, images: Tensor) -> Tensor:
        """Without the border, where a patch's end, not the image, decides what the teacher says."""
        border = int(self.opt["teacher"].get("border", 0)) * int(self.opt["scale"])
        return images[..., border:-border, border:-border] if border else images


def _all(attribute: str, of: dict[str, loss_targets.LossTarget]) -> list[str]:
    return [layer for aim in of.values() for layer in getattr(aim, attribute)]

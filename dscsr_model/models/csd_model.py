"""CSDModel: contrastive self-distillation (CSD, arXiv 2105.11683), and the trainings that it is compared with."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from basicsr.utils import get_root_logger
from torch import Tensor, nn

from dscsr_arch.cssr_arch import CSSRNet
from dscsr_arch.metadata import beside
from dscsr_model.losses.contrastive_loss import ContrastiveLoss
from dscsr_model.losses.vgg import VGG19Features
from dscsr_model.models.efficient_sr_model import EfficientSRModel
from dscsr_model.options.losses import CSD_KEYS, CSDLoss
from dscsr_model.training.images import check_output
from dscsr_model.training.log import loss_sections, named
from dscsr_model.training.stages import Stage
from dscsr_model.training.teacher import TeacherFeatures

TEACHER = 1.0


def width_label(width: float) -> str:
    """``w0.25``: ends names of metrics, images and files of a student, or of the teacher."""
    return f"w{float(width)}"


def _vgg(criterion: nn.Module) -> VGG19Features | None:
    """What a contrastive loss compares images by, if not by the teacher."""
    return criterion.vgg if isinstance(criterion, ContrastiveLoss) else None


class CSDModel(EfficientSRModel):
    """Trains the students of a ``type: CSSRNet``, alone or together with their teacher, which holds them.

    Whose output a loss trains, against what, and when, is a `CSDLoss`; the teacher's output never gets a gradient from
    its students' losses. A ContrastiveLoss draws students to the teacher, away from LR images of the part of the batch
    that is processed (`accumulate_steps`) on this rank, enlarged by torch's bicubic. Its ``features: teacher`` compares
    in layers (see `TeacherFeatures`) of the teacher that the training began with.

    Where the training data has ``dataroot_teacher``, each batch has, as ``teacher_image``, what a teacher made of the
    whole images before: students are compared with that, and the teacher runs only to be trained itself.

    Terms of several students are summed. Metrics are named by width (``psnr_w0.25``); the smallest decides which
    network is best, unless ``val: best_metric`` names another. Beside ``net_g_*.pth`` (of the plain backbone's names)
    lie ``student_w<width>_*.pth``, plain backbones, of the better weights.

    The published step is L1 of the students, ContrastiveLoss, L1 of the teacher, and a trained teacher as
    ``path: pretrain_network_g``. Without ContrastiveLoss it is joint training; without any loss that needs the
    teacher, only students run: from the teacher's channels or, without ``pretrain_network_g``, from scratch. One
    student alone then starts as a plain network of its width.
    """

    loss_keys = CSD_KEYS

    @property
    def students(self) -> tuple[float, ...]:
        """Widths of the students, in the order of the options."""
        network: CSSRNet = self.get_bare_model(self.net_g)
        return network.widths

    @cached_property
    def validated(self) -> tuple[float, ...]:
        """``val: widths`` in ascending order; if none are given, all students' and, if it takes part, the teacher's."""
        teacher = [TEACHER] if not self.is_train or self._needs_teacher() else []
        given = [*self.students, *teacher] if self.val.widths is None else self.val.widths
        return tuple(sorted({float(width) for width in given}))

    @cached_property
    def losses_of(self) -> list[dict[str, CSDLoss]]:
        """The losses of each stage."""
        return [
            {name: CSDLoss.parse(section, f"{name}_opt") for name, section in loss_sections(stage.train).items()}
            for stage in self.stages
        ]

    @property
    def labels(self) -> tuple[str, ...]:  # type: ignore[override]
        """``_w0.25`` and so on, the smallest width first."""
        return tuple(f"_{width_label(width)}" for width in self.validated)

    # --- before the training ----------------------------------------------------------------------------------

    def model_to_device(self, net: Any) -> nn.Module:
        """Also a fair start for a student alone, before DistributedDataParallel gives every rank the same weights."""
        from_scratch = self.is_train and not self.opt["path"].get("pretrain_network_g")
        if from_scratch and len(net.widths) == 1 and not self._needs_teacher():
            get_root_logger().info(f"The student of width {net.widths[0]} starts as a plain network of its size.")
            net.redraw(net.widths[0])
        return super().model_to_device(net)

    def init_training_settings(self) -> None:
        """Also the teacher's features that contrastive losses of all stages compare."""
        self.take_stored_outputs()
        super().init_training_settings()
        backbone = self.get_bare_model(self.net_g).backbone
        self.features = {
            name: TeacherFeatures(backbone, loss.feature_layers or ())
            for criteria, losses in zip(self.criteria_of, self.losses_of, strict=True)
            for name, loss in losses.items()
            if loss.contrastive and _vgg(criteria[name]) is None
        }

    def begin_stage(self, stage: Stage) -> None:
        """Also what its losses compare."""
        super().begin_stage(stage)
        self.active: Mapping[str, CSDLoss] = self.losses_of[stage.number - 1]

    def _needs_teacher(self) -> bool:
        return any(self._asks_teacher(losses) for losses in self.losses_of)

    def _asks_teacher(self, losses: Mapping[str, CSDLoss]) -> bool:
        return any(loss.asks_teacher(self.stored is not None) for loss in losses.values())

    # --- a step -----------------------------------------------------------------------------------------------

    def optimize_parameters(self, current_iter: int) -> None:
        """One step by the losses that count in this iteration."""
        scheduled, losses = self.scheduled_iteration(current_iter), self.losses_of[self.stage.number - 1]
        due = {name: loss for name, loss in losses.items() if not loss.skips(current_iter)}
        self.active = {name: loss for name, loss in due.items() if loss.covers(scheduled)}
        super().optimize_parameters(current_iter)

    def compute_losses(self, lq: Tensor, gt: Tensor, teacher_image: Tensor | None = None) -> dict[str, Tensor]:
        """Named, weighted losses of one part of a batch, one for each student; their sum is minimized.

        Args:
            lq: (B, C, H, W) in [0, 1].
            gt: (B, C, H·s, W·s).
            teacher_image: What a teacher has made of ``lq`` before, like ``gt``, if that is stored.
        """
        outputs = self.run_widths(lq)
        self.output = outputs[min(outputs)]
        check_output(self.output, gt)
        losses: dict[str, Tensor] = OrderedDict()
        taught = outputs.get(TEACHER) if teacher_image is None else teacher_image
        for name, loss in self.active.items():
            if loss.trains_teacher:
                losses |= named(name, self.compute_loss(name, outputs[TEACHER], gt))
                continue
            students = {width: outputs[width] for width in self.students}
            target = taught.detach() if taught is not None and loss.compares_with_output else gt
            if loss.contrastive:
                terms = self._contrast(name, students, target, lq)
            else:
                terms = {width: self.compute_loss(name, output, target) for width, output in students.items()}
            for width, term in terms.items():
                losses |= named(name, term, f"_{width}" if len(terms) > 1 else "")
        return losses

    def _contrast(
        self, name: str, students: Mapping[float, Tensor], teacher: Tensor, lq: Tensor
    ) -> dict[float, Tensor]:
        """The contrastive loss of each student; features of teacher and negatives are computed once for all of them."""
        criterion: Any = self.criteria[name]
        features: Callable[[Tensor], list[Tensor]] = _vgg(criterion) or self.features[name]
        negatives, sources = criterion.draw_negatives(lq, teacher.shape[-2:])
        with torch.no_grad():
            known = features(torch.cat((teacher, negatives.to(teacher.dtype))))
        positive = [layer[: len(teacher)] for layer in known]
        negative = [layer[len(teacher) :] for layer in known]
        return {
            width: criterion.compare(features(output), positive, negative, sources)
            for width, output in students.items()
        }

    def run_widths(self, lq: Tensor) -> dict[float, Tensor]:
        """Outputs in float32 of the widths that the active losses need.

        What is trained runs in one forward, as DistributedDataParallel wants it. A teacher that is only looked at runs
        for itself, without a graph, which saves most of the memory; and under an autocast of its own: what that casts
        without a graph it would keep, and hand to the students.
        """
        active = self.active.values()
        trained = list(self.students) if any(not loss.trains_teacher for loss in active) else []
        if any(loss.trains_teacher for loss in active):
            return self._run((TEACHER, *trained), lq)
        outputs: dict[float, Tensor] = {}
        if self._asks_teacher(self.active):
            with torch.no_grad():
                outputs = self._run((TEACHER,), lq)
        return outputs | self._run(trained, lq)

    def _run(self, those: Sequence[float], lq: Tensor) -> dict[float, Tensor]:
        with self.precision.autocast():
            outputs = self.training_forward(lq, width=tuple(those))
        return {width: output.float() for width, output in outputs.items()}

    def get_current_log(self) -> dict[str, float]:
        """Also, with several students, each loss summed over them."""
        figures = super().get_current_log()
        sums: dict[str, float] = OrderedDict()
        for name in self.loss_terms:
            loss = next((name.removesuffix(f"_{width}") for width in self.students if name.endswith(f"_{width}")), name)
            sums[loss] = sums.get(loss, 0.0) + figures[name]
        return sums | figures

    # --- every width ------------------------------------------------------------------------------------------

    def results(self, network: nn.Module) -> dict[str, Tensor]:
        """The current batch at every width that is validated."""
        return {
            label: self.super_resolve(network, width=width)
            for label, width in zip(self.labels, self.validated, strict=True)
        }

    def save_networks(self, content: dict[str, Any], label: str) -> Path:
        """Save every student as a plain backbone, then the network that holds them."""
        network: Any = self.network
        for width in self.students:
            student = network.student(width).cpu()
            saved = {"params": student.state_dict(), **beside(student, network.section(width))}
            self.checkpoints.save_network(saved, label, f"student_{width_label(width)}")
        return super().save_networks(content, label)

    def training_state(self, epoch: int, current_iter: int) -> dict[str, Any]:
        """Also the layers of the teacher that the training began with."""
        kept = {name: features.state() for name, features in self.features.items()}
        return super().training_state(epoch, current_iter) | {"first_layers": kept}

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        """Also these layers: the network itself has gone on learning."""
        super().resume_training(resume_state)
        saved = resume_state.get("first_layers", {})
        for name, features in self.features.items():
            if name in saved:
                features.load_state(saved[name])
            else:
                get_root_logger().warning(
                    f"This run began without `features: teacher` in `{name}_opt`: the first layers of this "
                    "checkpoint are taken."
                )

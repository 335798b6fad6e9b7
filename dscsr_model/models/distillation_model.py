"""DistillationModel: a student learns from images and from a frozen teacher, by any losses on outputs and layers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from basicsr.archs import build_network
from basicsr.utils import get_root_logger
from torch import Tensor, nn

from dscsr_arch.arguments import AssumedWarning
from dscsr_arch.errors import DscsrWarning
from dscsr_arch.sizes import likely_channels, padded
from dscsr_arch.words import many
from dscsr_model.models.efficient_sr_model import EfficientSRModel
from dscsr_model.options.losses import TARGET_KEYS, LossTarget
from dscsr_model.options.sections import TeacherSection
from dscsr_model.training.feature_hooks import FeatureHooks, Features
from dscsr_model.training.log import loss_sections
from dscsr_model.training.regressors import Pair, Regressors, of_checkpoint
from dscsr_model.training.stages import Stage
from dscsr_model.training.teacher import Teacher, TeacherOutput, build_teachers
from dscsr_model.training.validation import evaluating


class DistillationModel(EfficientSRModel):
    """Trains a student with the help of a teacher; tests and validates the student alone.

    The teacher is one network or several: their outputs are averaged, features are the first one's. It is fused and
    frozen, runs in the precision and memory format of the training, and belongs to no checkpoint: a resumed run reads
    the same files again. Its output is not compared with in the ``border`` of a patch, where zeros around the patch are
    not what is around it in the image. What a loss compares is a `LossTarget`.

    Where the training data has ``dataroot_teacher``, the teacher's output is in each batch, as ``teacher_image``: what
    it made of the whole image. It runs then for layers alone.
    """

    loss_keys = TARGET_KEYS

    def init_training_settings(self) -> None:
        """Also the teacher, and hooks on the layers that losses compare, of all stages; before anything is compiled."""
        self.targets_of = [
            {name: LossTarget.parse(section, f"{name}_opt") for name, section in loss_sections(stage.train).items()}
            for stage in self.stages
        ]
        self.distillation = TeacherSection.parse(self.opt.get("teacher"), "teacher")
        self.take_stored_outputs()
        self.teacher_output = TeacherOutput(None, {})
        self.features: Features = {}
        super().init_training_settings()

    def build_losses(self) -> list[dict[str, nn.Module]]:
        """Also what they compare, and regressors, which the optimizer has to know from the start."""
        self.hooks = FeatureHooks(self.get_bare_model(self.net_g), [ours for ours, _ in self._pairs()])
        self.teacher = self.build_teacher()
        self.regressors = self.build_regressors()
        return super().build_losses()

    def begin_stage(self, stage: Stage) -> None:
        """Also what its losses compare."""
        super().begin_stage(stage)
        self.loss_targets = self.targets_of[stage.number - 1]

    def build_teacher(self) -> Teacher | None:
        """The teacher of the option file; None if no loss needs one."""
        stored = self.stored is not None
        if not any(target.asks_teacher(stored) for targets in self.targets_of for target in targets.values()):
            return None
        logger = get_root_logger()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DscsrWarning)
            networks = build_teachers(self.opt["teacher"], build_network)
        for warning in caught:
            remedy = " If that is wrong, write `teacher: network:`." * issubclass(warning.category, AssumedWarning)
            logger.warning(f"{warning.message}{remedy}")
        for network in networks:
            count = sum(parameter.numel() for parameter in network.parameters())
            logger.info(f"Teacher: {type(network).__name__} of {many(count, 'parameter')}")
        return Teacher(
            networks,
            [theirs for _, theirs in self._pairs()],
            ensemble=self.distillation.self_ensemble,
            precision=self.precision,
            memory_format=self.memory_format,
        )

    @torch.no_grad()
    def build_regressors(self) -> Regressors:
        """For each pair of layers of a loss with `regress`, by the channels that a small image has there."""
        targets = [target for targets in self.targets_of for target in targets.values() if target.regress]
        pairs = dict.fromkeys(pair for target in targets for pair in target.pairs)
        if self.teacher is None or not pairs:
            return Regressors({})
        network = self.get_bare_model(self.net_g)
        like = next(network.parameters())
        channels = self.opt["network_g"].get("num_in_ch") or likely_channels(network)[0]
        image = like.new_zeros(1, channels, 16, 16)
        self.teacher.wants_output = False
        theirs = self.teacher(image.float()).features
        with evaluating(network):
            forward = partial(padded, network, requirements=self.size_requirements)
            _, ours = self.hooks.watch(forward, image)
        regressors = Regressors({(one, two): (ours[one].shape[1], theirs[two].shape[1]) for one, two in pairs})
        count = sum(parameter.numel() for parameter in regressors.parameters())
        get_root_logger().info(f"Regressors: {len(pairs)} of {count:,} parameters, in training states alone")
        regressors.to(self.device).share()
        return regressors

    def trained_besides(self) -> list[nn.Parameter]:
        """The regressors."""
        return list(self.regressors.parameters())

    def _pairs(self) -> list[tuple[str, str]]:
        return [pair for targets in self.targets_of for target in targets.values() for pair in target.pairs]

    def _accumulate(self) -> dict[str, Tensor]:
        terms = super()._accumulate()
        self.regressors.share_gradients()
        return terms

    def compute_losses(self, lq: Tensor, gt: Tensor, teacher_image: Tensor | None = None) -> dict[str, Tensor]:
        """Also with what a teacher has made of ``lq`` before, like ``gt``, if that is stored."""
        self.teacher_output = TeacherOutput(teacher_image, {})
        return super().compute_losses(lq, gt)

    def run_network(self, lq: Tensor) -> Tensor:
        """One forward of the student, which gives output and features, and the teacher's answer to the same batch."""
        targets, stored = self.loss_targets.values(), self.stored is not None
        if self.teacher is not None and any(target.asks_teacher(stored) for target in targets):
            of_teacher = any(target.compares_with_output for target in targets)
            self.teacher.wants_output = of_teacher and not stored
            output, features = self.teacher(lq)
            self.teacher_output = TeacherOutput(self.teacher_output.output if stored else output, features)
        output, self.features = self.hooks.watch(super().run_network, lq)
        return output

    def compute_loss(self, name: str, output: Tensor, gt: Tensor) -> Any:
        """The loss of this name, on what it compares."""
        target = self.loss_targets[name]
        if not target.pairs:
            if target.target == "teacher" and self.teacher_output.output is not None:
                output, gt = self._inner(output), self._inner(self.teacher_output.output)
            return super().compute_loss(name, output, gt)
        losses = [
            self.criteria[name](self._feature(target, pair), self.teacher_output.features[pair[1]].float())
            for pair in target.pairs
        ]
        return torch.stack(losses).sum()

    def _feature(self, target: LossTarget, pair: Pair) -> Tensor:
        """What a loss compares of the student's layer."""
        feature = self.features[pair[0]].float()
        return self.regressors(pair, feature) if target.regress else feature

    def _inner(self, images: Tensor) -> Tensor:
        """Without the border, where a patch's end, not the image, decides what the teacher says."""
        border = self.distillation.border * int(self.opt["scale"])
        return images[..., border:-border, border:-border] if border else images

    # --- training states ----------------------------------------------------------------------------------------

    def training_state(self, epoch: int, current_iter: int) -> dict[str, Any]:
        """Also the regressors."""
        own = {"regressors": self.regressors.state_dict()} if self.regressors else {}
        return super().training_state(epoch, current_iter) | own

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        """Also the regressors; they start anew where others were trained."""
        saved: Mapping[str, Tensor] = resume_state.get("regressors", {})
        if self.regressors.fit(saved):
            self.regressors.load_state_dict(saved)
        else:
            get_root_logger().info("The checkpoint has other regressors: those of this run start anew.")
            weights = sum(parameter.requires_grad for parameter in self.net_g.parameters())
            resume_state = {**resume_state, "optimizers": of_checkpoint(resume_state, self.regressors, weights)}
        super().resume_training(resume_state)

"""EfficientSRModel: BasicSR's SRModel, as fast as the hardware allows, and with nothing lost when it is killed."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import torch
from basicsr.archs import build_network
from basicsr.losses import build_loss
from basicsr.utils import get_root_logger
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dscsr_model.data.teacher_store import TeacherRecord, read_record
from dscsr_model.models.checkpointing_sr_model import CheckpointingSRModel
from dscsr_model.options.sections import QuantizeSection, TrainSection
from dscsr_model.training import log, lora
from dscsr_model.training.ema import MovingAverage, averaging, start_average, update_average
from dscsr_model.training.guards import StepGuard
from dscsr_model.training.images import as_float, check_batch, check_output, to_device, turned
from dscsr_model.training.log import loss_sections, named
from dscsr_model.training.optimizers import WarmedSchedule, build_optimizer, take_over
from dscsr_model.training.precision import CompiledForward, Precision
from dscsr_model.training.quantization import calibrate, clip_decay, is_calibrated, share_clips
from dscsr_model.training.stages import Stage

BASICSR_SCHEDULERS = ("MultiStepLR", "MultiStepRestartLR", "CosineAnnealingRestartLR")


class EfficientSRModel(CheckpointingSRModel):
    """Trains and tests any network of BasicSR's registry on pairs of LQ and GT images.

    Options are declared in ``dscsr_model/options``. With ``accumulate_steps`` n, each batch is processed in n parts,
    for the memory of one; the step is that of the batch. A skipped step is an update of the average like any other,
    towards the unchanged network. With ``network_g: lora`` (see `inject_lora`) only LoRA is trained; adapters and the
    fused network are saved, too.

    A network may take multiples of a window only (SwinIR, HAT): images are `padded` for it; patches are not, and must
    fit.

    A network that starts from trained weights (``path: pretrain_network_g``) is validated before its first step, as
    iteration 0, so that the log shows what was gained. ``net_g_best.pth`` is this start until a better one comes.

    A batch may be uint8 (``PairedCropDataset`` with ``output: uint8``): it becomes float on the device. With a key
    ``orientation`` (see `turned`) it is turned there as well.
    """

    loss_keys: tuple[str, ...] = ()
    """Keys of a loss section that the model reads, not the loss."""
    trained_images: tuple[str, ...] = ("lq", "gt")
    """Images of a batch that a step takes."""
    memory_format = torch.contiguous_format
    averaging: Any = None  # when and how `net_g_ema` follows `net_g`
    optimizers: list[torch.optim.Optimizer]
    schedulers: list[Any]

    def init_training_settings(self) -> None:
        """Build everything that only training needs."""
        self.settings = TrainSection.parse(self.opt["train"], "train")
        # A network to be quantized starts as what it will not be: in float32.
        self.validates_start = bool(self.opt["path"].get("pretrain_network_g")) and not self.quantize
        network, logger = self.get_bare_model(self.net_g), get_root_logger()
        _ = self.size_requirements  # before the first step: it may fail
        self.net_g.train()
        lora.freeze_statistics(self.net_g)
        self.precision = Precision(self.settings.precision, self.device)
        if self.settings.channels_last:
            # Convolutions follow their input; small kernels are turned in no time, and DistributedDataParallel keeps
            # the order in which it knows them.
            self.memory_format = torch.channels_last
        self.training_forward = CompiledForward(self.net_g, self.settings.compile, logger)
        self.stop.clock.limit = self.settings.max_seconds
        self.throughput = log.Throughput(self.stop.clock, self.opt["world_size"])
        self.averaging = averaging(self.opt["train"])
        self.clip_decay = QuantizeSection.parse(self.quantize, "train: quantize").clip_decay if self.quantize else 0
        if self.averaging:
            logger.info(self.averaging.says)
            average = self.trainable(build_network(self.opt["network_g"])).to(self.device)
            self.net_g_ema = start_average(average, network, self.opt["path"].get("pretrain_network_g"))
        self.criteria_of = self.build_losses()
        self.begin_stage(self.stage)
        self.guard = StepGuard(
            self.optimizer_g,
            self.net_g,
            self.precision.scaler,
            max_bad_steps=self.settings.max_bad_steps,
            max_norm=self.settings.grad_clip_norm,
            stop=self.stop,
        )
        self.loss_terms: Mapping[str, Tensor] = {}

    @cached_property
    def stored(self) -> TeacherRecord | None:
        """Whose outputs lie beside the training data, if any do."""
        path = self.opt["datasets"].get("train", {}).get("dataroot_teacher")
        return None if path is None else read_record(path)

    def take_stored_outputs(self) -> None:
        """Take these outputs of each batch, as ``teacher_image``."""
        if self.stored is not None:
            self.trained_images = (*self.trained_images, "teacher_image")
            get_root_logger().info(f"Teacher: stored outputs of {self.stored.words}")

    # --- losses, optimizer, schedule --------------------------------------------------------------------------

    def begin_stage(self, stage: Stage) -> None:
        """Take the losses, the optimizer's options and the schedule of a stage; all else goes on, moments included."""
        super().begin_stage(stage)
        self.opt["train"] = copy.deepcopy(dict(stage.train))  # BasicSR takes keys out
        self.settings = TrainSection.parse(self.opt["train"], "train")
        self.criteria = self.criteria_of[stage.number - 1]
        before, self.optimizers, self.schedulers = self.optimizers, [], []
        self.setup_optimizers()
        for optimizer, old in zip(self.optimizers, before, strict=False):
            take_over(optimizer, old.state_dict())
            optimizer._opt_called = True  # type: ignore[attr-defined]  # else torch warns that it has not stepped
            self.guard.optimizer = optimizer
        self.setup_schedulers()

    def build_losses(self) -> list[dict[str, nn.Module]]:
        """For each stage a loss for each section ``<name>_opt`` of ``train:``; the same one for the same section."""
        built: dict[str, nn.Module] = {}

        def loss(section: Mapping[str, Any]) -> nn.Module:
            own = {key: value for key, value in section.items() if key not in self.loss_keys}
            if str(own) not in built:
                built[str(own)] = build_loss(own).to(self.device)
            return built[str(own)]

        named = [loss_sections(stage.train) for stage in self.stages]
        return [{name: loss(section) for name, section in sections.items()} for sections in named]

    def setup_optimizers(self) -> None:
        """One optimizer for all that is trained; what is frozen is counted in one line."""
        section = dict(self.opt["train"]["optim_g"])
        everything = list(self.net_g.parameters())
        trained = [parameter for parameter in everything if parameter.requires_grad]
        if len(trained) < len(everything):
            count, total = (sum(p.numel() for p in some) for some in (trained, everything))
            get_root_logger().info(f"{count:,} of {total:,} parameters are trained, the others are frozen.")
        self.optimizer_g = self.get_optimizer(section.pop("type"), [*trained, *self.trained_besides()], **section)
        self.optimizers.append(self.optimizer_g)

    def trained_besides(self) -> list[nn.Parameter]:
        """What the optimizer trains beside the network, after its parameters."""
        return []

    def get_optimizer(self, optim_type: str, params: Any, lr: float, **kwargs: Any) -> torch.optim.Optimizer:
        """Any optimizer of torch."""
        return build_optimizer(optim_type, params, lr=lr, **kwargs)

    def setup_schedulers(self) -> None:
        """BasicSR's schedules as BasicSR builds them; any other from torch."""
        section = dict(self.opt["train"]["scheduler"])
        name = section.pop("type")
        self.warmed_schedule: WarmedSchedule | None = None
        if name in BASICSR_SCHEDULERS:
            super().setup_schedulers()
        else:
            self.warmed_schedule = WarmedSchedule(name, self.optimizer_g, **section)
            self.schedulers.append(self.warmed_schedule.schedule)

    def step_schedule(self, current_iter: int, warmup_iter: int) -> None:
        """Step the schedule, with BasicSR's linear warm-up on top."""
        if self.warmed_schedule is None:
            super().step_schedule(current_iter, warmup_iter)
        else:
            self.warmed_schedule.step(current_iter, warmup_iter)

    # --- a step -----------------------------------------------------------------------------------------------

    def feed_data(self, data: Mapping[str, Any]) -> None:
        """Take a batch to the device; turn it there, if it says how; make it float in [0, 1] there, if it is uint8."""
        check_batch(data, ["lq"])
        for name in self.trained_images:
            if name in data:
                images = to_device(data[name], self.device)
                if "orientation" in data:
                    images = turned(images, to_device(data["orientation"], self.device))
                setattr(self, name, as_float(images, self.memory_format))

    def optimize_parameters(self, current_iter: int) -> None:
        """One step of the optimizer on the current batch, unless loss or gradients are not finite."""
        check_batch(vars(self), self.trained_images[1:])
        self.restore_random_state()
        self.stop.clock.start()
        self.iteration = current_iter
        self.guard.begin()
        self.training_forward.begin_step()
        if self.quantize and not is_calibrated(self.get_bare_model(self.net_g)):
            self._calibrate()
        self.loss_terms = self._accumulate()
        self.guard.step(torch.stack([loss.float() for loss in self.loss_terms.values()]).sum())
        if self.averaging:
            decay = self.averaging.next_decay(current_iter, self.scheduled_iteration(current_iter))
            if decay is not None:
                self.model_ema(decay)
        self.throughput.add(len(self.lq))
        self.guard.check(current_iter, self.loss_terms, self.checkpoints.last)
        self.progress.step(current_iter, self.loss_terms, lambda: self.guard.total)

    def _accumulate(self) -> dict[str, Tensor]:
        """Gradients of the whole batch, part by part; gives its losses."""
        number_of_parts = min(self.settings.accumulate_steps, len(self.lq))
        split = [getattr(self, name).tensor_split(number_of_parts) for name in self.trained_images]
        terms: dict[str, Tensor] = OrderedDict()
        for number, (lq, *others) in enumerate(zip(*split, strict=True), start=1):
            share = len(lq) / len(self.lq)
            last = number == number_of_parts  # ranks share gradients once
            with nullcontext() if last or not isinstance(self.net_g, DistributedDataParallel) else self.net_g.no_sync():
                losses = self.compute_losses(lq, *others)
                total = torch.stack([loss.float() for loss in losses.values()]).sum() * share
                self.precision.scaler.scale(total).backward()
            for name, loss in losses.items():
                terms[name] = terms.get(name, 0) + loss.detach() * share
        return terms

    def compute_losses(self, lq: Tensor, gt: Tensor) -> dict[str, Tensor]:
        """Named, weighted losses of one part of a batch, in float32; their sum is minimized.

        Args:
            lq: (B, C, H, W) in [0, 1].
            gt: (B, C, H·s, W·s) in [0, 1].
        """
        with self.precision.autocast():
            output = self.run_network(lq)
        self.output = output.float()
        check_output(self.output, gt)
        losses: dict[str, Tensor] = OrderedDict()
        for name in self.criteria:
            losses |= named(name, self.compute_loss(name, self.output, gt))
        if self.clip_decay:
            losses["l_clips"] = clip_decay(self.get_bare_model(self.net_g), self.clip_decay)
        return losses

    def _calibrate(self) -> None:
        """Let the clips begin at what the first batch needs, those of the average too."""
        network = self.get_bare_model(self.net_g)
        with self.precision.autocast():
            calibrate(network, lambda: network(self.lq))
        if self.averaging:
            share_clips(network, self.net_g_ema)

    def run_network(self, lq: Tensor) -> Tensor:
        """The one forward of a part of a batch, under autocast."""
        output: Tensor = self.training_forward(lq)
        return output

    def compute_loss(self, name: str, output: Tensor, gt: Tensor) -> Any:
        """The loss of this name: a scalar, or BasicSR's pair (perceptual, style)."""
        return self.criteria[name](output, gt)

    def model_ema(self, decay: float = 0.999) -> None:
        """Update the average, buffers included, in one call."""
        update_average(self.net_g_ema, self.get_bare_model(self.net_g), decay)

    # --- what a person sees, what is saved, and when the clock stands -------------------------------------------

    def get_current_log(self) -> dict[str, float]:
        """Losses averaged over the ranks, images per second, peak memory; skipped steps if there were any."""
        figures: dict[str, float] = OrderedDict(log.reduced(self.loss_terms))
        if (rate := self.throughput.read()) is not None:
            figures["images_per_s"] = rate
        figures["peak_memory_gib"] = log.peak_memory_gib(self.device)
        if skipped := self.guard.total:
            figures["skipped_steps"] = skipped
        return figures

    def training_state(self, epoch: int, current_iter: int) -> dict[str, Any]:
        """Also what the average and the loss scale have counted."""
        averaged = {self.averaging.key: self.averaging.count} if self.averaging else {MovingAverage.key: 0}
        counted = {**averaged, "scaler": self.precision.scaler.state_dict()}
        return super().training_state(epoch, current_iter) | counted

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        """Also what they had counted."""
        super().resume_training(resume_state)
        if self.averaging:  # else one that is asked for later starts anew
            self.averaging.resume(resume_state)
        if resume_state.get("scaler"):  # that of another precision is empty
            self.precision.scaler.load_state_dict(resume_state["scaler"])

    def save(self, epoch: int, current_iter: int) -> None:
        """Save while the clock stands."""
        with self.stop.clock.paused():
            super().save(epoch, current_iter)

    def nondist_validation(self, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool) -> None:
        """Validate while the clock stands."""
        with self.stop.clock.paused():
            super().nondist_validation(dataloader, current_iter, tb_logger, save_img)

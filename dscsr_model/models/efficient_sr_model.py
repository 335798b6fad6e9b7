"""EfficientSRModel: BasicSR's SRModel, as fast as the hardware allows, and with nothing lost when it is killed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from basicsr.archs import build_network
from basicsr.losses import build_loss
from basicsr.utils import get_root_logger
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dscsr_arch.checkpoint import mismatch, read_state_dict
from dscsr_arch.errors import WeightsError
from dscsr_model.models.validating_sr_model import ValidatingSRModel
from dscsr_model.training import log, lora
from dscsr_model.training.checkpoints import training_options
from dscsr_model.training.ema import update_average, warmed_up
from dscsr_model.training.guards import RunningStatistics, StepGuard, clip_gradients
from dscsr_model.training.images import as_float, check_batch, check_output, check_patch, turned
from dscsr_model.training.optimizers import WarmUp, build_optimizer, scheduler_class
from dscsr_model.training.precision import CompiledForward, Precision

BASICSR_SCHEDULERS = ("MultiStepLR", "MultiStepRestartLR", "CosineAnnealingRestartLR")


class EfficientSRModel(ValidatingSRModel):
    """Trains and tests any network of BasicSR's registry on pairs of LQ and GT images.

    Options beside SRModel's, under ``train:`` unless said otherwise:

    - ``precision`` (fp32, bf16, fp16), ``channels_last``, ``compile`` (false, true or a mode of torch.compile);
    - ``accumulate_steps`` n: each batch is processed in n parts, for the memory of one; the step is that of the batch;
    - ``optim_g: type`` any class of torch.optim, ``scheduler: type`` any of torch.optim.lr_scheduler;
    - ``grad_clip_norm``, ``max_bad_steps`` (100);
    - ``ema_warmup`` (true; false: BasicSR's average), see `warmed_up`. An average that starts from a file follows the
      network quickly at first, too. A skipped step is an update like any other, towards the unchanged network;
    - any number of losses in sections ``<name>_opt``, logged as ``l_<name>`` (SRModel's as ``l_pix``, ``l_percep``);
    - ``val: tile``, ``tile_overlap`` (32, in LQ pixels), ``self_ensemble``, ``best_metric``;
    - ``logger: keep_checkpoints`` n;
    - ``network_g: lora`` (see `lora.put`): only LoRA is trained then; adapters and the fused network are saved too.

    A network may take multiples of a window only (SwinIR, HAT): images are `padded` for it; patches are not, and must
    fit. What it takes is found before the first step (`size_requirements`).

    A batch may be uint8 (``PairedCropDataset`` with ``output: uint8``): it becomes float on the device. With a key
    ``orientation`` (see `turned`) it is turned there as well.
    """

    memory_format = torch.contiguous_format

    def __init__(self, opt: Mapping[str, Any]) -> None:
        network = dict(opt["network_g"])
        self.lora = network.pop("lora", None)
        self.trained_with = training_options(opt)  # before anything takes keys out of its sections
        super().__init__({**opt, "network_g": network})

    def init_training_settings(self) -> None:
        """Build everything that only training needs."""
        train_opt = self.opt["train"]
        logger = get_root_logger()
        check_patch(self.opt, self.size_requirements, type(self.get_bare_model(self.net_g)).__name__)
        self.net_g.train()
        lora.freeze_statistics(self.net_g)
        self.precision = Precision(train_opt.get("precision", "fp32"), self.device)
        if train_opt.get("channels_last", False):
            # Convolutions follow their input; small kernels are turned in no time, and DistributedDataParallel keeps
            # the order in which it knows them.
            self.memory_format = torch.channels_last
        self.forward = CompiledForward(self.net_g, train_opt.get("compile"), logger)
        self.accumulate_steps = int(train_opt.get("accumulate_steps", 1))
        self.guard = StepGuard(int(train_opt.get("max_bad_steps", 100)), self.device, self.stop)
        self.throughput = log.Throughput(self.opt["world_size"])
        self.ema_decay = float(train_opt.get("ema_decay", 0))
        if self.ema_decay > 0:
            self.ema_warmup = bool(train_opt.get("ema_warmup", True))
            logger.info(f"Use Exponential Moving Average with decay: {self.ema_decay}{', warmed up' * self.ema_warmup}")
            self.net_g_ema = self.build_average()
        self.criteria = self.build_losses()
        self.setup_optimizers()
        self.setup_schedulers()
        self.warm_up = WarmUp(self.optimizers)
        self.parameters = [p for group in self.optimizer_g.param_groups for p in group["params"]]
        self.statistics = RunningStatistics(self.net_g)
        self.loss_terms: Mapping[str, Tensor] = {}

    # --- networks ---------------------------------------------------------------------------------------------

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """Put LoRA into the network, if asked to, before DistributedDataParallel looks at what it trains."""
        placed: nn.Module = super().model_to_device(lora.put(net, self.lora))
        return placed

    def build_average(self) -> nn.Module:
        """The running average: as in the file training starts from, if it has one, else the network itself."""
        average: nn.Module = lora.put(build_network(self.opt["network_g"]), self.lora).to(self.device)
        path = self.opt["path"].get("pretrain_network_g")
        try:
            state = read_state_dict(path, "params_ema") if path else {}
        except WeightsError:
            state = {}  # the network itself was read from this file, under another key
        # Names of another dialect (a fused kernel) would be expanded another way than the network's were.
        if state.keys() == average.state_dict().keys() and mismatch(average, state) is None:
            average.load_state_dict(state)
        else:
            update_average(average, self.get_bare_model(self.net_g), 0)
        return average.eval().requires_grad_(False)

    def model_ema(self, decay: float = 0.999) -> None:
        """Update the running average, buffers included, in one call."""
        update_average(self.net_g_ema, self.get_bare_model(self.net_g), decay)

    # --- losses, optimizer, schedule --------------------------------------------------------------------------

    def build_losses(self) -> dict[str, nn.Module]:
        """A loss for each section ``<name>_opt`` of ``train:`` (the optimizer's is called ``optim_g``).

        Raises:
            ValueError: There is none.
            DscsrError: Two have the same name in the log.
        """
        sections = {key[: -len("_opt")]: value for key, value in self.opt["train"].items() if key.endswith("_opt")}
        log.check_names([name for name, section in sections.items() if section])
        criteria = {name: self.build_criterion(name, section) for name, section in sections.items() if section}
        if not criteria:
            raise ValueError("Expected at least one loss, such as `train: pixel_opt:`, but got none. Add a section.")
        return criteria

    def build_criterion(self, name: str, section: dict[str, Any]) -> nn.Module:
        """The loss of the section ``<name>_opt``."""
        criterion: nn.Module = build_loss(section).to(self.device)
        return criterion

    def setup_optimizers(self) -> None:
        """One optimizer for all that is trained; what is frozen is counted in one line."""
        section = dict(self.opt["train"]["optim_g"])
        everything = list(self.net_g.parameters())
        trained = [parameter for parameter in everything if parameter.requires_grad]
        if len(trained) < len(everything):
            count, total = (sum(p.numel() for p in some) for some in (trained, everything))
            get_root_logger().info(f"{count:,} of {total:,} parameters are trained, the others are frozen.")
        self.optimizer_g = self.get_optimizer(section.pop("type"), trained, **section)
        self.optimizers.append(self.optimizer_g)

    def get_optimizer(self, optim_type: str, params: Any, lr: float, **kwargs: Any) -> torch.optim.Optimizer:
        """Any optimizer of torch."""
        return build_optimizer(optim_type, params, lr=lr, **kwargs)

    def setup_schedulers(self) -> None:
        """BasicSR's schedules as BasicSR builds them; any other from torch."""
        section = dict(self.opt["train"]["scheduler"])
        name = section.pop("type")
        self.basicsr_schedule = name in BASICSR_SCHEDULERS
        if self.basicsr_schedule:
            super().setup_schedulers()
        else:
            self.schedulers += [scheduler_class(name)(optimizer, **section) for optimizer in self.optimizers]

    def step_schedule(self, current_iter: int, warmup_iter: int) -> None:
        """Step the schedules, then put BasicSR's linear warm-up on top."""
        if self.basicsr_schedule:
            super().step_schedule(current_iter, warmup_iter)
            return
        self.warm_up.before_step()
        if current_iter > 1:
            for scheduler in self.schedulers:
                scheduler.step()
        if current_iter < warmup_iter:
            self.warm_up.after_step()
            self._set_lr([[rate / warmup_iter * current_iter for rate in rates] for rates in self._get_init_lr()])

    # --- a step -----------------------------------------------------------------------------------------------

    def feed_data(self, data: Mapping[str, Any]) -> None:
        """Take a batch to the device; turn it there, if it says how; make it float in [0, 1] there, if it is uint8."""
        check_batch(data, ["lq"])
        for name in ("lq", "gt"):
            if name in data:
                images = data[name].to(self.device, non_blocking=True)
                if "orientation" in data:
                    images = turned(images, data["orientation"].to(self.device, non_blocking=True))
                setattr(self, name, as_float(images, self.memory_format))

    def optimize_parameters(self, current_iter: int) -> None:
        """One step of the optimizer on the current batch, unless loss or gradients are not finite."""
        check_batch(vars(self), ["gt"])
        self.restore_random_state()
        self.iteration = current_iter
        self.optimizer_g.zero_grad(set_to_none=True)
        self.statistics.remember()
        self.loss_terms = self._accumulate()
        self._step()
        if self.ema_decay > 0:
            self.model_ema(decay=warmed_up(self.ema_decay, self.ema_updates) if self.ema_warmup else self.ema_decay)
            self.ema_updates += 1
        self.throughput.add(len(self.lq))
        # On a GPU the counters are read now and then only: reading waits for the device.
        if self.device.type == "cpu" or current_iter % min(50, self.guard.max_bad_steps) == 0:
            self.guard.check(current_iter, self.loss_terms, self.last_checkpoint)

    def _accumulate(self) -> dict[str, Tensor]:
        """Gradients of the whole batch, part by part; gives its losses."""
        number_of_parts = min(self.accumulate_steps, len(self.lq))
        parts = list(zip(self.lq.tensor_split(number_of_parts), self.gt.tensor_split(number_of_parts), strict=True))
        terms: dict[str, Tensor] = OrderedDict()
        for number, (lq, gt) in enumerate(parts, start=1):
            share = len(lq) / len(self.lq)
            with self._ranks_wait_unless(number < len(parts)):
                losses = self.compute_losses(lq, gt)
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
            losses |= log.named(name, self.compute_loss(name, self.output, gt))
        return losses

    def run_network(self, lq: Tensor) -> Tensor:
        """The one forward of a part of a batch, under autocast."""
        output: Tensor = self.forward(lq)
        return output

    def compute_loss(self, name: str, output: Tensor, gt: Tensor) -> Any:
        """The loss of this name: a scalar, or BasicSR's pair (perceptual, style)."""
        return self.criteria[name](output, gt)

    def _ranks_wait_unless(self, more_to_come: bool) -> AbstractContextManager[Any]:
        if isinstance(self.net_g, DistributedDataParallel) and more_to_come:
            return self.net_g.no_sync()
        return nullcontext()

    def _step(self) -> None:
        scaler = self.precision.scaler
        scaler.unscale_(self.optimizer_g)
        norm = clip_gradients(self.parameters, self.opt["train"].get("grad_clip_norm"))
        total = torch.stack([loss.float() for loss in self.loss_terms.values()]).sum()
        bad = self.guard.step(self.optimizer_g, total, norm, scaler)
        self.statistics.put_back_if(bad)

    # --- what a person sees, and when the clock stands ---------------------------------------------------------

    def get_current_log(self) -> dict[str, float]:
        """Losses averaged over the ranks, images per second, peak memory; skipped steps if there were any."""
        figures: dict[str, float] = OrderedDict(log.reduced(self.loss_terms))
        if (rate := self.throughput.read()) is not None:
            figures["images_per_s"] = rate
        figures["peak_memory_gib"] = log.peak_memory_gib(self.device)
        if skipped := self.guard.total:
            figures["skipped_steps"] = skipped
        return figures

    def save(self, epoch: int, current_iter: int) -> None:
        """Save, outside the time that images per second are counted in."""
        with self.throughput.paused():
            super().save(epoch, current_iter)

    def nondist_validation(self, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool) -> None:
        """Validate, outside the time that images per second are counted in."""
        with self.throughput.paused() if self.is_train else nullcontext():
            super().nondist_validation(dataloader, current_iter, tb_logger, save_img)

"""SRModel in a training that may end at any moment: checkpoints that are whole, finite, and resume exactly."""

from __future__ import annotations

import math
import signal
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from basicsr.utils import get_root_logger
from torch import nn

from dscsr_arch.metadata import beside
from dscsr_model.data.keyed_samples import GENERATORS
from dscsr_model.models.validating_sr_model import ValidatingSRModel
from dscsr_model.options.sections import LoggerSection
from dscsr_model.training import checkpoints, lora
from dscsr_model.training.checkpoints import Checkpoints
from dscsr_model.training.optimizers import take_over
from dscsr_model.training.ranks import gathered
from dscsr_model.training.stages import Stage, announcement, cost_until, stage_at, stages_of
from dscsr_model.training.stopping import Stopped
from dscsr_model.training.validation import BestResults


class CheckpointingSRModel(ValidatingSRModel):
    """Atomic, finite, resumable checkpoints in BasicSR's folders and formats; validations are remembered with them.

    Attributes:
        iteration: The last that was trained.
        epoch: In which it is; the loop is made to set it.
        stopped_by: The signal that has ended the training, or 0.
    """

    iteration: int | None = None
    epoch: int = 0
    stopped_by: int = 0
    validates_start = False  # whether a new run validates the network that it starts from, as iteration 0
    _schedule_at = 0
    _random_state_to_restore: dict[str, Any] | None = None

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self.trained_with = checkpoints.training_options(opt)  # before anything takes keys out of its sections
        self.stages = stages_of(opt["train"] if opt["is_train"] else {}, opt["datasets"].get("train") or {})
        self.stage = self.stages[0]
        super().__init__(opt)

    @cached_property
    def checkpoints(self) -> Checkpoints:
        """The files of this run."""
        models, states = (Path(self.opt["path"][name]) for name in ("models", "training_states"))
        return Checkpoints(models, states, LoggerSection.parse(self.opt["logger"], "logger").keep_checkpoints)

    @cached_property
    def best(self) -> BestResults:
        """The best scores of this run."""
        return BestResults.of_options(self.opt, self.val.best_metric, self.labels, tuple(self.networks))

    @property
    def network(self) -> nn.Module:
        """That of the `networks` which scored best in the last validation; the average before there is one."""
        return self.networks.get(self.best.preferred, self.get_bare_model(self.net_g))

    @property
    def best_metric_results(self) -> dict[str, Any]:
        """What BasicSR's lines of the log tell of the best scores; of a test there are none."""
        if not self.is_train:
            raise AttributeError("best_metric_results")
        return self.best.records

    # --- saving -----------------------------------------------------------------------------------------------

    def save(self, epoch: int, current_iter: int) -> None:
        """Save network, average and training state; the state last, since resuming looks for it."""
        last = current_iter == -1  # the end of the training, which a last validation follows
        if last:
            self.end_if_asked()
            if self.stop.share >= 1 and self.iteration not in (None, self.checkpoints.iteration):
                self.save(self.epoch, self.iteration)  # time has ended it, in whatever iteration
        else:
            self.checkpoints.iteration = current_iter
        with GENERATORS:
            mine = checkpoints.random_state()
        random_states = gathered(mine)
        if self.opt["rank"] != 0:
            return
        networks = self.finite_networks()
        if networks is None:
            get_root_logger().error(
                f"Checkpoint {current_iter} is not saved: its weights are not finite. The last good one is "
                f"{self.checkpoints.last or 'none yet'}."
            )
            return
        path = self.save_networks(networks, "latest" if last else str(current_iter))
        if not last:
            self.checkpoints.save_state(self.training_state(epoch, current_iter) | {"random_states": random_states})
        self.checkpoints.last = path

    def finite_networks(self) -> dict[str, Any] | None:
        """What a network file holds: ``params`` and, with an average, ``params_ema``; None if not all is finite."""
        return checkpoints.finite_states({f"params{ending}": network for ending, network in self.networks.items()})

    def save_networks(self, content: dict[str, Any], label: str) -> Path:
        """Save ``net_g_<label>.pth``; before it, for a network with LoRA, what `lora_files` makes of `network`.

        Files say what shapes cannot tell (see `metadata`), and of two networks which is `network`. Returns the path.
        """
        section = self.opt["network_g"]
        for kind, file in lora.lora_files(self.network, section).items():
            self.checkpoints.save_network(file, label, f"{kind}_g")
        preferred = f"params{self.best.preferred}" if "params_ema" in content else None
        return self.checkpoints.save_network(content | beside(self.network, section, preferred), label)

    def training_state(self, epoch: int, current_iter: int) -> dict[str, Any]:
        """What a training state holds, in types that ``weights_only`` loads; BasicSR's own keys first."""
        return {
            "epoch": epoch,
            "iter": current_iter,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
            "options": self.trained_with,
            "manual_seed": self.opt.get("manual_seed"),
            **({"seconds": self.stop.clock.seconds} if self.stop.clock.limit else {}),
            **self.best.state(),
        }

    # --- stopping and resuming --------------------------------------------------------------------------------

    def end_if_asked(self) -> None:
        """Stop here, between two steps, if a signal has asked all ranks to."""
        if self.stop.agreed:
            self.end(self.stop.agreed)

    def end(self, signal_number: int) -> NoReturn:
        """Save what is not saved, say how to go on, and end the process.

        Raises:
            Stopped: Always.
        """
        if self.iteration is not None and self.iteration != self.checkpoints.iteration:
            self.save(self.epoch, self.iteration)
        line = f"Stopped by {signal.Signals(signal_number).name}"
        if self.checkpoints.last is None:
            line += ". No iteration was trained, and nothing is saved."
        else:
            line += (
                f" after iteration {self.iteration}. The last checkpoint is {self.checkpoints.last}: the same command "
                "with `--auto_resume` goes on from it."
            )
        get_root_logger().info(line)
        self.stopped_by = signal_number
        raise Stopped(signal_number)

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """Begin an iteration: the last place to stop before it. Then its stage and its learning rate."""
        self.end_if_asked()
        if (stage := stage_at(self.stages, current_iter)) is not self.stage:
            self.begin_stage(stage)
            self.progress.begin_stage(current_iter - 1, line := announcement(self.stages, stage.number))
            get_root_logger().info(line)
        self.advance_schedule(current_iter, warmup_iter)

    def begin_stage(self, stage: Stage) -> None:
        """Go on under the options of a stage."""
        self.stage = stage
        self._schedule_at = stage.schedule_after

    def advance_schedule(self, current_iter: int, warmup_iter: int) -> None:
        """Step the schedule to this iteration, or further, where time is to end the training before `total_iter`."""
        to, warmup_iter = self.scheduled_iteration(current_iter), self.stage.train.get("warmup_iter", warmup_iter)
        for passed in range(self._schedule_at + 1, to + 1):
            self.step_schedule(passed - self.stage.schedule_after, warmup_iter)
        self._schedule_at = to

    def scheduled_iteration(self, current_iter: int) -> int:
        """Which iteration it would be if time did not end the training: the share of the time, of `total_iter`."""
        if not self.stop.clock.limit:
            return current_iter
        total = int(self.opt["train"]["total_iter"])
        return max(current_iter, min(math.ceil(self.stop.share * total), total))

    def expected_iterations(self, current_iter: int) -> int:
        """How many iterations the training will have had in the end; more than it has had, until it ends."""
        total = int(self.opt["train"]["total_iter"])
        if not current_iter:
            return total
        scheduled = self.scheduled_iteration(current_iter)
        return max(round(current_iter * total / scheduled), current_iter + (scheduled < total))

    def iterations_left(self, current_iter: int, since: int) -> float:
        """How many iterations are to come, of the length that those after ``since`` had, by the pixels they see."""
        here = cost_until(self.stages, current_iter)
        rest = cost_until(self.stages, self.expected_iterations(current_iter)) - here
        return rest * (current_iter - since) / (here - cost_until(self.stages, since))

    def step_schedule(self, current_iter: int, warmup_iter: int) -> None:
        """As BasicSR's ``update_learning_rate``."""
        super().update_learning_rate(current_iter, warmup_iter)

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        """Go on under the options of today: what an option decides is never taken from the checkpoint.

        The schedule is that of these options since the first iteration, which without a change is what it was. The
        networks were loaded when the model was built: BasicSR's ``check_resume`` points there. The random state is put
        back at the next step. Best results are known that came after the checkpoint, too.
        """
        logger, iteration = get_root_logger(), resume_state["iter"]
        for line in checkpoints.changed_options(resume_state.get("options", self.trained_with), self.trained_with):
            logger.info(line)
        if (stage := stage_at(self.stages, iteration)) is not self.stage:
            self.begin_stage(stage)
        for optimizer, saved in zip(self.optimizers, resume_state["optimizers"], strict=True):
            if not take_over(optimizer, saved):
                logger.info("The optimizer remembers other things than it did before: it starts anew.")
            optimizer._opt_called = True  # it has stepped; without this torch warns that it should before the schedule
        self.stop.resume(resume_state.get("seconds", 0))
        self.advance_schedule(iteration, self.opt["train"].get("warmup_iter", -1))
        self.iteration = iteration
        self.checkpoints.resume(iteration, remove=self.opt["rank"] == 0)
        after = checkpoints.read_if_whole(checkpoints.validation_record(self.checkpoints.states, iteration))
        best = checkpoints.read_if_whole(self.checkpoints.models / "net_g_best.pth").get("best")
        self.best.load_state(after or resume_state, best)
        if "random_states" not in resume_state:
            logger.warning(
                "This checkpoint was not written by EfficientSRModel: the optimizer goes on, random draws and the "
                "loss scale start anew."
            )
        elif len(resume_state["random_states"]) == self.opt["world_size"]:
            self._random_state_to_restore = resume_state["random_states"][self.opt["rank"]]

    def restore_random_state(self) -> None:
        """Put the random state back, once, after a resume. Not earlier: starting a data loader draws numbers."""
        if self._random_state_to_restore is not None:
            with GENERATORS:
                checkpoints.restore_random_state(self._random_state_to_restore)
            self._random_state_to_restore = None

    # --- validation -------------------------------------------------------------------------------------------

    def validate_start(self, dataloaders: list[Any], current_iter: int, tb_logger: Any) -> None:
        """Before the first step: what training starts from, if that is due and was not done.

        Due is a new run's base (`validates_start`), and after a resume what BasicSR's loop validates at this
        iteration: it saves first, so a kill can come between the checkpoint and its validation.
        """
        freq = self.val.val_freq
        if freq is None or not (current_iter % freq == 0 if current_iter else self.validates_start):
            return
        done = self.best.validated_at
        pending = [loader for loader in dataloaders if done.get(loader.dataset.opt["name"]) != current_iter]
        if pending:
            get_root_logger().info(f"Validating iteration {current_iter}, which training starts from.")
        for loader in pending:
            self.validation(loader, current_iter, tb_logger, self.val.save_img)

    def validation(self, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool = False) -> None:
        """Validate; in training under the iteration of the last step, and only once.

        BasicSR's loop validates when training has ended, whether or not it just did, one iteration too high.
        """
        if not self.is_train:
            super().validation(dataloader, current_iter, tb_logger, save_img)
            return
        name = dataloader.dataset.opt["name"]
        current_iter = current_iter if self.iteration is None else min(current_iter, self.iteration)
        if self.best.validated_at.get(name) == current_iter:
            return
        try:
            super().validation(dataloader, current_iter, tb_logger, save_img)
        except Stopped as stopped:
            self.end(stopped.signal_number)
        self.best.validated_at[name] = current_iter
        if self.opt["rank"] == 0:
            if tb_logger:
                tb_logger.flush()  # what is recorded here will not be validated again
            self.checkpoints.save_record(current_iter, self.best.state())

    def _log_validation_metric_values(self, current_iter: Any, dataset_name: str, tb_logger: Any) -> None:
        """Log the scores, with the best ones so far; save ``net_g_best.pth`` if the deciding one is among these."""
        before = self.best.preferred
        if self.is_train:
            self.best.update(dataset_name, self.metric_results, current_iter)
            self.progress.say(self.best.line(dataset_name, self.metric_results, current_iter))
        if self.best.preferred != before:
            self._prefer(current_iter)
        super()._log_validation_metric_values(current_iter, dataset_name, tb_logger)
        found = self.best.of(dataset_name, current_iter) if self.is_train else None
        networks = self.finite_networks() if found else None
        if found and networks:
            path = self.save_networks(networks | {"best": found}, "best")
            get_root_logger().info(f"Best {found['metric']} on {dataset_name} so far: saved as {path.name}.")

    def _prefer(self, iteration: int) -> None:
        """Save once more what was saved of an iteration before its validation, which prefers the other network."""
        get_root_logger().info(f"From here on `params{self.best.preferred}` are preferred: they scored better.")
        if networks := self.finite_networks():
            for label in self.checkpoints.labels(iteration):
                self.save_networks(networks, label)

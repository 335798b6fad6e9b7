"""SRModel with checkpoints that are whole, finite and resume exactly."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger
from torch import distributed, nn

from dscsr_arch.arguments import trained_otherwise
from dscsr_arch.checkpoint import mismatch
from dscsr_arch.errors import WeightsError
from dscsr_arch.low_rank import lora_ranks
from dscsr_arch.metadata import beside
from dscsr_arch.weight_files import read_weight_file
from dscsr_model.data.keyed_dataset import GENERATORS
from dscsr_model.files import remove_unfinished
from dscsr_model.training import checkpoints, lora
from dscsr_model.training.guards import all_finite
from dscsr_model.training.optimizers import take_over
from dscsr_model.training.precision import Precision
from dscsr_model.training.stopping import Stopped, StopRequest


class CheckpointingSRModel(SRModel):
    """Atomic, finite, resumable checkpoints in BasicSR's folders and formats.

    A subclass sets ``lora``, its section of the options, before networks are loaded, and ``precision``, whose state
    belongs to a checkpoint, in ``init_training_settings``.
    """

    net_g: nn.Module
    net_g_ema: nn.Module
    lora: Mapping[str, Any] | None
    ema_updates: int = 0
    precision: Precision
    trained_with: dict[str, Any]
    last_checkpoint: str | None = None
    iteration: int | None = None  # the last that was trained
    epoch: int = 0  # as the loop counts it
    _saved: int | None = None
    _random_state_to_restore: dict[str, Any] | None = None

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self.stop = StopRequest()
        super().__init__(opt)

    def load_network(
        self, net: nn.Module, load_path: str, strict: bool = True, param_key: str | None = "params"
    ) -> None:
        """Load weights in any dialect of `read_state_dict`.

        Raises:
            WeightsError: They do not fit, or were trained as another network, as their file says (unless ``strict`` is
                false). Nothing has changed then.
        """
        net = self.get_bare_model(net)
        if param_key is None and self.opt["path"].get("resume_state"):
            param_key = "params"  # `~` would prefer the averaged weights of the run's own file
        try:
            file = read_weight_file(load_path, param_key)
        except WeightsError:
            file = read_weight_file(load_path)  # another wrapping; a damaged file fails again, and says why
            get_root_logger().info(f"No `{param_key}` in {load_path}: the weights that it has are taken.")
        get_root_logger().info(f"Loading {net.__class__.__name__} model from {load_path}.")
        fault = mismatch(net, file.weights) or trained_otherwise(file, load_path, net, self.opt["network_g"])
        if strict and fault:
            raise WeightsError(f"{load_path} does not fit {net.__class__.__name__}:\n{fault}")
        if not strict:
            self._print_different_keys_loading(net, file.weights, strict)
        net.load_state_dict(file.weights, strict=strict)
        if not lora_ranks(file.weights):  # a base; a whole state has adapters of its own
            lora.start_from(net, self.lora, get_root_logger().warning)

    def save(self, epoch: int, current_iter: int) -> None:
        """Save network, average and training state; the state last, since resuming looks for it."""
        if current_iter == -1:  # the end of the training, which a last validation follows
            self.end_if_asked()
        else:
            self._saved = current_iter
        random_states = self._everyones_random_state()
        if self.opt["rank"] != 0:
            return
        networks = self.finite_networks()
        if networks is None:
            get_root_logger().error(
                f"Checkpoint {current_iter} is not saved: its weights are not finite. The last good one is "
                f"{self.last_checkpoint or 'none yet'}."
            )
            return
        models, states = (Path(self.opt["path"][name]) for name in ("models", "training_states"))
        path = self.save_networks(networks, "latest" if current_iter == -1 else str(current_iter))
        if current_iter != -1:
            state = self.training_state(epoch, current_iter) | {"random_states": random_states}
            checkpoints.validation_record(states, current_iter).unlink(missing_ok=True)  # of a run that was undone
            checkpoints.save(state, states / f"{current_iter}.state")
            if keep := self.opt["logger"].get("keep_checkpoints"):
                checkpoints.prune(states, models, int(keep))
        self.last_checkpoint = str(path)

    def end_if_asked(self) -> None:
        """Stop here, between two steps, if a signal has asked all ranks to."""
        if self.stop.agreed:
            self.end(self.stop.agreed)

    def end(self, signal_number: int) -> NoReturn:
        """Save what is not saved, say how to go on, and end the process.

        Raises:
            Stopped: Always.
        """
        if self.iteration is not None and self.iteration != self._saved:
            self.save(self.epoch, self.iteration)
        name = signal.Signals(signal_number).name
        logger = get_root_logger()
        if self.last_checkpoint is None:
            logger.info(f"Stopped by {name}. No iteration was trained, and nothing is saved.")
        else:
            logger.info(
                f"Stopped by {name} after iteration {self.iteration}. The last checkpoint is {self.last_checkpoint}: "
                "the same command with `--auto_resume` goes on from it."
            )
        raise Stopped(signal_number)

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """Begin an iteration: the last place to stop before it. Then its learning rate."""
        self.end_if_asked()
        self.step_schedule(current_iter, warmup_iter)

    def step_schedule(self, current_iter: int, warmup_iter: int) -> None:
        """As BasicSR's ``update_learning_rate``."""
        super().update_learning_rate(current_iter, warmup_iter)

    def finite_networks(self) -> dict[str, Any] | None:
        """What a network file holds: ``params`` and, with an average, ``params_ema``; None if not all is finite."""
        named = {"params": self.net_g}
        if hasattr(self, "net_g_ema"):
            named["params_ema"] = self.net_g_ema
        networks = {key: _on_cpu(self.get_bare_model(net)) for key, net in named.items()}
        return networks if all(all_finite(state) for state in networks.values()) else None

    def save_networks(self, content: dict[str, Any], label: str) -> Path:
        """Save ``net_g_<label>.pth``; before it, for a network with LoRA, its parts (see `lora.parts`).

        The parts are those of the average, if there is one. Files say what shapes cannot tell (see `metadata`).
        Returns the path of the network.
        """
        models, section = Path(self.opt["path"]["models"]), self.opt["network_g"]
        network = self.get_bare_model(getattr(self, "net_g_ema", self.net_g))
        for kind, part in lora.parts(network, section).items():
            checkpoints.save(part, models / f"{kind}_g_{label}.pth")
        checkpoints.save(content | beside(network, section), models / f"net_g_{label}.pth")
        return models / f"net_g_{label}.pth"

    def training_state(self, epoch: int, current_iter: int) -> dict[str, Any]:
        """What a training state holds, in types that ``weights_only`` loads; BasicSR's own keys first."""
        return {
            "epoch": epoch,
            "iter": current_iter,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
            "options": self.trained_with,
            "ema_updates": self.ema_updates,
            "scaler": self.precision.scaler.state_dict(),
            "manual_seed": self.opt.get("manual_seed"),
        }

    def _everyones_random_state(self) -> list[dict[str, Any]]:
        with GENERATORS:
            mine = checkpoints.random_state()
        if not self.opt["dist"]:
            return [mine]
        everyones: list[dict[str, Any]] = [{} for _ in range(distributed.get_world_size())]
        distributed.all_gather_object(everyones, mine)
        return everyones

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        """Go on under the options of today: what an option decides is never taken from the checkpoint.

        The schedule is that of these options since the first iteration, which without a change is what it was. The
        networks were loaded when the model was built: BasicSR's ``check_resume`` points there. The random state is put
        back at the next step.
        """
        logger, iteration = get_root_logger(), resume_state["iter"]
        for line in checkpoints.changed_options(resume_state.get("options", self.trained_with), self.trained_with):
            logger.info(line)
        for optimizer, saved in zip(self.optimizers, resume_state["optimizers"], strict=True):
            if not take_over(optimizer, saved):
                logger.info("The optimizer remembers other things than it did before: it starts anew.")
            optimizer._opt_called = True  # it has stepped; without this torch warns that it should before the schedule
        for past in range(1, iteration + 1):
            self.step_schedule(past, self.opt["train"].get("warmup_iter", -1))
        self.iteration = self._saved = iteration
        if hasattr(self, "net_g_ema"):  # else one that is asked for later starts anew
            self.ema_updates = resume_state.get("ema_updates", iteration)
        models, states = (Path(self.opt["path"][name]) for name in ("models", "training_states"))
        if self.opt["rank"] == 0:
            remove_unfinished(models, states)
        self.last_checkpoint = str(models / f"net_g_{iteration}.pth")
        if "random_states" not in resume_state:
            logger.warning(
                "This checkpoint was not written by EfficientSRModel: the optimizer goes on, random draws and the "
                "loss scale start anew."
            )
            return
        if resume_state["scaler"]:  # that of another precision is empty
            self.precision.scaler.load_state_dict(resume_state["scaler"])
        random_states = resume_state["random_states"]
        if len(random_states) == self.opt["world_size"]:
            self._random_state_to_restore = random_states[self.opt["rank"]]

    def restore_random_state(self) -> None:
        """Put the random state back, once, after a resume. Not earlier: starting a data loader draws numbers."""
        if self._random_state_to_restore is not None:
            with GENERATORS:
                checkpoints.restore_random_state(self._random_state_to_restore)
            self._random_state_to_restore = None


def _on_cpu(network: nn.Module) -> dict[str, Any]:
    return {name: tensor.cpu() for name, tensor in network.state_dict().items()}

"""SRModel with checkpoints that are whole, finite and resume exactly; EfficientSRModel stands on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger
from torch import distributed, nn

from dscsr_arch.checkpoint import WeightsError, read_pickle, save_state_dict
from dscsr_model.training import checkpoints
from dscsr_model.training.guards import all_finite
from dscsr_model.training.optimizers import WarmUp
from dscsr_model.training.precision import Precision


class CheckpointingSRModel(SRModel):
    """Atomic, finite, resumable checkpoints in BasicSR's folders and formats.

    ``init_training_settings`` of a subclass sets ``precision`` and ``warm_up``, whose states belong to a checkpoint.
    """

    net_g: nn.Module
    net_g_ema: nn.Module
    precision: Precision
    warm_up: WarmUp
    last_checkpoint: str | None = None
    _random_state_to_restore: dict[str, Any] | None = None

    def save(self, epoch: int, current_iter: int) -> None:
        """Save network, average and training state; the state last, since resuming looks for it."""
        states = self._everyones_random_state()
        if self.opt["rank"] != 0:
            return
        networks = self._networks()
        if not all(all_finite(state) for state in networks.values()):
            get_root_logger().error(
                f"Checkpoint {current_iter} is not saved: its weights are not finite. {self.last_checkpoint or 'None'} "
                "is the last good one."
            )
            return
        label = "latest" if current_iter == -1 else current_iter
        path = Path(self.opt["path"]["models"], f"net_g_{label}.pth")
        save_state_dict(networks, path)
        if current_iter != -1:
            state = self._training_state(epoch, current_iter) | {"random_states": states}
            save_state_dict(state, Path(self.opt["path"]["training_states"], f"{current_iter}.state"))
            self._prune()
        self.last_checkpoint = str(path)

    def _networks(self) -> dict[str, Any]:
        named = {"params": self.net_g}
        if hasattr(self, "net_g_ema"):
            named["params_ema"] = self.net_g_ema
        return {key: _on_cpu(self.get_bare_model(net)) for key, net in named.items()}

    def _training_state(self, epoch: int, current_iter: int) -> dict[str, Any]:
        return {
            "epoch": epoch,
            "iter": current_iter,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
            "warm_up": self.warm_up.state_dict(),
            "scaler": self.precision.scaler.state_dict(),
            "best_metric_results": getattr(self, "best_metric_results", {}),
        }

    def _everyones_random_state(self) -> list[dict[str, Any]]:
        mine = checkpoints.random_state()
        if not self.opt["dist"]:
            return [mine]
        everyones: list[dict[str, Any]] = [{} for _ in range(distributed.get_world_size())]
        distributed.all_gather_object(everyones, mine)
        return everyones

    def _prune(self) -> None:
        keep = self.opt["logger"].get("keep_checkpoints")
        if keep:
            path = self.opt["path"]
            checkpoints.prune(Path(path["training_states"]), Path(path["models"]), int(keep))

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        """Take over optimizer, schedule, loss scale, best results, and, at the next step, the random state.

        The networks themselves were loaded when the model was built: BasicSR's ``check_resume`` points there.
        """
        super().resume_training(resume_state)
        if "warm_up" not in resume_state:
            get_root_logger().warning("This checkpoint was not written by EfficientSRModel: random state starts anew.")
            return
        self.warm_up.load_state_dict(resume_state["warm_up"])
        self.precision.scaler.load_state_dict(resume_state["scaler"])
        self.best_metric_results = resume_state["best_metric_results"]
        self._recall_best()
        states = resume_state["random_states"]
        if len(states) == self.opt["world_size"]:
            self._random_state_to_restore = states[self.opt["rank"]]
        path = Path(self.opt["path"]["models"], f"net_g_{resume_state['iter']}.pth")
        self.last_checkpoint = str(path)

    def before_step(self, current_iter: int) -> None:
        """Put the random state back, after a resume. Not earlier: building data loaders draws random numbers."""
        if self._random_state_to_restore is not None:
            checkpoints.restore_random_state(self._random_state_to_restore)
            self._random_state_to_restore = None

    # --- the best network -------------------------------------------------------------------------------------

    def keep_best(self, dataset_name: str, current_iter: int) -> None:
        """Save ``net_g_best.pth`` if this validation of the deciding data set was the best so far."""
        deciding, metric = self._deciding()
        if dataset_name != deciding:
            return
        record = self.best_metric_results[deciding][metric]
        if record["iter"] != current_iter:
            return
        networks = self._networks()
        if all(all_finite(state) for state in networks.values()):
            save_state_dict(networks | {"best": {"dataset": deciding, "metric": metric, **record}}, self._best_path())
            get_root_logger().info(f"Best so far by {metric} on {deciding}: saved as {self._best_path().name}.")

    def _deciding(self) -> tuple[str, str]:
        """Data set and metric that choose the best network: the first of each, unless ``val: best_metric`` says so."""
        sets = [section["name"] for phase, section in self.opt["datasets"].items() if phase.split("_")[0] == "val"]
        return sets[0], self.opt["val"].get("best_metric") or next(iter(self.opt["val"]["metrics"]))

    def _best_path(self) -> Path:
        return Path(self.opt["path"]["models"], "net_g_best.pth")

    def _recall_best(self) -> None:
        """Know a best network that was saved after the checkpoint we resume from."""
        path = self._best_path()
        if not path.is_file():
            return
        try:
            best = read_pickle(path).get("best")
        except WeightsError:
            return
        if best is None or best["dataset"] not in self.best_metric_results:
            return
        known = self.best_metric_results[best["dataset"]].get(best["metric"])
        sign = 1 if best["better"] == "higher" else -1
        if known is not None and sign * (best["val"] - known["val"]) > 0:
            known.update({key: best[key] for key in ("better", "val", "iter")})


def _on_cpu(network: nn.Module) -> dict[str, Any]:
    return {name: tensor.cpu() for name, tensor in network.state_dict().items()}

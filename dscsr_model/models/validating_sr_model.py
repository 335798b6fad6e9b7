"""SRModel that validates in tiles and orientations, shared among ranks, and keeps the best network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from basicsr.utils import get_root_logger, tensor2img
from torch import Tensor, nn

from dscsr_arch.checkpoint import read_pickle
from dscsr_arch.errors import WeightsError
from dscsr_arch.sizes import SizeRequirements, padded, size_requirements
from dscsr_model.models.checkpointing_sr_model import CheckpointingSRModel
from dscsr_model.models.scoring import finish_image
from dscsr_model.tiling import self_ensemble, tiled
from dscsr_model.training import checkpoints
from dscsr_model.training.images import as_float
from dscsr_model.training.stopping import Stopped
from dscsr_model.training.validation import Images, evaluating, validate


class ValidatingSRModel(CheckpointingSRModel):
    """Validation in bounded memory, with BasicSR's metrics, log lines and result images.

    Networks are validated in float32, whatever the precision of training: so they will be measured later.
    """

    best_metric_results: dict[str, dict[str, dict[str, Any]]]
    validates_start = False  # whether a new run validates the network that it starts from, as iteration 0

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self.validated_at: dict[str, int] = {}  # validation set to the iteration of its last validation
        super().__init__(opt)

    def test(self) -> None:
        """Super-resolve the current batch."""
        self.output = self.super_resolve()

    @cached_property
    def size_requirements(self) -> SizeRequirements:
        """Sizes that the network takes.

        Raises:
            SizeError: None that could be found.
        """
        network: nn.Module = self.get_bare_model(self.net_g)
        with evaluating(network):
            return size_requirements(network)

    def super_resolve(self, **arguments: Any) -> Tensor:
        """The current batch super-resolved with the average, if there is one; in tiles and orientations as asked.

        Images of sizes that the network does not take are `padded`.

        Args:
            **arguments: Further ones of the network's ``forward``.
        """
        network: nn.Module = self.get_bare_model(getattr(self, "net_g_ema", self.net_g))
        val_opt = self.opt.get("val") or {}

        def run(x: Tensor) -> Tensor:
            output: Tensor = network(x, **arguments)
            return output.float()

        sizes = self.size_requirements
        whole = forward = partial(padded, run, requirements=sizes)
        if val_opt.get("tile"):
            tile, overlap = int(val_opt["tile"]), int(val_opt.get("tile_overlap", 32))
            whole = partial(tiled, forward, tile=tile, overlap=overlap, requirements=sizes)
        with torch.no_grad(), evaluating(network):
            return self_ensemble(whole, self.lq, sizes) if val_opt.get("self_ensemble") else whole(self.lq)

    def validate_start(self, dataloaders: Iterable[Any], current_iter: int, tb_logger: Any) -> None:
        """Before the first step: what training starts from, if that is due and was not done.

        Due is a new run's base (`validates_start`), and after a resume what BasicSR's loop validates at this
        iteration: it saves first, so a kill can come between the checkpoint and its validation.
        """
        val = self.opt.get("val") or {}
        if "val_freq" not in val or not (current_iter % val["val_freq"] == 0 if current_iter else self.validates_start):
            return
        pending = [
            loader for loader in dataloaders if self.validated_at.get(loader.dataset.opt["name"]) != current_iter
        ]
        if pending:
            get_root_logger().info(f"Validating iteration {current_iter}, which training starts from.")
        for loader in pending:
            self.validation(loader, current_iter, tb_logger, val.get("save_img", False))

    def validation(self, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool = False) -> None:
        """Validate; in training under the iteration of the last step, and only once.

        BasicSR's loop validates when training has ended, whether or not it just did, one iteration too high.
        """
        if not self.is_train:
            super().validation(dataloader, current_iter, tb_logger, save_img)
            return
        name = dataloader.dataset.opt["name"]
        current_iter = current_iter if self.iteration is None else min(current_iter, self.iteration)
        if self.validated_at.get(name) == current_iter:
            return
        super().validation(dataloader, current_iter, tb_logger, save_img)
        self.validated_at[name] = current_iter
        record = checkpoints.validation_record(Path(self.opt["path"]["training_states"]), current_iter)
        if self.opt["rank"] == 0 and record.with_suffix(".state").is_file():
            if tb_logger:
                tb_logger.flush()  # what is recorded here will not be validated again
            checkpoints.save(self._validation_state(), record)

    def dist_validation(self, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool) -> None:
        """Every rank takes its share of the images."""
        self.nondist_validation(dataloader, current_iter, tb_logger, save_img)

    def nondist_validation(self, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool) -> None:
        """Super-resolve a data set, score it as BasicSR does, log it, keep the best network."""
        dataset = dataloader.dataset
        name = dataset.opt["name"]
        try:
            scores = validate(
                dataset,
                self._super_resolve,
                self.finisher(name, current_iter, save_img),
                rank=self.opt["rank"],
                world_size=self.opt["world_size"],
                progress=bool(self.opt["val"].get("pbar", True)) and self.opt["rank"] == 0,
                asked=lambda: self.stop.asked,
            )
        except Stopped as stopped:
            self.end(stopped.signal_number)
        for metric, fault in scores.items():
            if isinstance(fault, str):
                get_root_logger().warning(f"Validation {name} without `{metric}`, which failed: {fault}")
        self.metric_results = {metric: value for metric, value in scores.items() if isinstance(value, float)}
        if self.metric_results and self.opt["rank"] == 0:  # a set without ground truth may have none
            if self.is_train:
                self._initialize_best_metric_results(name)
                for metric, value in self.metric_results.items():
                    self._update_best_metric_result(name, metric, value, current_iter)
            self._log_validation_metric_values(current_iter, name, tb_logger)
            if self.is_train:
                self._keep_best(name, current_iter)

    def _initialize_best_metric_results(self, dataset_name: str) -> None:
        """Keeps what is known of this set; metrics may be others since a resume."""
        known = getattr(self, "best_metric_results", {}).pop(dataset_name, {})
        super()._initialize_best_metric_results(dataset_name)
        for metric, record in self.best_metric_results[dataset_name].items():
            if metric in known and known[metric]["better"] == record["better"]:
                record.update(known[metric])

    def _update_best_metric_result(self, dataset_name: str, metric: str, val: float, current_iter: Any) -> None:
        """A tie is no new best."""
        if val != self.best_metric_results[dataset_name][metric]["val"]:
            super()._update_best_metric_result(dataset_name, metric, val, current_iter)

    def _super_resolve(self, batch: Mapping[str, Any]) -> Images:
        # The ground truth, the largest image of all, never needs the device.
        self.feed_data({name: value for name, value in batch.items() if name != "gt"})
        images = {name: tensor2img([output.detach().cpu()]) for name, output in self.results().items()}
        if "gt" in batch:
            images["img2"] = tensor2img([as_float(batch["gt"])])
        del self.lq
        return images

    def results(self) -> dict[str, Tensor]:
        """The current batch super-resolved, in each way that is validated: what `finisher` is given."""
        self.test()
        output: Tensor = self.output
        del self.output
        return {"img": output}

    def finisher(self, dataset_name: str, current_iter: Any, save_img: bool) -> Callable[[Images, str], Any]:
        """What saves and scores the images of `results`, with the ground truth as ``img2``; see `validate`."""
        metrics = self.opt["val"].get("metrics") or {}
        return partial(finish_image, self.opt, dataset_name, current_iter, save_img, metrics)

    # --- the best network -------------------------------------------------------------------------------------

    def training_state(self, epoch: int, current_iter: int) -> dict[str, Any]:
        """Also what was validated, and the best results so far."""
        return super().training_state(epoch, current_iter) | self._validation_state()

    def _validation_state(self) -> dict[str, Any]:
        return {"best_metric_results": getattr(self, "best_metric_results", {}), "validated_at": self.validated_at}

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        """Also the best results, those included that came after the checkpoint."""
        super().resume_training(resume_state)
        states = Path(self.opt["path"]["training_states"])
        after = _read(checkpoints.validation_record(states, resume_state["iter"])) or resume_state
        self.best_metric_results = after.get("best_metric_results", {})
        self.validated_at = after.get("validated_at", {})
        best = (_read(Path(self.opt["path"]["models"], "net_g_best.pth")) or {}).get("best")
        metrics = (self.opt.get("val") or {}).get("metrics") or {}
        if best is None or best["dataset"] not in self._validation_sets() or best["metric"] not in metrics:
            return
        self._initialize_best_metric_results(best["dataset"])
        known = self.best_metric_results[best["dataset"]][best["metric"]]
        sign = 1 if best["better"] == "higher" else -1
        if sign * (best["val"] - known["val"]) > 0:
            known.update({key: best[key] for key in ("better", "val", "iter")})

    def _keep_best(self, dataset_name: str, current_iter: int) -> None:
        """Save ``net_g_best.pth`` if this validation of the deciding data set was the best so far."""
        metric = self.opt["val"].get("best_metric") or next(iter(self.opt["val"]["metrics"]))
        if dataset_name != self._deciding_set(metric):
            return
        record = self.best_metric_results[dataset_name][metric]
        networks = self.finite_networks() if record["iter"] == current_iter else None
        if networks is not None:
            about = {"dataset": dataset_name, "metric": metric, **record}
            path = self.save_networks(networks | {"best": about}, "best")
            get_root_logger().info(f"Best {metric} on {dataset_name} so far: saved as {path.name}.")

    def _deciding_set(self, metric: str) -> str | None:
        """The first set that has been scored by ``metric``: one without ground truth is not."""
        known = self.best_metric_results
        scored = (name for name in self._validation_sets() if known.get(name, {}).get(metric, {}).get("iter", -1) >= 0)
        return next(scored, None)

    def _validation_sets(self) -> list[str]:
        """Names of the validation sets."""
        datasets = self.opt["datasets"].items()
        return [section["name"] for phase, section in datasets if phase.split("_")[0] == "val"]


def _read(path: Path) -> dict[str, Any] | None:
    """What is in a file that the next validation replaces; None if there is none, or it is broken."""
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = read_pickle(path)
    except WeightsError:
        return None
    return content

"""SRModel as a test needs it: any weights loaded, images of any size, validation shared among ranks."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from basicsr.metrics import calculate_metric
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger, tensor2img
from basicsr.utils.registry import METRIC_REGISTRY
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import default_collate
from tqdm import tqdm

from dscsr_arch.arguments import trained_otherwise
from dscsr_arch.deployable import fused
from dscsr_arch.errors import WeightsError
from dscsr_arch.low_rank import lora_ranks
from dscsr_arch.metadata import describe
from dscsr_arch.quantized_conv import bits_by_layer, inject_as
from dscsr_arch.sizes import SizeRequirements, padded, size_requirements
from dscsr_arch.weight_files import read_weight_file, state_dict_diff
from dscsr_model.files import disk_errors
from dscsr_model.options.sections import ValSection
from dscsr_model.read_ahead import read_ahead
from dscsr_model.tiling import self_ensemble, tiled
from dscsr_model.training import lora
from dscsr_model.training.images import as_float
from dscsr_model.training.progress import Progress
from dscsr_model.training.quantization import quantized
from dscsr_model.training.ranks import gathered
from dscsr_model.training.stopping import Stopped, StopRequest
from dscsr_model.training.validation import Scores, evaluating, mean_scores

Image = NDArray[np.uint8]
"""(H, W, 3) BGR, or (H, W) of one channel."""
AVERAGE = "_ema"
"""Ends the names of an average: of its metrics, and of its weights in a file, ``params_ema``."""
# So many images may wait for their scores: memory stays bounded where SSIM is slower than the network.
_WAITING = 4


class ValidatingSRModel(SRModel):
    """Validation in bounded memory, with BasicSR's metrics, log lines and result images.

    Networks are validated in float32, whatever the precision of training: so they will be measured later.
    """

    net_g: nn.Module
    net_g_ema: nn.Module
    labels: tuple[str, ...] = ("",)
    """What ends the names of metrics and files, for each way in which an image is super-resolved."""

    def __init__(self, opt: Mapping[str, Any]) -> None:
        network = dict(opt["network_g"])
        self.lora: Mapping[str, Any] | None = network.pop("lora", None)
        self.quantize: Mapping[str, Any] | None = opt.get("train", {}).get("quantize") if opt["is_train"] else None
        self.val = ValSection.parse(opt.get("val"), "val")
        self.stop = StopRequest()
        self.progress = Progress()
        super().__init__({**opt, "network_g": network})

    @property
    def networks(self) -> dict[str, nn.Module]:
        """What is validated, by what ends its names: the network, and its average, if there is one; unwrapped."""
        named = {"": self.net_g, AVERAGE: getattr(self, "net_g_ema", None)}
        return {ending: self.get_bare_model(network) for ending, network in named.items() if network is not None}

    @property
    def network(self) -> nn.Module:
        """That of the `networks` which is tested and shipped."""
        return list(self.networks.values())[-1]

    # --- weights ----------------------------------------------------------------------------------------------

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """Make what is trained of a network before DistributedDataParallel looks at it."""
        placed: nn.Module = super().model_to_device(self.trainable(net))
        return placed

    def trainable(self, network: nn.Module) -> nn.Module:
        """``network`` itself, in place: with LoRA or quantized, if asked to be."""
        return quantized(lora.inject_lora(network, self.lora), self.quantize)

    def load_network(
        self, net: nn.Module, load_path: str, strict: bool = True, param_key: str | None = "params"
    ) -> None:
        """Load weights in any dialect of `read_state_dict`; to be tested, quantized ones quantize the network.

        Raises:
            WeightsError: They do not fit, or were trained as another network, as their file says (unless ``strict`` is
                false). Nothing has changed then.
        """
        net = self.get_bare_model(net)
        if param_key is None and self.opt["path"].get("resume_state"):
            param_key = "params"  # `~` may prefer the averaged weights of the run's own file
        try:
            file = read_weight_file(load_path, param_key)
        except WeightsError:
            file = read_weight_file(load_path)  # another wrapping; a damaged file fails again, and says why
            get_root_logger().info(f"No `{param_key}` in {load_path}: the weights that it has are taken.")
        get_root_logger().info(f"Loading {net.__class__.__name__} model from {load_path}.")
        wanted = describe(net, self.opt["network_g"])
        if not self.is_train and bits_by_layer(file.weights):
            inject_as(fused(net), file.weights)
        fault = state_dict_diff(net, file.weights) or trained_otherwise(file, load_path, wanted)
        if strict and fault:
            raise WeightsError(f"{load_path} does not fit {net.__class__.__name__}:\n{fault}")
        if not strict:
            self._print_different_keys_loading(net, file.weights, strict)
        net.load_state_dict(file.weights, strict=strict)
        if not lora_ranks(file.weights):  # a base; a whole state has adapters of its own
            lora.start_from(net, self.lora, get_root_logger().warning)

    # --- images -----------------------------------------------------------------------------------------------

    @cached_property
    def size_requirements(self) -> SizeRequirements:
        """Sizes that the network takes.

        Raises:
            SizeError: None that could be found.
        """
        network: nn.Module = self.get_bare_model(self.net_g)
        with evaluating(network):
            return size_requirements(network)

    def super_resolve(self, network: nn.Module, **arguments: Any) -> Tensor:
        """The current batch super-resolved with a network; in tiles and orientations as asked.

        Images of sizes that the network does not take are `padded`.

        Args:
            network: One of the `networks`.
            **arguments: Further ones of its ``forward``.
        """
        sizes = self.size_requirements

        def run(x: Tensor) -> Tensor:
            output: Tensor = network(x, **arguments)
            return output.float()

        forward = partial(padded, run, requirements=sizes)
        if self.val.tile:
            forward = partial(tiled, forward, tile=self.val.tile, overlap=self.val.tile_overlap, requirements=sizes)
        with torch.no_grad(), evaluating(network):
            return self_ensemble(forward, self.lq, sizes) if self.val.self_ensemble else forward(self.lq)

    def test(self) -> None:
        """Super-resolve the current batch."""
        self.output = self.super_resolve(self.network)

    def results(self, network: nn.Module) -> dict[str, Tensor]:
        """The current batch super-resolved by one of the `networks` in each way that is validated, by `labels`."""
        return {"": self.super_resolve(network)}

    # --- validation -------------------------------------------------------------------------------------------

    def dist_validation(self, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool) -> None:
        """Every rank takes its share of the images."""
        self.nondist_validation(dataloader, current_iter, tb_logger, save_img)

    def nondist_validation(self, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool) -> None:
        """Super-resolve a data set, score it as BasicSR does, and tell of it."""
        name = dataloader.dataset.opt["name"]
        self.metric_results = self.scores_of(dataloader, current_iter, save_img)
        if not self.is_train:
            found = "  ".join(f"{metric} {value:.4f}" for metric, value in self.metric_results.items())
            width = max(len(str(section.get("name"))) for section in self.opt["datasets"].values())
            self.progress.say(f"{name:<{width}}  {found or 'no scores'}")
        if self.metric_results and self.opt["rank"] == 0:  # a set without ground truth may have none
            self._log_validation_metric_values(current_iter, name, tb_logger)

    def scores_of(self, dataloader: Any, current_iter: Any = None, save_img: bool = False) -> dict[str, float]:
        """Mean scores of a data set, of which this rank super-resolves its share, by each of the `networks`.

        They run in this thread, beside one that reads the next image and two that save and score the last ones; one
        alone where both have the same weights. Saved are the images of the `network`.

        Raises:
            Stopped: On every rank, after the image in work, when one of them was asked to stop.
        """
        name, metrics = dataloader.dataset.opt["name"], self.opt["val"].get("metrics") or {}
        indices = range(self.opt["rank"], len(dataloader.dataset), self.opt["world_size"])
        networks, shipped = self.networks, self.network
        if same := len(networks) > 1 and same_weights(*networks.values()):
            networks = {"": shipped}
        saved = next(ending for ending, network in networks.items() if network is shipped)

        def finish(made: tuple[dict[str, Image], Image | None, Path]) -> Scores:
            results, gt, path = made
            for label in self.labels if save_img else ():
                save_image(results[f"{label}{saved}"], self.opt, name, path.stem, label, current_iter)
            return score(results, gt, metrics, path.name)

        made = self._super_resolved(dataloader.dataset, indices, networks)
        finished = read_ahead(finish, made, ahead=_WAITING, threads=2)
        progress = None if self.val.pbar and self.opt["rank"] == 0 else True
        bar = tqdm(finished, total=len(indices), unit="image", disable=progress, leave=False)
        everyone = gathered((dict(zip(indices, bar, strict=False)), self.stop.asked))
        if signal_number := max(number for _, number in everyone):
            raise Stopped(signal_number)
        scores = mean_scores({index: each for share, _ in everyone for index, each in share.items()})
        for metric, fault in scores.items():
            if isinstance(fault, str):
                get_root_logger().warning(f"Validation {name} without `{metric}`, which failed: {fault}")
        endings = ("", AVERAGE) if same else ("",)
        found = {metric: value for metric, value in scores.items() if isinstance(value, float)}
        return {f"{metric}{ending}": value for metric, value in found.items() for ending in endings}

    def _super_resolved(
        self, dataset: Any, indices: Iterable[int], networks: Mapping[str, nn.Module]
    ) -> Iterator[tuple[dict[str, Image], Image | None, Path]]:
        """Results, ground truth and LQ path of these images; ends early when this process is asked to stop."""
        for batch in read_ahead(lambda index: default_collate([dataset[index]]), indices):
            if self.stop.asked:
                return
            # The ground truth, the largest image of all, never needs the device.
            self.feed_data({name: value for name, value in batch.items() if name != "gt"})
            results = {
                f"{label}{ending}": tensor2img([output.detach().cpu()])
                for ending, network in networks.items()
                for label, output in self.results(network).items()
            }
            del self.lq
            gt = tensor2img([as_float(batch["gt"])]) if "gt" in batch else None
            yield results, gt, Path(batch["lq_path"][0])


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks are equal to the bit."""
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())


def save_image(image: Image, opt: Mapping[str, Any], dataset_name: str, name: str, label: str, run: Any) -> None:
    """Save a result where BasicSR would: by image while training, by data set when testing.

    Raises:
        DiskError: It cannot be written; imwrite would write less on a full disk, and say nothing.
    """
    end = run if opt["is_train"] else opt["val"].get("suffix") or opt["name"]
    folder = name if opt["is_train"] else dataset_name
    path = Path(opt["path"]["visualization"], folder, f"{name}{label}_{end}.png")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())


def score(
    results: Mapping[str, Image], gt: Image | None, metrics: Mapping[str, Mapping[str, Any]], name: str
) -> Scores:
    """Metrics of the results of one image, whose labels end those of the metrics.

    What cannot be computed (NIQE of small images) becomes words: no reason to lose a run. Without a ground truth only
    metrics are computed that need none.
    """
    truth = {} if gt is None else {"img2": gt}
    return {
        f"{metric}{label}": _score({"img": image, **truth}, section, name)
        for metric, section in metrics.items()
        if gt is not None or "img2" not in inspect.signature(METRIC_REGISTRY.get(section["type"])).parameters
        for label, image in results.items()
    }


def _score(images: dict[str, Image], section: Mapping[str, Any], name: str) -> float | str:
    try:
        return float(calculate_metric(images, dict(section)))
    except Exception as error:  # whatever a metric raises
        return f"{section['type']} of {name}: {f'{type(error).__name__}: {error}'.strip().splitlines()[0]}"

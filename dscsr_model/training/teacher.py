"""Teachers: networks that are fused, frozen, and asked for outputs and features."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dscsr_arch.arguments import trained_otherwise
from dscsr_arch.checkpoint import load_model
from dscsr_arch.conv_lora import inject, lora_layers
from dscsr_arch.deployable import fused
from dscsr_arch.errors import DscsrError, LoRAError, WeightsError
from dscsr_arch.low_rank import lora_ranks
from dscsr_arch.metadata import describe
from dscsr_arch.no_autocast import no_autocast
from dscsr_arch.sizes import padded, size_requirements
from dscsr_arch.weight_files import check_finite, read_weight_file, state_dict_diff
from dscsr_model.options.sections import TeacherSection
from dscsr_model.tiling import self_ensemble
from dscsr_model.training.ema import tensors
from dscsr_model.training.feature_hooks import FeatureHooks, Features
from dscsr_model.training.precision import Precision

DEFAULT_LAYERS = 3
"""So many convolutions are compared in where no layers are named: the first ones of the network."""


class TeacherOutput(NamedTuple):
    """What a teacher says to a batch."""

    output: Tensor | None
    """Super-resolved images (B, C, H·s, W·s) in float32; None if nobody asked for them."""
    features: Features


class Teacher:
    """Answers batches with outputs and features, without gradients.

    Networks see images that are `padded` where their sizes require it. Features are those of the padded image.

    Args:
        networks: Built and loaded, at least one; they get fused and frozen, in place. Outputs are averaged over all
            of them; features are the first one's.
        layers: Layers whose features are wanted.
        output: Whether outputs are wanted; without them, and without layers, nothing runs.
        ensemble: Average the outputs over the eight flips and rotations. Features are those of the image as it is.
        precision: In which numbers the networks run; their weights keep their own.
        memory_format: Of the images that go in.

    Raises:
        DscsrError: The first network has no such layer.
        SizeError: A network takes no images of any size that was tried.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        layers: Sequence[str] = (),
        *,
        output: bool = True,
        ensemble: bool = False,
        precision: Precision,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self.networks = [frozen(network).to(precision.device) for network in networks]
        self.size_requirements = [size_requirements(network) for network in self.networks]
        self._forwards = [
            partial(padded, partial(self._run, network), requirements=sizes)
            for network, sizes in zip(self.networks, self.size_requirements, strict=True)
        ]
        self.hooks = FeatureHooks(self.networks[0], layers)
        self.wants_output = output
        self.ensemble = ensemble
        self.precision = precision
        self.memory_format = memory_format

    @torch.no_grad()
    def __call__(self, lq: Tensor) -> TeacherOutput:
        """Answer images (B, C, H, W) in [0, 1]."""
        known, features = self.hooks.watch(self._forwards[0], lq) if self.hooks.layers else (None, {})
        return TeacherOutput(self._output(lq, known) if self.wants_output else None, features)

    def _output(self, lq: Tensor, known: Tensor | None) -> Tensor:
        """Mean over networks and, if asked for, orientations; ``known`` is what the first network has said already."""
        if self.ensemble:
            forwards = zip(self._forwards, self.size_requirements, strict=True)
            outputs = [self_ensemble(forward, lq, sizes) for forward, sizes in forwards]
        else:
            first = self._forwards[0](lq) if known is None else known
            outputs = [first, *(forward(lq) for forward in self._forwards[1:])]
        return torch.stack(outputs).mean(0) if len(outputs) > 1 else outputs[0]

    def _run(self, network: nn.Module, lq: Tensor) -> Tensor:
        with self.precision.autocast():
            output: Tensor = network(lq.contiguous(memory_format=self.memory_format))
        return output.float() if output.dtype in (torch.float16, torch.bfloat16) else output


def frozen(network: nn.Module) -> nn.Module:
    """``network`` itself: fused as far as it can be, in eval mode, without any parameter that trains."""
    return fused(network).eval().requires_grad_(False)


def build_teachers(section: Mapping[str, Any], build: Callable[[dict[str, Any]], nn.Module]) -> list[nn.Module]:
    """The networks of a ``teacher:`` section, with their weights, on the CPU.

    Without a ``network:`` of its own each is built from its weight file alone.

    Raises:
        WeightsError: A file cannot be read, or does not fit.
    """
    options = TeacherSection.parse(section, "teacher")
    networks = []
    for file, network in options.teachers:
        if network is None:
            networks.append(load_model(file, param_key=options.param_key))
            continue
        one = build(dict(network))
        content, wanted = read_weight_file(file, options.param_key), describe(one, network)
        with suppress(LoRAError):  # adapters that do not fit are told below
            if not lora_layers(one) and (ranks := lora_ranks(content.weights)):
                inject(fused(one), ranks)
        if fault := state_dict_diff(one, content.weights) or trained_otherwise(content, file, wanted):
            raise WeightsError(
                f"weights of the teacher's {type(one).__name__}",
                f"{file}, which does not fit:\n{fault}\n",
                "Correct `teacher: network:`, or leave it out if load_model knows the network.",
            )
        check_finite(content.weights, file)
        one.load_state_dict(content.weights)
        networks.append(one)
    return networks


class TeacherFeatures:
    """Features of images at some layers of a frozen, fused copy of a network: a measure of likeness.

    What comes behind the last of the layers never runs. Images may be of any size that the network takes. The copy
    stays as it is while the network goes on learning; `state` and `load_state` carry it from one process to the next.

    Args:
        network: A network that maps images; copied.
        layers: Names as in ``network.named_modules()`` of the fused network, in any order; none for its first
            `DEFAULT_LAYERS` convolutions.

    Raises:
        DscsrError: There is no such layer, or no convolution.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str] = ()) -> None:
        self._network = frozen(copy.deepcopy(network))
        modules = dict(self._network.named_modules())
        convolutions = [name for name, module in modules.items() if isinstance(module, nn.Conv2d)]
        self.layers = tuple(layers or convolutions[:DEFAULT_LAYERS])
        if not self.layers:
            name = type(network).__name__
            raise DscsrError(f"convolutions in {name}", "none", "Name its layers as `feature_layers`.")
        self._hooks = FeatureHooks(self._network, self.layers)
        self._ran: set[str] = set()
        for name, module in modules.items():
            module.register_forward_pre_hook(lambda _module, _inputs, name=name: self._ran.add(name))

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Features of ``images`` (B, C, H, W), one map per layer, in float32 (or the network's own dtype).

        Gradients go through to the images. Autocast does not count.

        Raises:
            DscsrError: A layer did not run.
        """
        dtype = next(self._network.parameters()).dtype
        with no_autocast(images.device):
            _, features = self._hooks.watch(self._network, images.to(dtype), whole=False)
        return [features[layer] for layer in self.layers]

    def state(self) -> dict[str, Tensor]:
        """The tensors that its features depend on, on the CPU; all of the network's before the first run."""
        needed = tensors(self._network).items()
        if self._ran:
            needed = {name: tensor for name, tensor in needed if name.rpartition(".")[0] in self._ran}.items()
        return {name: tensor.detach().cpu().clone() for name, tensor in needed}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave.

        Raises:
            DscsrError: It belongs to another network or other layers.
        """
        ours = tensors(self._network)
        shapes = {name: tensor.shape for name, tensor in ours.items()}
        if odd := [name for name, tensor in state.items() if shapes.get(name) != tensor.shape]:
            raise DscsrError(
                "the first layers that this run began with",
                f"others, such as {odd[0]!r}",
                "Give `network_g` the values of the run to resume.",
            )
        for name, tensor in state.items():
            ours[name].copy_(tensor)
        if state.keys() != ours.keys():  # these alone have run, and are kept, also where the loss is off by now
            self._ran.update(name.rpartition(".")[0] for name in state)

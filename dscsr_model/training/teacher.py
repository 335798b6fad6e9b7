"""A teacher: networks that are frozen, fused, and asked for their outputs and features, never trained or saved."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dscsr_arch.arguments import trained_otherwise
from dscsr_arch.checkpoint import load_model, mismatch
from dscsr_arch.deployable import fused
from dscsr_arch.errors import DscsrError, WeightsError
from dscsr_arch.sizes import padded, size_requirements
from dscsr_arch.weight_files import read_weight_file
from dscsr_model.tiling import self_ensemble
from dscsr_model.training.feature_hooks import FeatureHooks, Features
from dscsr_model.training.precision import Precision

AS_TEACHER = " (a teacher of layers, which would not lie where the student's do in a padded patch)"
"""What messages add to its name when it does not take the patches."""


class TeacherOutput(NamedTuple):
    """What a teacher says to a batch.

    Attributes:
        output: Super-resolved images (B, C, H·s, W·s) in float32; None if nobody asked for them.
        features: Layer name to feature map (B, C', h, w).
    """

    output: Tensor | None
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
        plain: Tensor | None = None
        features: Features = {}
        if self.hooks.layers:
            plain, features = self.hooks.watch(self._forwards[0], lq)
        return TeacherOutput(self._output(lq, plain) if self.wants_output else None, features)

    def _output(self, lq: Tensor, plain: Tensor | None) -> Tensor:
        """Mean over networks and, if asked for, orientations; ``plain`` is what the first network has said already."""
        if self.ensemble:
            forwards = zip(self._forwards, self.size_requirements, strict=True)
            outputs = [self_ensemble(forward, lq, sizes) for forward, sizes in forwards]
        else:
            first = self._forwards[0](lq) if plain is None else plain
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

    Args:
        section: ``weights``, a path or a list of them; ``network``, a network section for all of them, or none: then
            each is built from its weight file alone; ``param_key``, as for `read_state_dict`.
        build: Builds a network from its section.

    Raises:
        DscsrError: No weights are named.
        WeightsError: A file cannot be read, or does not fit.
    """
    files = weight_files(section)
    if section.get("network") is None:
        return [load_model(file, param_key=section.get("param_key")) for file in files]
    network = build(dict(section["network"]))
    networks = [copy.deepcopy(network) for _ in files]
    for one, file in zip(networks, files, strict=True):
        content = read_weight_file(file, section.get("param_key"))
        if fault := mismatch(one, content.weights):
            raise WeightsError(
                f"Expected weights of the teacher's {type(one).__name__}, but got {file}, whose layers differ:"
                f"\n{fault}\nCorrect `teacher: network:`, or leave it out if load_model knows the network."
            )
        if unlike := trained_otherwise(content, file, one, section["network"]):
            raise WeightsError(
                f"Expected weights trained as `teacher: network:` says, but got {file}, {unlike}. Correct it, or "
                "leave it out if load_model knows the network."
            )
        one.load_state_dict(content.weights)
    return networks


def weight_files(section: Mapping[str, Any]) -> list[Path]:
    """The files of ``teacher: weights:``.

    Raises:
        DscsrError: There are none.
    """
    weights = section.get("weights")
    named = [weights] if isinstance(weights, str | os.PathLike) else weights
    if not isinstance(named, list | tuple) or not named or not all(isinstance(one, str | os.PathLike) for one in named):
        raise DscsrError(
            f"Expected `teacher: weights:` to be a weight file or a list of them, but got {weights!r}. Name the file "
            "that the teacher was saved in."
        )
    return [Path(one).expanduser() for one in named]

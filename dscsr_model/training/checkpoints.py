"""Checkpoints: their files, which of them are whole, which may go, and the random state that belongs to one.

A checkpoint is what BasicSR makes it: ``models/net_g_<iteration>.pth`` and ``training_states/<iteration>.state``.
The state is written last, so its presence says that the network was written before it. Beside it comes, when its
iteration has been validated, the small ``<iteration>.validation``.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dscsr_arch.checkpoint import read_pickle, save_state_dict
from dscsr_arch.errors import WeightsError
from dscsr_model.files import atomic, remove_unfinished
from dscsr_model.training.guards import all_finite

KINDS = ("net_*", "lora_g", "fused_g", "student_w*")
"""Files ``<kind>_<label>.pth``: what is trained, and what is saved beside it of a network with LoRA or students."""


class Checkpoints:
    """The files of a run, which appear under their names when they are whole; so many numbered ones stay."""

    def __init__(self, models: Path, states: Path, keep: int | None = None) -> None:
        self.models, self.states, self.keep = models, states, keep
        self.iteration: int | None = None  # of the last checkpoint
        self.last: Path | None = None  # the network that was saved last

    def save_network(self, content: Mapping[str, Any], label: str, kind: str = "net_g") -> Path:
        """Save a network under a label: an iteration, ``latest`` or ``best``."""
        path = self.models / f"{kind}_{label}.pth"
        save(content, path)
        return path

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Save the training state that completes a checkpoint; remove checkpoints that are not kept."""
        validation_record(self.states, state["iter"]).unlink(missing_ok=True)  # of a run that was undone
        save(state, self.states / f"{state['iter']}.state")
        for iteration in iterations(self.states)[: -self.keep] if self.keep else ():
            # The state first: without it, nobody resumes from the network that is about to go.
            (self.states / f"{iteration}.state").unlink(missing_ok=True)
            validation_record(self.states, iteration).unlink(missing_ok=True)
            for kind in KINDS:
                for network in self.models.glob(f"{kind}_{iteration}.pth"):
                    network.unlink(missing_ok=True)

    def labels(self, iteration: int) -> list[str]:
        """Those under which this iteration, the last one, is saved."""
        at_the_end = self.last is not None and self.last.stem == "net_g_latest"
        return ([str(iteration)] if self.iteration == iteration else []) + ["latest"] * at_the_end

    def save_record(self, iteration: int, record: Mapping[str, Any]) -> None:
        """Say beside its checkpoint, if there is one, which validations followed an iteration."""
        if (self.states / f"{iteration}.state").is_file():
            save(record, validation_record(self.states, iteration))

    def resume(self, iteration: int, remove: bool) -> None:
        """Go on from the checkpoint of an iteration; ``remove`` what a killed process left where it was saving."""
        self.iteration, self.last = iteration, self.models / f"net_g_{iteration}.pth"
        if remove:
            remove_unfinished(self.models, self.states)


def iterations(states: Path) -> list[int]:
    """Iterations that have a training state in the folder ``states``, in ascending order."""
    return sorted(int(path.stem) for path in states.glob("*.state") if path.stem.isdigit())


def validation_record(states: Path, iteration: int) -> Path:
    """The file that says which validations followed the checkpoint of this iteration."""
    return states / f"{iteration}.validation"


def newest_whole(states: Path, models: Path) -> tuple[Path | None, list[str]]:
    """The newest training state that opens and whose networks open, and a line for each that was passed over."""
    passed_over: list[str] = []
    for iteration in reversed(iterations(states)):
        state = states / f"{iteration}.state"
        networks = sorted(models.glob(f"net_*_{iteration}.pth"))
        try:
            for file in (state, *networks):
                read_pickle(file)
        except WeightsError as error:
            passed_over.append(f"Checkpoint {iteration} does not open and is passed over: {error}")
            continue
        if networks:
            return state, passed_over
        passed_over.append(f"Checkpoint {iteration} has a training state but no network in {models}: passed over.")
    return None, passed_over


def finite_states(networks: Mapping[str, nn.Module]) -> dict[str, Any] | None:
    """State dicts on the CPU; None if not all is finite."""
    states = {
        key: {name: tensor.cpu() for name, tensor in network.state_dict().items()} for key, network in networks.items()
    }
    return states if all(map(all_finite, states.values())) else None


def training_options(opt: Mapping[str, Any]) -> dict[str, Any]:
    """The options that decide what a training does, by their names for ``--force_yml``, in plain types."""
    sections = {name: opt.get(name) for name in ("num_gpu", "world_size", "scale", "network_g", "teacher", "train")}
    return _flat({**sections, "datasets": {"train": opt["datasets"].get("train")}})


def _flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in section.items():
        if name == "stages" and isinstance(value, list):
            value = {str(number): stage for number, stage in enumerate(value, start=1)}
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}:")
        else:
            flat[f"{prefix}{name}"] = _storable(value)
    return flat


def _storable(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_storable(each) for each in value]
    return value if value is None or type(value) in (bool, int, float, str) else str(value)


def save(content: Mapping[str, Any], path: Path) -> None:
    """Write a file of torch.save, so that ``path`` is at every moment either the old one or the whole new one."""
    with atomic(path) as stream:
        save_state_dict(content, stream)


def read_if_whole(path: Path) -> dict[str, Any]:
    """What is in a file that will be written again; nothing if there is none, or it is broken."""
    try:
        content: dict[str, Any] = read_pickle(path) if path.is_file() else {}
    except WeightsError:
        return {}
    return content


def changed_options(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line for each of the `training_options` that is another now."""
    return [
        f"{name}: {before.get(name, 'not given')} before this resume, {now.get(name, 'not given')} from here on"
        for name in dict.fromkeys((*before, *now))
        if before.get(name) != now.get(name)
    ]


def random_state() -> dict[str, Any]:
    """States of all random generators of this process, in types that ``weights_only`` loads."""
    legacy: Any = np.random.get_state()  # noqa: NPY002 - BasicSR draws from the global generator
    kind, keys, *rest = legacy
    state = {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Put all generators of this process back to what ``random_state`` returned."""
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())

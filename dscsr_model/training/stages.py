"""Stages of a training: what `train: stages` makes of the options, from one iteration to another.

The design. A stage is the section `train:` with what its entry changes, from the end of the stage before to its own.
Which one an iteration is in follows from the options alone (`stages_of`, `stage_at`): nothing of it is in a checkpoint.
Without `stages` the whole run is one. Then

- the model begins a stage with its first iteration: other losses, another rate, another schedule. Network, average,
  moments of the optimizer and generators go on (`EfficientSRModel.begin_stage`);
- the schedule of a stage that gives one, or a rate or a warm-up, is counted from the start of that stage; any other
  goes on with that of `train:`, counted from the start of the run;
- the data begin a stage with a new epoch; the last epoch before it ends there, so that nothing is read ahead across.
  Epochs are counted through the run, and the size of a patch travels with its sample's key (`host/train_data.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dscsr_model.options.sections import TrainSection

SCHEDULE_KEYS = ("optim_g", "scheduler", "warmup_iter")
"""With one of these a stage has a schedule of its own."""
DATA_KEYS = ("gt_size", "batch_size_per_gpu")
"""What a stage may change of `datasets: train:`."""
_DEFAULTS: dict[str, Any] = {key: TrainSection.declared()[key].default for key in ("warmup_iter", "accumulate_steps")}


@dataclass(frozen=True)
class Stage:
    """A stretch of a training under the same options.

    Attributes:
        number: From 1 on.
        first, until: Its first and its last iteration.
        train: The section `train:` as it is in this stage, without `stages`.
        data: The same of `datasets: train:`.
        schedule_after: The iteration after which its schedule begins.
        sized: Whether `stages` sets sizes of patches; if not, those of the data set are let be.
    """

    number: int
    first: int
    until: int
    train: dict[str, Any]
    data: dict[str, Any]
    schedule_after: int
    sized: bool

    @property
    def gt_size(self) -> int | None:
        """The side of its patches, if `stages` decides that."""
        return self.data["gt_size"] if self.sized else None

    @property
    def cost(self) -> float:
        """Of one iteration: pixels of its batch."""
        return float((self.data.get("batch_size_per_gpu") or 1) * (self.data.get("gt_size") or 1) ** 2)


def stages_of(train: Mapping[str, Any], data: Mapping[str, Any]) -> list[Stage]:
    """The stages of the sections `train:` and `datasets: train:`, at least one."""
    base = {key: value for key, value in train.items() if key != "stages"}
    entries: Sequence[Mapping[str, Any]] = train.get("stages") or [{}]
    total, stages, done = int(train.get("total_iter", sys.maxsize)), [], 0
    for number, entry in enumerate(entries, start=1):
        own, until = entry.get("train") or {}, int(entry.get("until") or total)
        schedule_after = done if any(key in own for key in SCHEDULE_KEYS) else 0
        there = {**data, **{key: entry[key] for key in DATA_KEYS if key in entry}}
        sized = any("gt_size" in each for each in entries)
        stages.append(Stage(number, done + 1, until, changed(base, own), there, schedule_after, sized))
        done = until
    return stages


def changed(section: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """``section`` with the values of ``own``; of sections inside that name no ``type``, only the keys change."""
    result = dict(section)
    for key, value in own.items():
        before = section.get(key)
        keys_alone = isinstance(value, Mapping) and isinstance(before, Mapping) and "type" not in value
        result[key] = {**before, **value} if keys_alone and before else value
    return result


def stage_at(stages: Sequence[Stage], iteration: int) -> Stage:
    """The stage of an iteration; the last one for those beyond the end."""
    return next((stage for stage in stages if iteration <= stage.until), stages[-1])


def cost_until(stages: Sequence[Stage], iteration: int) -> float:
    """Of the iterations up to this one, by the pixels that they see."""
    own = stage_at(stages, iteration)
    before = sum((stage.until - stage.first + 1) * stage.cost for stage in stages[: own.number - 1])
    return before + (iteration - own.first + 1) * own.cost


def announcement(stages: Sequence[Stage], number: int) -> str:
    """One line: the stage of this number begins, and what is other than in the one before."""
    before, stage = stages[number - 2], stages[number - 1]
    told = [
        f"{name} {_told(new)}" if old is None or new is None else f"{name} {_told(old)} → {_told(new)}"
        for name, (old, new) in _differences(_known(before), _known(stage)).items()
    ]
    if stage.schedule_after != before.schedule_after:
        told.append("its own schedule" if stage.schedule_after else "the schedule of the run")
    return f"Stage {number} of {len(stages)}, iterations {stage.first:,} to {stage.until:,}: {', '.join(told)}"


def _known(stage: Stage) -> dict[str, Any]:
    return {key: stage.data[key] for key in DATA_KEYS if key in stage.data} | _DEFAULTS | stage.train


def _told(value: Any) -> str:
    """A value; a section in one word."""
    return "off" if value is None else str(value.get("type")) if isinstance(value, Mapping) else str(value)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """What two sections have else, by names as ``optim_g:lr``; the type alone of a section of another type."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys((*before, *now)):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping) and old.get("type") == new.get("type"):
            found |= _differences(old, new, f"{prefix}{key}:")
        elif old != new:
            found[f"{prefix}{key}"] = (old, new)
    return found

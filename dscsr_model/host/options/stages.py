"""Stages of a training: is the table sound, and are the options of each stage.

A sound table makes a `Run` of each stage: the options as they are in it, and a report that puts what is wrong where the
value stands, in the stage or outside. The other rooms check these one by one; what stages share is told once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dscsr_arch.errors import DscsrError
from dscsr_model.host.options.faults import Key, Report
from dscsr_model.host.options.run import Run
from dscsr_model.host.options.structure import check_section
from dscsr_model.options.datasets import PairedImageDataset
from dscsr_model.options.section import Section, describe, listed
from dscsr_model.options.sections import OptimSection, Options, StageSection, StageTrainSection, TrainSection
from dscsr_model.options.values import SECTION
from dscsr_model.training.stages import DATA_KEYS, stages_of

_STAGES: Key = ("train", "stages")
_DATA: Key = ("datasets", "train")
_FOR_ALL = {**Options.declared(), **TrainSection.declared(), **PairedImageDataset.declared()}


@dataclass
class StageReport(Report):
    """The report of the file, to which what is wrong in a stage goes: the same faults, other keys.

    Attributes:
        key: Of the stage.
        entry: What stands there.
        base: The section `train:` of the file.
    """

    key: Key = ()
    entry: Mapping[str, Any] = field(default_factory=dict)
    base: Mapping[str, Any] = field(default_factory=dict)

    def add_error(self, key: Key, error: DscsrError) -> None:
        """Record it where its value stands."""
        super().add_error(self._where(key), error)

    def has(self, *prefix: str) -> bool:
        """Where the value stands; a section of which the stage changes some keys stands in two places."""
        both = self._adds_to_base(prefix, self._own(prefix))
        return super().has(*self._where(prefix)) or (both and super().has(*prefix))

    def _own(self, key: Key) -> Any:
        """What the stage has of a section or value of `train:`; nothing is an ellipsis."""
        return self.entry.get("train", {}).get(key[1], ...) if key[:1] == ("train",) and key[1:] else ...

    def _adds_to_base(self, key: Key, own: Any) -> bool:
        """Whether a section has its other keys, the type among them, from outside."""
        return isinstance(own, Mapping) and "type" not in own and bool(self.base.get(key[1]))

    def _where(self, key: Key) -> Key:
        if key[:2] == _DATA and key[2:3] and key[2] in self.entry:
            return (*self.key, *key[2:])
        own = self._own(key)
        if own is ... or (key[2:] and self._adds_to_base(key, own) and key[2] not in own):
            return key
        return (*self.key, *key)


def check_stages(run: Run) -> None:
    """Report a table of stages that makes no sense; if it is one, `Run.stages` are the runs of its stages."""
    entries = run.section("train").get("stages") if run.is_train and run.ours else None
    if entries is None or _STAGES in run.report.found:
        return
    for number, entry in enumerate(entries, start=1):
        if isinstance(entry, dict):
            _check_entry(run, (*_STAGES, str(number)), entry)
        else:
            run.report.add((*_STAGES, str(number)), SECTION, describe(entry), "Begin it with `- until:`.")
    if run.section("train").get("max_seconds") is not None:
        got = "both: nobody could say when a stage begins"
        run.report.add(("train", "max_seconds"), "either `stages` or `max_seconds`", got, "Remove one of them.")
    if run.whole("train", "total_iter") is None or not all(_has_length(run, *each) for each in enumerate(entries, 1)):
        return
    _check_lengths(run, entries)
    run.stages = [_run_of(run, stage, entries) for stage in stages_of(run.section("train"), run.section(*_DATA))]
    for one in run.stages:
        check_section(one, ("train",), one.section("train"), TrainSection, "train")


def _has_length(run: Run, number: int, entry: Any) -> bool:
    """Whether an entry says enough to look at its values in the other rooms."""
    inside = isinstance(entry, dict) and isinstance(entry.get("train", {}), dict)
    return inside and not run.report.has(*_STAGES, str(number), "until")


def _check_entry(run: Run, key: Key, entry: Mapping[Any, Any]) -> None:
    _refuse(run, key, entry, StageSection)
    if isinstance(own := entry.get("train"), dict):
        _refuse(run, (*key, "train"), own, StageTrainSection)
        losses = {name: value for name, value in own.items() if str(name).endswith("_opt")}
        for name, value in losses.items():
            if not (value is None or isinstance(value, dict)):
                run.report.add((*key, "train", name), f"{SECTION}, or `~` for none", describe(value))
        if isinstance(rates := own.get("optim_g"), dict) and "type" in rates:
            got, remedy = describe(rates["type"]), "Remove it: the optimizer goes on, with its moments."
            run.report.add((*key, "train", "optim_g", "type"), "one optimizer for the whole run", got, remedy)
        entry = {**entry, "train": {name: value for name, value in own.items() if name not in losses}}
    check_section(run, key, entry, StageSection, "train")
    if "gt_size" in entry and run.known_datasets.get("train") is None:
        got = describe(run.section(*_DATA).get("type"))
        words = "a dataset whose patches can change (PairedCropDataset, PairedImageDataset)"
        run.report.add((*key, "gt_size"), words, got, "Take one, or remove it.")


def _refuse(run: Run, key: Key, section: Mapping[Any, Any], kind: type[Section]) -> None:
    """Report keys that are known but do not change from stage to stage, and those that stand in the wrong place."""
    for name in map(str, section):
        losses = name.endswith("_opt") or name in StageTrainSection.declared()
        if name in kind.declared() or (kind is StageTrainSection and losses):
            continue
        if kind is StageSection and losses:
            remedy = "It belongs under `train:` of the stage."
        elif name in StageSection.declared():
            remedy = "It belongs beside `train:` of the stage."
        elif name in OptimSection.declared() and name != "type":
            remedy = f"Write `train: {{optim_g: {{{name}: …}}}}`."
        elif name in _FOR_ALL:
            remedy = "It is one for the whole run: remove it here."
        else:
            continue
        told = listed([*DATA_KEYS, "optim_g", "scheduler", "warmup_iter", "accumulate_steps", "<name>_opt"], most=7)
        run.report.add((*key, name), f"what a stage may change ({told})", f"`{name}`", remedy)


def _check_lengths(run: Run, entries: list[Mapping[str, Any]]) -> None:
    total, done = run.whole("train", "total_iter"), 0
    for number, entry in enumerate(entries, start=1):
        key, last = (*_STAGES, str(number), "until"), number == len(entries)
        until = entry.get("until", total if last else None)
        if until is None:
            if not last:
                run.report.add(key, "the last iteration of the stage", "no such key", "Add `until:`.")
            continue
        if until <= done:
            got = f"{int(until)}" if "until" in entry else f"`total_iter: {total}`"
            run.report.add(key, f"more than {done}, where the stage before ends", got, "Correct one of them.")
        elif last and total is not None and until != total:
            remedy = "Correct one of them, or leave the last `until` out."
            run.report.add(key, f"`total_iter: {total}`, as the last stage ends there", int(until), remedy)
        done = max(done, int(until))


def _run_of(run: Run, stage: Any, entries: list[Mapping[str, Any]]) -> Run:
    datasets = {**run.section("datasets"), "train": stage.data}
    report = run.report
    key, entry = (*_STAGES, str(stage.number)), entries[stage.number - 1]
    own = StageReport(report.file, report.lines, report.found, report.notes, key, entry, run.section("train"))
    options = {**run.options, "train": stage.train, "datasets": datasets}
    return replace(run, options=options, report=own, targets={}, stage=stage)

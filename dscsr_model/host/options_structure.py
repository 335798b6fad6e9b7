"""Keys and types of an option file, against the tables of `options_schema`. Reads no other file, builds nothing."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dscsr_model.host import options_schema as schema
from dscsr_model.host.options_faults import Key, Report, did_you_mean, listed, nearest
from dscsr_model.host.options_kinds import Option
from dscsr_model.options.losses import CSD_KEYS, TARGET_KEYS

# Looks like a number to people, but YAML 1.1 wants a dot before the exponent and a sign in it, and else reads text.
_NUMBER_AS_TEXT = re.compile(r"([-+]?)(\d+)(?:\.(\d*))?[eE]([-+]?)(\d+)")
_TEXT_KEYS = frozenset({"name", "type", "suffix", "project", "resume_id"})

_ELSEWHERE: dict[str, str] = {
    key: place
    for place, tables in {
        "the top level": (schema.LOOP_TOP, schema.MODEL_TOP),
        "`path:`": (schema.LOOP_PATH, schema.MODEL_PATH),
        "`train:`": (schema.LOOP_TRAIN, schema.MODEL_TRAIN),
        "`val:`": (schema.LOOP_VAL, schema.MODEL_VAL),
        "`logger:`": (schema.LOGGER,),
        "`datasets: train:`": (schema.LOOP_DATASET, schema.DATASET_OPTIONS["PairedImageDataset"]),
    }.items()
    for table in tables
    for key in table
    if key not in ("name", "type")
} | {"lora": "`network_g:`"}


@dataclass(frozen=True)
class Run:
    """What is checked, and as what.

    Attributes:
        options: The options, after ``--force_yml``.
        report: Where faults go.
        is_train: Training (True) or testing.
        launcher: none, pytorch or slurm.
        auto_resume: Whether training continues from the newest state by itself.
        known_model: The model type whose keys are known, or None for another plugin's.
        known_datasets: The same for each dataset, by its key under ``datasets:``.
        channels: Of the images that a dataset gives, by the same key, where they are known.
    """

    options: Mapping[Any, Any]
    report: Report
    is_train: bool
    launcher: str
    auto_resume: bool
    known_model: str | None
    known_datasets: Mapping[Any, str | None]
    channels: dict[Any, int] = field(default_factory=dict)

    @property
    def phase(self) -> str:
        """``train`` or ``test``, as in `Option.required`."""
        return "train" if self.is_train else "test"

    @property
    def basicsr_builds(self) -> bool:
        """Whether the networks and losses of the model type are those of BasicSR's registries, read as BasicSR does."""
        return self.known_model is not None or str(self.options.get("model_type")) in schema.OTHER_BASICSR_MODELS

    def section(self, *key: str) -> Mapping[Any, Any]:
        """The section at ``key``, or an empty one when it is missing or no section."""
        value: Any = self.options
        for name in key:
            value = value.get(name) if isinstance(value, dict) else None
        return value if isinstance(value, dict) else {}

    def constructors(self, key: Key, section: Mapping[Any, Any]) -> dict[Any, Any]:
        """A network's or loss's section without the keys that the model reads itself."""
        own: tuple[str, ...] = ()
        if key == ("network_g",) and self.known_model in (None, *schema.LORA_MODELS):  # of others: `options_unread`
            own = ("lora",)
        elif key[0] == "train" and self.known_model in schema.DISTILLING:
            own = TARGET_KEYS
        elif key[0] == "train" and self.known_model in schema.CSD_MODELS:
            own = CSD_KEYS
        return {name: value for name, value in section.items() if name not in own}


def check_structure(run: Run) -> None:
    """Report unknown and missing keys and values of the wrong type, in every section whose keys are known."""
    options, report = run.options, run.report
    ignored = () if run.is_train else ("train", "logger")  # BasicSR's test.py does not read them
    find_text_numbers({key: value for key, value in options.items() if key not in ignored}, (), report)

    strict = run.known_model is not None
    extra = schema.MODEL_OPTIONS.get(run.known_model or "", {})
    own = (schema.MODEL_TOP, schema.MODEL_PATH, schema.MODEL_TRAIN, schema.MODEL_VAL) if strict else ({}, {}, {}, {})
    top = {**schema.LOOP_TOP, **own[0], **extra.get("", {})}
    _teachers(options, top, report, strict)
    check_section(options, (), top, run.phase, report, strict)
    _name(options.get("name"), report)
    tables = {
        "dist_params": schema.DIST_PARAMS,
        "path": {**schema.LOOP_PATH, **own[1], **extra.get("path", {})},
        "val": {**schema.LOOP_VAL, **own[3], **extra.get("val", {})},
    }
    if run.is_train:
        tables["train"] = {**schema.LOOP_TRAIN, **own[2], **_losses(run), **extra.get("train", {})}
        tables["logger"] = {**schema.LOGGER, **(extra if strict else schema.EFFICIENT).get("logger", {})}
    for name, table in tables.items():
        if isinstance(options.get(name), dict):
            check_section(options[name], (name,), table, run.phase, report, strict or name in ("logger", "dist_params"))
    if run.is_train:
        _log_writers(run.section("logger"), report)
    if strict:
        _model_sections(run)


def check_section(
    section: Mapping[Any, Any], key: Key, table: Mapping[str, Option], phase: str, report: Report, strict: bool
) -> None:
    """Check one section against its table.

    Args:
        section: The section's keys and values.
        key: Where the section is.
        table: Its known keys.
        phase: ``train`` or ``test``; decides which keys are required.
        report: Where faults go.
        strict: Whether keys that are not in the table are faults.
    """
    missing = {name for name, option in table.items() if option.required in ("always", phase) and name not in section}
    for name, value in section.items():
        option = table.get(name) if isinstance(name, str) else None
        if option is not None:
            may_be_null = option.null and option.required not in ("always", phase)
            if not (value is None and may_be_null) and not option.kind.accepts(value):
                remedy = did_you_mean(value, option.kind.choices, f"`{name}`: {option.about}.")
                report.add((*key, name), option.kind.words, describe(value), remedy)
        elif strict:
            meant = nearest(name, missing) or nearest(name, table)
            missing.discard(meant or "")
            remedy = f"Did you mean `{meant}`?" if meant else f"Known here: {listed(sorted(table), most=30)}."
            if models := schema.models_knowing(":".join(key), name):
                remedy = f"It is known to {listed(sorted(models))}: take one of them as `model_type`, or remove it."
            elif name in _ELSEWHERE:
                remedy = f"It belongs under {_ELSEWHERE[name]}."
            report.add((*key, str(name)), "a known option", f"`{name}`", remedy)
    for name in sorted(missing):
        option = table[name]
        report.add((*key, name), option.kind.words, "no such key", f"Add `{name}:`: {option.about}.")


def describe(value: Any) -> str:
    """A value in words for "but got …"."""
    if value is None:
        return "nothing (`~`)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return f"a section with {listed(value, most=4)}" if value else "an empty section"
    if isinstance(value, str):
        return f"the text {value!r}"
    return str(value)


def find_text_numbers(value: Any, key: Key, report: Report) -> None:
    """Report every `1e-4`: YAML 1.1 hands it over as text, and optimizers fail on it much later."""
    if isinstance(value, Mapping):
        for name, below in value.items():
            if name not in _TEXT_KEYS and not str(name).startswith("param_key"):
                find_text_numbers(below, (*key, str(name)), report)
    elif isinstance(value, list):
        for below in value:
            find_text_numbers(below, key, report)
    elif isinstance(value, str) and (match := _NUMBER_AS_TEXT.fullmatch(value)):
        sign, whole, decimals, exponent_sign, exponent = match.groups()
        better = f"{sign}{whole}.{decimals or 0}e{exponent_sign or '+'}{exponent}"
        digits = np.format_float_positional(float(value), trim="-")
        remedy = (
            f"Write `{digits}`: YAML wants a dot and a sign with an exponent (`{better}`), `--force_yml` takes none."
        )
        report.add(key, "a number", f"the text {value!r}", remedy)


def _teachers(options: Mapping[Any, Any], top: Mapping[str, Option], report: Report, strict: bool) -> None:
    if strict and "network_t" in options and "network_t" not in top:
        remedy = (
            "Take a model type that distils and a top-level `teacher:` section (`network:`, `weights:`, `param_key:`); "
            "BasicSR replaces every `network_*` by the run's own weights when it resumes."
        )
        report.add(("network_t",), "a known option", "a second network", remedy)


def _name(name: Any, report: Report) -> None:
    # BasicSR renames an existing experiments/<name> folder: an empty name would move experiments/ itself away. And it
    # makes the name a part of that of its log.
    if not isinstance(name, str):
        return
    if not name.strip(" .") or "/" in name:
        remedy = "Give the experiment a name of letters, digits, `_` and `-`."
        report.add(("name",), "a folder name below experiments/ or results/", describe(name), remedy)


def _log_writers(logger: Mapping[Any, Any], report: Report) -> None:
    wandb, key = logger.get("wandb"), ("logger", "use_tb_logger")
    if logger.get("use_tb_logger") is True and importlib.util.find_spec("tensorboard") is None:
        remedy = "Run `pip install tensorboard`, or set it to false."
        report.add(key, "the package `tensorboard` for `use_tb_logger: true`", "none installed", remedy)
    if not isinstance(wandb, dict):
        return
    check_section(wandb, ("logger", "wandb"), schema.WANDB, "train", report, strict=True)
    if wandb.get("project") and importlib.util.find_spec("wandb") is None:
        remedy = "Run `pip install wandb`, or write `project: ~`."
        report.add(("logger", "wandb", "project"), "the package `wandb` for a project", "none installed", remedy)
    if wandb.get("project") and logger.get("use_tb_logger") is not True:
        got = describe(logger.get("use_tb_logger"))
        report.add(key, "true, as wandb needs TensorBoard's files", got, "Set it to true.")


def _losses(run: Run) -> dict[str, Option]:
    """Loss sections of a model that takes any."""
    if run.known_model not in schema.ANY_LOSSES:
        return {}
    names = [name for name in run.section("train") if isinstance(name, str) and name.endswith("_opt")]
    return {name: Option(schema.SECTION, "a loss: type and its arguments", null=True) for name in names}


def _model_sections(run: Run) -> None:
    """What SRModel reads deeper in ``train:`` and ``val:``."""
    report, train, val = run.report, run.section("train"), run.section("val")
    if run.is_train and train:
        for name, table in (("optim_g", schema.OPTIM), ("scheduler", schema.SCHEDULER)):
            if isinstance(train.get(name), dict):
                check_section(train[name], ("train", name), table, "train", report, strict=False)
        given = [name for name in ("pixel_opt", "perceptual_opt", *_losses(run)) if train.get(name)]
        for name in dict.fromkeys(given):
            if isinstance(train[name], dict):
                check_section(train[name], ("train", name), schema.LOSS, "train", report, strict=False)
        if not given and run.known_model in ("SRModel", *schema.ANY_LOSSES):
            remedy = "Add for example `pixel_opt: {type: L1Loss, loss_weight: 1.0, reduction: mean}`."
            report.add(("train", "pixel_opt"), "a loss (`pixel_opt` or `perceptual_opt`)", "none", remedy)
    for name, metric in run.section("val", "metrics").items():
        key = ("val", "metrics", str(name))
        if isinstance(metric, dict):
            check_section(metric, key, schema.METRIC, run.phase, report, strict=False)
        else:
            report.add(key, schema.SECTION.words, describe(metric), "Write `{type: calculate_psnr, crop_border: 4}`.")
    best, metrics = val.get("best_metric"), run.section("val", "metrics")
    named_by_width = run.known_model in schema.CSD_MODELS  # `options_csd` knows the widths
    if best is not None and not report.has("val", "best_metric") and best not in metrics and not named_by_width:
        remedy = did_you_mean(best, map(str, metrics), f"There are {listed(metrics)}." if metrics else "Add it there.")
        report.add(("val", "best_metric"), "a name under `val: metrics`", describe(best), remedy)
    if not run.is_train and val.get("save_img") is True and "suffix" not in val:
        remedy = "Add `suffix: ~` (the experiment's name ends the file names) or a text of yours."
        report.add(("val", "suffix"), "a key `suffix` beside `save_img: true`", "no such key", remedy)

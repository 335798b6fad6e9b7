"""Keys and values of an option file, against `dscsr_model.options`. Reads no other file, builds nothing."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from dscsr_model.host.options.faults import Key, Report, did_you_mean, nearest
from dscsr_model.host.options.run import Run, find
from dscsr_model.options.datasets import PairedImageDataset
from dscsr_model.options.losses import TARGET_KEYS
from dscsr_model.options.section import CSD, MODELS, OURS, Section, describe, listed
from dscsr_model.options.sections import LoRASection, LossSection, MetricSection, Options, SWASection, TrainSection
from dscsr_model.options.values import SECTION

# Looks like a number to people, but YAML 1.1 wants a dot before the exponent and a sign in it, and else reads text.
_NUMBER_AS_TEXT = re.compile(r"([-+]?)(\d+)(?:\.(\d*))?[eE]([-+]?)(\d+)")
_TEXT_KEYS = frozenset({"name", "type", "suffix", "project", "resume_id"})
_PLACES: dict[str, type[Section] | None] = {
    "the top level": Options,
    **{f"`{key}:`": Options.inside(key) for key in ("path", "train", "val", "logger")},
    "`datasets: train:`": PairedImageDataset,
}
_ELSEWHERE = {key: place for place, kind in _PLACES.items() if kind for key in kind.declared() if key != "type"}
_ELSEWHERE["lora"] = "`network_g:`"
LORA_MODELS = sorted(name for name, marks in MODELS.items() if OURS in marks and CSD not in marks)
# BasicSR's datasets of something else than LQ and GT images, which models like SRModel take.
_FILMS = ("REDSDataset", "REDSRecurrentDataset", "Vimeo90KDataset", "Vimeo90KRecurrentDataset", "VideoTestDataset",
          "VideoTestVimeo90KDataset", "VideoTestDUFDataset", "VideoRecurrentTestDataset")  # fmt: skip
_NOT_IMAGES = {
    "FFHQDataset": "ground truth alone",
    "RealESRGANDataset": "ground truth and kernels, from which RealESRNetModel makes `lq`",
    **dict.fromkeys(_FILMS, "sequences of images"),
}


def check_structure(run: Run) -> None:
    """Report unknown and missing keys and values of the wrong type, in every section whose keys are known."""
    options, report = run.options, run.report
    unread = () if run.is_train else ("train", "logger")  # BasicSR's test.py does not read them
    _find_text_numbers({key: value for key, value in options.items() if key not in unread}, (), report)
    if run.known_model is not None and "network_t" in options:
        remedy = (
            "Take a model type that distils and a top-level `teacher:` section (`network:`, `weights:`, `param_key:`); "
            "BasicSR replaces every `network_*` by the run's own weights when it resumes."
        )
        report.add(("network_t",), "a known option", "a second network", remedy)
    check_section(run, (), options, Options, run.phase, unread)
    if (name := options.get("name")) and isinstance(name, str) and (not name.strip(" .") or "/" in name):
        # BasicSR renames an existing experiments/<name> folder: an empty name would move experiments/ itself away.
        # And it makes the name a part of that of its log.
        remedy = "Give the experiment a name of letters, digits, `_` and `-`."
        report.add(("name",), "a folder name below experiments/ or results/", describe(name), remedy)
    if run.is_train:
        _check_log_writers(run.section("logger"), report)
    if run.known_model is not None:
        _check_lora(run)
        _check_swa(run)
        _check_val(run)
    _check_datasets(run)


def check_section(
    run: Run, key: Key, section: Mapping[Any, Any], kind: type[Section], phase: str, unread: Iterable[str] = ()
) -> None:
    """Check one section, and those inside it, against their declarations.

    Args:
        run: What is checked.
        key: Where the section is.
        section: Its keys and values.
        kind: Its declarations.
        phase: ``train`` or ``test``; decides which keys are needed.
        unread: Sections inside that nobody reads.
    """
    needed = kind.needed(phase, run.known_model)
    missing, refused = needed - set(section), kind.refused(section)
    for name, value in section.items():
        below = (*key, str(name))
        inside: type[Section] | None = LossSection
        takes_null = True
        if kind.reads(name, run.known_model):
            inside, takes_null = kind.inside(name), kind.takes_null(name) and name not in needed
        elif not (run.ours and kind is TrainSection and below[-1].endswith("_opt")):
            if kind.is_closed(run.known_model) and (kind.readers(name) or not run.own_keys):
                meant = nearest(name, missing) or nearest(name, kind.declared())
                missing.discard(meant or "")
                _unknown(run, below, kind, meant)
            continue
        if inside is not None and isinstance(value, dict):
            if name not in unread:
                check_section(run, below, value, inside, phase)
        elif inside is not None and not (value is None and takes_null):
            run.report.add(below, SECTION, describe(value), "Indent its keys below it.")
        elif name in refused:
            remedy = did_you_mean(value, kind.choices(name), f"`{name}`: {kind.about(name)}.")
            run.report.add(below, kind.words(name), describe(value), remedy)
    for name in sorted(missing):
        run.report.add((*key, name), kind.words(name), "no such key", f"Add `{name}:`: {kind.about(name)}.")


def _unknown(run: Run, key: Key, kind: type[Section], meant: str | None) -> None:
    name = key[-1]
    if models := kind.readers(name):
        if run.known_model is not None:  # else `check_unread` looks
            of_other_models(run, key, models)
        return
    if name not in _ELSEWHERE and _host_reads(run, name):
        return
    known = [key for key in kind.declared() if kind.reads(key, run.known_model)]
    remedy = f"Did you mean `{meant}`?" if meant else f"Known here: {listed(sorted(known), most=30)}."
    remedy = f"It belongs under {_ELSEWHERE[name]}." if name in _ELSEWHERE and name not in known else remedy
    run.report.add(key, "a known option", f"`{name}`", remedy)


def _host_reads(run: Run, name: str) -> bool:
    """Whether a model of a name that we know, but a project's own, looks it up: a vendored SRModel has more losses."""
    model = None if run.ours else find(run.registries.MODEL_REGISTRY, run.known_model)
    own = {sys.modules.get(cls.__module__) for cls in getattr(model, "__mro__", ()) if cls is not object}
    looked_up = re.compile(rf"""(\.get\(|\[)["']{re.escape(name)}["']""")
    return any(looked_up.search(source_of(module) or "") for module in own if module)


def source_of(module: ModuleType) -> str | None:
    """The text of its file; None if there is none."""
    try:
        return inspect.getsource(module)
    except (OSError, TypeError):  # no Python source, or an empty file
        return None


def of_other_models(run: Run, key: Key, models: Iterable[str], why: str = "which does not know it") -> None:
    """Report a key that only other model types read."""
    got = f"`model_type: {run.options['model_type']}`, {why}"
    run.report.add(key, f"a model type that knows `{key[-1]}:` ({listed(models)})", got, "Take one, or remove the key.")


def _find_text_numbers(value: Any, key: Key, report: Report) -> None:
    """Report every `1e-4`: YAML 1.1 hands it over as text, and optimizers fail on it much later."""
    if isinstance(value, Mapping):
        for name, below in value.items():
            if name not in _TEXT_KEYS and not str(name).startswith("param_key"):
                _find_text_numbers(below, (*key, str(name)), report)
    elif isinstance(value, list):
        for number, below in enumerate(value, start=1):
            _find_text_numbers(below, (*key, str(number)) if isinstance(below, Mapping) else key, report)
    elif isinstance(value, str) and (match := _NUMBER_AS_TEXT.fullmatch(value)):
        sign, whole, decimals, exponent_sign, exponent = match.groups()
        better = f"{sign}{whole}.{decimals or 0}e{exponent_sign or '+'}{exponent}"
        digits = np.format_float_positional(float(value), trim="-")
        remedy = (
            f"Write `{digits}`: YAML wants a dot and a sign with an exponent (`{better}`), `--force_yml` takes none."
        )
        report.add(key, "a number", f"the text {value!r}", remedy)
    elif isinstance(value, str) and re.fullmatch(r"-\d+(\.\d+)?", value):
        remedy = "Write it into the file, without quotes: `--force_yml` hands negative numbers over as text."
        report.add(key, "a number", f"the text {value!r}", remedy)


def _check_log_writers(logger: Mapping[Any, Any], report: Report) -> None:
    key = ("logger", "use_tb_logger")
    if logger.get("use_tb_logger") is True and importlib.util.find_spec("tensorboard") is None:
        remedy = "Run `pip install tensorboard`, or set it to false."
        report.add(key, "the package `tensorboard` for `use_tb_logger: true`", "none installed", remedy)
    wandb = logger.get("wandb")
    if not isinstance(wandb, dict) or not wandb.get("project"):
        return
    if importlib.util.find_spec("wandb") is None:
        remedy = "Run `pip install wandb`, or write `project: ~`."
        report.add(("logger", "wandb", "project"), "the package `wandb` for a project", "none installed", remedy)
    if logger.get("use_tb_logger") is not True:
        got = describe(logger.get("use_tb_logger"))
        report.add(key, "true, as wandb needs TensorBoard's files", got, "Set it to true.")


def _check_lora(run: Run) -> None:
    key, given = ("network_g", "lora"), run.section("network_g").get("lora")
    if given is None:
        return
    if run.known_model not in LORA_MODELS:
        of_other_models(run, key, LORA_MODELS)
    elif isinstance(given, dict):
        check_section(run, key, given, LoRASection, run.phase)
    else:
        run.report.add(key, SECTION, describe(given), "Indent its keys below it.")


def _check_swa(run: Run) -> None:
    key, train = ("train", "swa"), run.section("train")
    total = run.whole("train", "total_iter")
    if not run.is_train or not run.ours or train.get("swa") is None or run.report.has(*key):
        return
    if decay := train.get("ema_decay"):
        got = f"`swa:` beside `ema_decay: {decay}`"
        run.report.add(key, "one kind of average", got, "Set `ema_decay: 0`, or remove `swa:`.")
    swa = SWASection.parse(run.section(*key))
    if total is not None and swa.networks(total) < 2:
        got = f"one, as `every: {swa.every}` has no other iteration from {swa.begin(total)} to {total}"
        run.report.add((*key, "every"), "two networks or more to average", got, "Take fewer iterations between them.")


def check_loss_keys(run: Run) -> None:
    """Report that there is no loss, or one with a teacher where there is none."""
    given = run.losses() if run.known_model is not None else []
    if run.is_train and run.section("train") and not given and (run.ours or run.known_model == "SRModel"):
        remedy = "Add for example `pixel_opt: {type: L1Loss, loss_weight: 1.0, reduction: mean}`."
        run.report.add(("train", "pixel_opt"), "a loss (`pixel_opt` or `perceptual_opt`)", "none", remedy)
    for key, section in given if not (run.distils or run.is_csd) else ():
        kind = find(run.registries.LOSS_REGISTRY, section.get("type"))
        takes = inspect.signature(kind).parameters if kind is not None else {}
        for name in TARGET_KEYS:
            if name in section and name not in takes:
                of_other_models(run, (*key, name), Options.readers("teacher"))


def _check_val(run: Run) -> None:
    report, val, metrics = run.report, run.section("val"), run.section("val", "metrics")
    for name, metric in metrics.items():
        key = ("val", "metrics", str(name))
        if isinstance(metric, dict):
            check_section(run, key, metric, MetricSection, run.phase)
        else:
            report.add(key, SECTION, describe(metric), "Write `{type: calculate_psnr, crop_border: 4}`.")
    best = val.get("best_metric")
    named_by_width = run.is_csd  # `learning` knows the widths
    if best is not None and not report.has("val", "best_metric") and best not in metrics and not named_by_width:
        remedy = did_you_mean(best, map(str, metrics), f"There are {listed(metrics)}." if metrics else "Add it there.")
        report.add(("val", "best_metric"), "a name under `val: metrics`", describe(best), remedy)
    if not run.is_train and val.get("save_img") is True and "suffix" not in val:
        remedy = "Add `suffix: ~` (the experiment's name ends the file names) or a text of yours."
        report.add(("val", "suffix"), "a key `suffix` beside `save_img: true`", "no such key", remedy)


# --- datasets ---------------------------------------------------------------------------------------------------------


def _check_datasets(run: Run) -> None:
    """Report sections of another phase, and datasets that the model cannot take, beside what `check_section` does."""
    report, datasets = run.report, run.options.get("datasets")
    if not isinstance(datasets, dict):
        return
    if not datasets:
        report.add(("datasets",), "at least one dataset", "none", "See the files in options/ for examples.")
    allowed = ("train", "val") if run.is_train else ("test", "val")
    names: dict[Any, Any] = {}
    for name, dataset in datasets.items():
        key, phase = ("datasets", str(name)), str(name).split("_")[0]
        if phase not in allowed or (phase == "train" and name != "train"):
            words = "`train`, `val` or `val_…`" if run.is_train else "`test`, `test_…` or `val_…`"
            report.add(key, f"a {run.phase}ing dataset called {words}", f"`{name}`", "Rename it.")
        elif not isinstance(dataset, dict):
            report.add(key, SECTION, describe(dataset), "Indent its keys below it.")
        else:
            check_section(run, key, dataset, run.dataset_kind(name), "train" if phase == "train" else "test")
            _check_dataset(run, key, dataset)
            called = dataset.get("name")
            if phase != "train" and isinstance(called, str) and names.setdefault(called, name) != name:
                # Results and metrics of a set go by its name: a second set of that name would overwrite them.
                got = f"`{called}`, which is `{names[called]}`"
                report.add((*key, "name"), "a name of its own for each set", got, "Rename one of them.")
    if run.is_train and "train" not in datasets:
        remedy = did_you_mean("train", map(str, datasets), "Add a section `train:`.")
        report.add(("datasets", "train"), "a dataset to train on", "no such key", remedy)


def _check_dataset(run: Run, key: Key, dataset: Mapping[Any, Any]) -> None:
    kind, known, report = str(dataset.get("type")), run.known_datasets.get(key[1]), run.report
    no_pairs = key[1] == "train" and kind == "SingleImageDataset"
    if run.known_model is not None and (no_pairs or kind in _NOT_IMAGES):
        got = f"`{kind}`, which gives {_NOT_IMAGES.get(kind, 'no ground truth')}"
        remedy = "Take PairedImageDataset, or PairedCropDataset to train on."
        report.add((*key, "type"), "a dataset of image pairs", got, remedy)
    if known is None:
        return
    if known != "SingleImageDataset" and "scale" not in run.options:
        remedy = f"{known} needs it. Add `scale: 4` (or 1 for images of the same size) at the top."
        report.add(("scale",), Options.words("scale"), "no such key", remedy)
    if run.known_model is not None and not run.ours:
        for option, value, stock in (("output", "uint8", "float32"), ("augment", "device", "cpu")):
            if dataset.get(option) == value:
                remedy = (
                    f"{run.known_model} trains on what it is given: take `model_type: EfficientSRModel`, or {stock}."
                )
                report.add((*key, option), f"`{stock}`", f"`{value}`", remedy)
    if (dataset.get("mean") is None) != (dataset.get("std") is None):
        lacking = "mean" if dataset.get("mean") is None else "std"
        report.add((*key, lacking), "`mean` and `std` together", "only one of them", "Give both or neither.")

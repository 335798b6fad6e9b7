"""Keys and types of the sections below ``datasets:``, and which dataset can be what. Reads no other file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dscsr_model.host import options_schema as schema
from dscsr_model.host.options_faults import Report, did_you_mean
from dscsr_model.host.options_structure import Run, check_section, describe


def check_dataset_keys(run: Run) -> None:
    """Report unknown and missing keys, values of the wrong type, and datasets that the model cannot take."""
    report, datasets = run.report, run.options.get("datasets")
    if not isinstance(datasets, dict):
        return
    if not datasets:
        report.add(("datasets",), "at least one dataset", "none", "See the files in options/ for examples.")
    allowed = ("train", "val") if run.is_train else ("test", "val")
    for name, dataset in datasets.items():
        phase = str(name).split("_")[0]
        if phase not in allowed or (phase == "train" and name != "train"):
            words = "`train`, `val` or `val_…`" if run.is_train else "`test`, `test_…` or `val_…`"
            report.add(("datasets", str(name)), f"a {run.phase}ing dataset called {words}", f"`{name}`", "Rename it.")
        elif not isinstance(dataset, dict):
            report.add(("datasets", str(name)), schema.SECTION.words, describe(dataset), "Indent its keys below it.")
        else:
            _dataset(run, str(name), phase, dataset)
            _name_once(datasets, str(name), report)
    if run.is_train and "train" not in datasets:
        remedy = did_you_mean("train", map(str, datasets), "Add a section `train:`.")
        report.add(("datasets", "train"), "a dataset to train on", "no such key", remedy)


def _name_once(datasets: Mapping[Any, Any], name: str, report: Report) -> None:
    """Results and metrics of a set go by its name: a second set of that name would overwrite them."""
    called, before = datasets[name].get("name"), list(datasets)[: list(datasets).index(name)]
    for other in before if name != "train" and called is not None else ():
        if other != "train" and isinstance(datasets[other], dict) and datasets[other].get("name") == called:
            got = f"`{called}`, which is `{other}`"
            report.add(("datasets", name, "name"), "a name of its own for each set", got, "Rename one of them.")


def _dataset(run: Run, name: str, phase: str, dataset: Mapping[Any, Any]) -> None:
    key, known = ("datasets", name), run.known_datasets.get(name)
    required = "train" if phase == "train" else "test"
    table = {**schema.LOOP_DATASET, **schema.DATASET_OPTIONS.get(known or "", {})}
    check_section(dataset, key, table, required, run.report, strict=known is not None)
    kind = str(dataset.get("type"))
    no_pairs = phase == "train" and kind == "SingleImageDataset"
    if run.known_model is not None and (no_pairs or kind in schema.NOT_IMAGES):
        got, words = (
            f"`{kind}`, which gives {schema.NOT_IMAGES.get(kind, 'no ground truth')}",
            "a dataset of image pairs",
        )
        run.report.add((*key, "type"), words, got, "Take PairedImageDataset, or PairedCropDataset to train on.")
    if known is None:
        return
    backend = dataset.get("io_backend")
    if isinstance(backend, dict):
        check_section(backend, (*key, "io_backend"), schema.IO_BACKEND, required, run.report, strict=True)
    if "gt_size" in table and "scale" not in run.options:
        remedy = "Add `scale: 4` (or 1 for images of the same size) at the top."
        run.report.add(("scale",), schema.COUNT.words, "no such key", f"{known} needs it. {remedy}")
    if run.known_model is not None and run.known_model not in schema.ON_DEVICE:
        for option, value, stock in (("output", "uint8", "float32"), ("augment", "device", "cpu")):
            if dataset.get(option) == value:
                remedy = (
                    f"{run.known_model} trains on what it is given: take `model_type: EfficientSRModel`, or {stock}."
                )
                run.report.add((*key, option), f"`{stock}`", f"`{value}`", remedy)
    if (dataset.get("mean") is None) != (dataset.get("std") is None):
        lacking = "mean" if dataset.get("mean") is None else "std"
        run.report.add((*key, lacking), "`mean` and `std` together", "only one of them", "Give both or neither.")

"""A teacher's outputs that are stored beside the training data: are they there, of these images, of this teacher."""

from __future__ import annotations

from pathlib import Path

from dscsr_model.data.sources import open_pair, open_teacher
from dscsr_model.data.teacher_store import TeacherReader
from dscsr_model.host.options.run import Run
from dscsr_model.options.datasets import PairedCropDataset
from dscsr_model.options.section import CSD, DISTILLING, MODELS, describe, listed
from dscsr_model.weights import sha256

_NAME = "dataroot_teacher"


def check_stored_teacher(run: Run) -> None:
    """Report stored outputs that are not those of the images, or not of the teacher that is named beside them."""
    for name, dataset in run.section("datasets").items():
        if name != "train" and isinstance(dataset, dict) and dataset.get(_NAME) is not None:
            got = f"it in `{name}`, which compares with GT alone"
            run.report.add(("datasets", str(name), _NAME), "stored outputs in `train` alone", got, "Remove it.")
    key = ("datasets", "train", _NAME)
    if not run.is_train or not run.stored_teacher or run.known_datasets.get("train") != "PairedCropDataset":
        return
    if run.known_model is not None and not (run.distils or run.is_csd):
        models = listed(sorted(name for name, marks in MODELS.items() if {DISTILLING, CSD} & {*marks}))
        got = f"`{run.known_model}`, which does not read them"
        run.report.add(key, f"a model type that takes stored outputs ({models})", got, "Take one, or remove the key.")
        return
    targets = [target for stage in run.by_stage for target in stage.targets.values()]
    known = run.known_model is not None and not run.report.has("train")
    if known and not any(one.compares_with_output for one in targets):
        remedy = "Add `target: teacher` to a loss on the output, or remove the key."
        run.report.add(key, "a loss that compares with these outputs", "none with `target: teacher`", remedy)
    reader, channels, scale = None, run.channels.get("train"), run.whole("scale")
    section = run.section("datasets", "train")
    if channels is None or scale is None or run.report.has("datasets", "train"):
        return
    with run.report.catching(key):
        options = PairedCropDataset.parse(section)
        reader = open_teacher(options, open_pair(section, options), scale, channels)
    if reader is not None:
        _compare(run, reader)


def _compare(run: Run, reader: TeacherReader) -> None:
    """What `teacher:` says must be what they were made with; a border would only lose pixels."""
    section, record = run.section("teacher"), reader.record
    if section.get("border"):
        got, words = section["border"], "none, as stored outputs are those of whole images"
        run.report.add(("teacher", "border"), words, got, f"Remove it, or `{_NAME}`.")
    given = section.get("self_ensemble")
    if given is not None and given != record.self_ensemble:
        expected = f"{str(record.self_ensemble).lower()}, as the outputs in `{_NAME}` were stored"
        run.report.add(("teacher", "self_ensemble"), expected, describe(given), "Correct it, or store others.")
    named = section.get("weights")
    files = [Path(file).expanduser() for file in (named if isinstance(named, list) else [named]) if file]
    if not files or run.report.has("teacher", "weights") or not all(file.is_file() for file in files):
        return
    if sorted(map(sha256, files)) != sorted(one.sha256 for one in record.teachers):
        got = f"{listed(files)}, of another SHA-256"
        remedy = "Name them, or store the outputs of these with `dscsr prepare --teacher`; without a loss on layers "
        remedy += "`teacher:` may be left out."
        expected = f"the teachers whose outputs are in `{_NAME}`, {record.words}"
        run.report.add(("teacher", "weights"), expected, got, remedy)

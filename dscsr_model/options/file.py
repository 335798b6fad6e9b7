"""A whole option file, as the model type that it names reads it."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from dscsr_model.options.section import CLOSED, OPEN, Section, option
from dscsr_model.options.sections import (
    CSDVal,
    DistSection,
    LoggerSection,
    LoopLogger,
    LoopPath,
    LoopTrain,
    LoopVal,
    PathSection,
    SRTrain,
    SRVal,
    TeacherSection,
    TrainSection,
    ValSection,
)
from dscsr_model.options.values import AnySection, Bool, Code, Count, GPUs, Seed, Text


class LoopOptions(Section):
    """An option file, as BasicSR's loop reads it."""

    model_config = OPEN

    name: Text = option("names the folder under experiments/ or results/", needed="always")
    model_type: Text = option("class that trains or tests, for example SRModel", needed="always")
    import_: Code | None = Field(
        None, alias="import", description="files or modules with networks, losses, … of your own"
    )
    scale: Count = option("factor between LQ and GT")
    num_gpu: GPUs = option("`auto`, or how many GPUs; 0 is the CPU", needed="always")
    manual_seed: Seed | None = option("seed of everything random; drawn when missing")
    datasets: AnySection = option(
        "train, val, val_2, test_1, … each with its own section",
        needed="always",
        each="Dataset",
    )
    path: LoopPath = option("pretrained weights and the state to resume", needed="always")
    train: LoopTrain = option("losses, optimizer, schedule, length", needed="train")
    val: LoopVal | None = option("validation: how often, metrics, saving", needed="test")
    logger: LoopLogger = option("how often to print and to save", needed="train")
    dist_params: DistSection = option("for --launcher slurm: backend and port")


class SROptions(LoopOptions):
    """Options of SRModel."""

    model_config = CLOSED

    network_g: AnySection = option("the network: `type` and its constructor's arguments", needed="always", of="Network")
    find_unused_parameters: Bool = option("for several GPUs: some parameters get no gradient", False)
    path: PathSection = option("pretrained weights and the state to resume", needed="always")
    train: SRTrain = option("losses, optimizer, schedule, length", needed="train")
    val: SRVal | None = option("validation: how often, metrics, saving", needed="test")


class EfficientOptions(SROptions):
    """Options of EfficientSRModel."""

    train: TrainSection = option("losses, optimizer, schedule, length", needed="train")
    val: ValSection | None = option("validation: how often, metrics, saving", needed="test")
    logger: LoggerSection = option("how often to print and to save", needed="train")


class DistillationOptions(EfficientOptions):
    """Options of DistillationModel and DSCLoRAModel."""

    teacher: TeacherSection = option("a trained network, or several, to learn from")


class CSDOptions(EfficientOptions):
    """Options of CSDModel."""

    val: CSDVal | None = option("validation: how often, metrics, saving", needed="test")


MODELS: dict[str, type[SROptions]] = {
    "SRModel": SROptions,
    "SwinIRModel": SROptions,
    "EfficientSRModel": EfficientOptions,
    "DistillationModel": DistillationOptions,
    "DSCLoRAModel": DistillationOptions,
    "CSDModel": CSDOptions,
}
"""Model types whose options are known. Another one belongs to another plugin: only `LoopOptions` is checked then."""


def section_class(options: type[LoopOptions], key: str) -> type[Section] | None:
    """The class of a section of the file; of the file itself for an empty ``key``."""
    return options if not key else options.inside(key) if key in options.declared() else None


def models_knowing(section: str, key: Any) -> list[str]:
    """Model types that know a key of a section ("" is the top level) beside SRModel's; none for any other key."""
    known = section_class(SROptions, section)
    if known is not None and key in known.declared():
        return []
    return sorted(
        model for model, kind in MODELS.items() if (of := section_class(kind, section)) and key in of.declared()
    )

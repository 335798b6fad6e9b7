"""What the rooms of the option check hand to each other: the options, as what they are read, and where faults go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dscsr_model.host.options.faults import Key, Report, nearest
from dscsr_model.options.datasets import DATASETS, LoopDataset
from dscsr_model.options.losses import CSD_KEYS, TARGET_KEYS
from dscsr_model.options.section import CSD, DISTILLING, MODELS, OURS
from dscsr_model.training.stages import Stage

OTHER_BASICSR_MODELS = frozenset({
    "EDVRModel", "ESRGANModel", "HiFaceGANModel", "RealESRGANModel", "RealESRNetModel", "SRGANModel", "StyleGAN2Model",
    "VideoBaseModel", "VideoGANModel", "VideoRecurrentGANModel", "VideoRecurrentModel",
})  # fmt: skip
"""BasicSR's other models: their networks, losses and metrics are looked up, their keys are their own affair."""


def registries() -> Any:
    """BasicSR's ``basicsr.utils.registry``, with our own types in it."""
    import dscsr_model

    dscsr_model.register()
    from basicsr.utils import registry

    return registry


def find(registry: Any, name: Any) -> Any | None:
    """What BasicSR would take for ``name``, or None."""
    if not isinstance(name, str):
        return None
    entries = dict(iter(registry))
    return entries.get(name) or entries.get(f"{name}_basicsr")


@dataclass
class Run:
    """What is checked, and as what.

    Attributes:
        options: The options, after ``--force_yml``.
        report: Where faults go.
        is_train: Training (True) or testing.
        launcher: none, pytorch or slurm.
        auto_resume: Whether training continues from the newest state by itself.
        registries: BasicSR's module of them.
        own_keys: Whether the script that runs it may read keys that nobody else knows.
        known_model: The model type whose keys are known, or None for another plugin's.
        known_datasets: The same for each dataset, by its key under ``datasets:``.
        channels: Of the images that a dataset gives, by the same key, where they are known.
        stage: Which one of the training, if it has a table of them.
        stages: A run for each of them.
        targets: `LossTarget` or `CSDLoss` of each loss section without a fault, under models that know them.
    """

    options: Mapping[Any, Any]
    report: Report
    is_train: bool
    launcher: str
    auto_resume: bool
    registries: Any
    own_keys: bool = False
    known_model: str | None = None
    known_datasets: dict[str, str | None] = field(default_factory=dict)
    channels: dict[Any, int] = field(default_factory=dict)
    targets: dict[Key, Any] = field(default_factory=dict)
    stage: Stage | None = None
    stages: list[Run] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.known_model = _known_type(self.options.get("model_type"), MODELS, self.registries.MODEL_REGISTRY)
        for name, section in self.section("datasets").items():
            if isinstance(section, dict):
                self.known_datasets[name] = _known_type(section.get("type"), DATASETS, self.registries.DATASET_REGISTRY)

    @property
    def phase(self) -> str:
        """``train`` or ``test``."""
        return "train" if self.is_train else "test"

    @property
    def ours(self) -> bool:
        """Whether the model is EfficientSRModel or a child: any losses, uint8 batches, weights of every dialect."""
        return OURS in MODELS.get(self.known_model or "", ())

    @property
    def distils(self) -> bool:
        """Whether the model has a `teacher:`, and `target` and `layers` in its losses."""
        return DISTILLING in MODELS.get(self.known_model or "", ())

    @property
    def is_csd(self) -> bool:
        """Whether its network is a CSSRNet, with `output_of` and more in its losses."""
        return CSD in MODELS.get(self.known_model or "", ())

    @property
    def basicsr_builds(self) -> bool:
        """Whether networks and losses of the model are those of BasicSR's registries, read as BasicSR does."""
        return self.known_model is not None or str(self.options.get("model_type")) in OTHER_BASICSR_MODELS

    @property
    def stored_teacher(self) -> bool:
        """Whether the training data has a teacher's outputs."""
        return self.section("datasets", "train").get("dataroot_teacher") is not None

    def dataset_kind(self, name: Any) -> type[LoopDataset]:
        """The declarations of a dataset's section."""
        return DATASETS.get(self.known_datasets.get(name) or "", LoopDataset)

    @property
    def by_stage(self) -> list[Run]:
        """The runs of its stages, or itself."""
        return self.stages or [self]

    def section(self, *key: str) -> Mapping[Any, Any]:
        """The section at ``key``, or an empty one when it is missing or no section; in a list, 1 is the first."""
        value: Any = self.options
        for name in key:
            value = {str(n): one for n, one in enumerate(value, 1)} if isinstance(value, list) else value
            value = value.get(name) if isinstance(value, dict) else None
        return value if isinstance(value, dict) else {}

    def whole(self, *key: str, default: int | None = None) -> int | None:
        """A whole number, or its default; None where it is faulty."""
        value = self.section(*key[:-1]).get(key[-1], default)
        value = int(value) if isinstance(value, float) and value.is_integer() else value
        sound = isinstance(value, int) and not isinstance(value, bool) and not self.report.has(*key)
        return value if sound else None

    def losses(self) -> list[tuple[Key, Mapping[str, Any]]]:
        """Sections ``<name>_opt`` of ``train:``."""
        sections = self.section("train").items() if self.is_train else ()
        return [(("train", str(k)), s) for k, s in sections if str(k).endswith("_opt") and isinstance(s, dict) and s]

    def arguments(self, key: Key) -> dict[str, Any]:
        """What the constructor of a network or loss gets: without ``type`` and the keys that the model reads itself."""
        own: tuple[str, ...] = ("type",)
        if key == ("network_g",) and (self.known_model is None or self.ours) and not self.is_csd:
            own = ("type", "lora")
        elif key[-1].endswith("_opt") and (self.distils or self.is_csd):
            own = ("type", *(TARGET_KEYS if self.distils else CSD_KEYS))
        return {str(name): value for name, value in self.section(*key).items() if name not in own}


def _known_type(name: Any, known: Iterable[str], registry: Any) -> str | None:
    """Which of the types whose keys we know ``name`` is, or was meant to be; None for another plugin's."""
    known = list(known)
    if name in known:
        return str(name)
    if isinstance(name, str) and find(registry, name) is None:
        close = nearest(name, registry.keys())
        return close if close in known else None
    return None

"""What becomes of a validated image: its files and its scores, as BasicSR's models make them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
from basicsr.metrics import calculate_metric
from basicsr.utils.registry import METRIC_REGISTRY

from dscsr_model.files import disk_errors
from dscsr_model.training.validation import Image, Results, Scores


class Scorer:
    """Saves the results of one image where BasicSR would, if asked to, and computes their metrics.

    Args:
        opt: All options.
        dataset_name: Of the validation set.
        current_iter: Iteration, or the name of the test.
        save_img: Whether to save.
    """

    def __init__(self, opt: Mapping[str, Any], dataset_name: str, current_iter: Any, save_img: bool) -> None:
        self._opt, self._dataset, self._iter, self._save = opt, dataset_name, current_iter, save_img
        self._metrics: Mapping[str, Mapping[str, Any]] = opt["val"].get("metrics") or {}

    def __call__(self, results: Results, gt: Image | None, lq_path: str) -> Scores:
        """Save and score.

        Args:
            results: Of one image; their labels end the names of files and metrics.
            gt: The ground truth; without it, only metrics that need none are computed.
            lq_path: Path of the LQ image, after which results are named.

        Returns:
            Metric with label to value, or to what it said where it could not be computed (NIQE of small images): no
            reason to lose a run.
        """
        for label, image in results.items() if self._save else ():
            path = self._path(Path(lq_path).stem, label)
            with disk_errors(path):  # imwrite would write less on a full disk, and say nothing
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())
        truth = {} if gt is None else {"img2": gt}
        return {
            f"{name}{label}": _score({"img": image, **truth}, section, Path(lq_path).name)
            for name, section in self._metrics.items()
            if gt is not None or not _compares(section)
            for label, image in results.items()
        }

    def _path(self, name: str, label: str) -> Path:
        """By image while training, by data set when testing."""
        folder = Path(self._opt["path"]["visualization"])
        if self._opt["is_train"]:
            return folder / name / f"{name}{label}_{self._iter}.png"
        return folder / self._dataset / f"{name}{label}_{self._opt['val'].get('suffix') or self._opt['name']}.png"


def _score(images: dict[str, Image], section: Mapping[str, Any], name: str) -> float | str:
    try:
        return float(calculate_metric(images, dict(section)))
    except Exception as error:  # whatever a metric raises
        return f"{section['type']} of {name}: {f'{type(error).__name__}: {error}'.strip().splitlines()[0]}"


def _compares(section: Mapping[str, Any]) -> bool:
    """Whether a metric is one of two images."""
    return "img2" in inspect.signature(METRIC_REGISTRY.get(section["type"])).parameters

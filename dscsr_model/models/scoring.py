"""What becomes of a validated image: its files and its scores, as BasicSR's models make them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from basicsr.metrics import calculate_metric
from basicsr.utils.registry import METRIC_REGISTRY
from numpy.typing import NDArray

from dscsr_model.files import disk_errors
from dscsr_model.training.validation import Scores

Image = NDArray[np.uint8]
"""(H, W, 3) BGR, or (H, W) of one channel."""


def save_image(image: Image, opt: Mapping[str, Any], dataset_name: str, name: str, label: str, run: Any) -> None:
    """Save a result where BasicSR would: by image while training, by data set when testing.

    Raises:
        DiskError: It cannot be written; imwrite would write less on a full disk, and say nothing.
    """
    end = run if opt["is_train"] else opt["val"].get("suffix") or opt["name"]
    folder = name if opt["is_train"] else dataset_name
    path = Path(opt["path"]["visualization"], folder, f"{name}{label}_{end}.png")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())


def score(
    results: Mapping[str, Image], gt: Image | None, metrics: Mapping[str, Mapping[str, Any]], name: str
) -> Scores:
    """Metrics of the results of one image, whose labels end those of the metrics.

    What cannot be computed (NIQE of small images) becomes words: no reason to lose a run. Without a ground truth only
    metrics are computed that need none.
    """
    truth = {} if gt is None else {"img2": gt}
    return {
        f"{metric}{label}": _score({"img": image, **truth}, section, name)
        for metric, section in metrics.items()
        if gt is not None or "img2" not in inspect.signature(METRIC_REGISTRY.get(section["type"])).parameters
        for label, image in results.items()
    }


def _score(images: dict[str, Image], section: Mapping[str, Any], name: str) -> float | str:
    try:
        return float(calculate_metric(images, dict(section)))
    except Exception as error:  # whatever a metric raises
        return f"{section['type']} of {name}: {f'{type(error).__name__}: {error}'.strip().splitlines()[0]}"

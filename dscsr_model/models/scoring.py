"""What happens to a super-resolved image: BasicSR's metrics and BasicSR's file names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
from basicsr.metrics import calculate_metric
from basicsr.utils.registry import METRIC_REGISTRY

from dscsr_model.files import disk_errors
from dscsr_model.training.validation import Images, Scores


def finish_image(
    opt: Mapping[str, Any],
    dataset_name: str,
    current_iter: Any,
    save_img: bool,
    metrics: Mapping[str, Mapping[str, Any]],
    images: Images,
    lq_path: str,
    label: str = "",
) -> Scores:
    """Save the result where BasicSR would, if asked to, and compute its metrics.

    Args:
        opt: All options.
        dataset_name: Of the validation set.
        current_iter: Iteration, or the name of the test.
        save_img: Whether to save.
        metrics: Sections of ``val: metrics``.
        images: The result and, where there is one, the ground truth.
        lq_path: Path of the LQ image, after which the result is named.
        label: Goes into the file name, behind that of the image.

    Returns:
        Metric to value, or to what it said where it could not be computed (NIQE of small images): no reason to lose a
        run. Without a ground truth only of those that need none.
    """
    if save_img:
        path = image_path(opt, dataset_name, Path(lq_path).stem, current_iter, label)
        with disk_errors(path):  # imwrite would write less on a full disk, and say nothing
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(cv2.imencode(path.suffix, images["img"])[1].tobytes())
    return {
        name: _score(images, section, Path(lq_path).name)
        for name, section in metrics.items()
        if "img2" in images or not _compares(section)
    }


def _score(images: Images, section: Mapping[str, Any], name: str) -> float | str:
    try:
        return float(calculate_metric(dict(images), dict(section)))
    except Exception as error:  # whatever a metric raises
        return f"{section['type']} of {name}: {f'{type(error).__name__}: {error}'.strip().splitlines()[0]}"


def _compares(section: Mapping[str, Any]) -> bool:
    """Whether a metric is one of two images."""
    return "img2" in inspect.signature(METRIC_REGISTRY.get(section["type"])).parameters


def image_path(opt: Mapping[str, Any], dataset_name: str, name: str, current_iter: Any, label: str = "") -> Path:
    """Where BasicSR saves a result: by image while training, by data set when testing."""
    folder = Path(opt["path"]["visualization"])
    if opt["is_train"]:
        return folder / name / f"{name}{label}_{current_iter}.png"
    return folder / dataset_name / f"{name}{label}_{opt['val'].get('suffix') or opt['name']}.png"

"""What `prepare --degrade` does to LQ images: blur, noise and JPEG, in the order in which they are given."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from dscsr_arch.errors import DscsrError
from dscsr_model.data.noise import drawn_by

Pixels = NDArray[np.float32]


class Step(NamedTuple):
    """One of `KINDS`, and how strong it is."""

    kind: str
    value: float


def _blur(image: Pixels, sigma: float, key: str) -> Pixels:
    reach = math.ceil(4 * sigma)  # beyond, 6e-5 of the kernel
    blurred = cv2.GaussianBlur(image, (2 * reach + 1,) * 2, sigma, borderType=cv2.BORDER_REFLECT)
    return blurred.reshape(image.shape)  # OpenCV leaves one channel out


def _noise(image: Pixels, sigma: float, key: str) -> Pixels:
    return image + np.float32(sigma) * drawn_by(key).standard_normal(image.shape, np.float32)


def _jpeg(image: Pixels, quality: float, key: str) -> Pixels:
    data = cv2.imencode(".jpg", _rounded(image)[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1]
    decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_UNCHANGED), np.float32)
    return decoded.reshape(image.shape)[:, :, ::-1]


KINDS: dict[str, tuple[str, Callable[[float], bool], Callable[[Pixels, float, str], Pixels]]] = {
    "blur": ("blur=SIGMA, up to 50 pixels", lambda value: 0 < value <= 50, _blur),
    "noise": ("noise=SIGMA, up to 255 levels", lambda value: 0 < value <= 255, _noise),
    "jpeg": ("jpeg=QUALITY, 1 to 100", lambda value: value in range(1, 101), _jpeg),
}
"""Of each: in words, which values it takes, and what it does to (H, W, C) in levels of 0 to 255, by a key."""


def read_steps(words: Iterable[str]) -> list[Step]:
    """The steps of ``["blur=2", "jpeg=40"]``; `DscsrError` for another kind or a value that it does not take."""
    steps = []
    for word in words:
        kind, _, text = word.partition("=")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if kind not in KINDS or not KINDS[kind][1](value):
            kinds = "; ".join(kind[0] for kind in KINDS.values())
            raise DscsrError(f"--degrade to be among {kinds}", repr(word), "Write such as --degrade blur=2 jpeg=40.")
        steps.append(Step(kind, value))
    return steps


def degrade(image: NDArray[np.uint8], steps: Iterable[Step], key: str) -> NDArray[np.uint8]:
    """Give (H, W, C) RGB or gray as the steps leave it; ``key`` decides its noise. Rounded and clipped at the end."""
    pixels = image.astype(np.float32)
    for number, step in enumerate(steps):
        pixels = KINDS[step.kind][2](pixels, step.value, f"{number} {key}")
    return _rounded(pixels)


def _rounded(image: Pixels) -> NDArray[np.uint8]:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)

"""Gaussian noise drawn by key: the same for any number of workers, in a resumed run, and in every test of an image."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def drawn_by(*key: int | str) -> np.random.Generator:
    """A generator of its own for each key, the same on every machine (as long as numpy draws as it does)."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16, person=b"noise").digest()
    return np.random.Generator(np.random.SFC64(int.from_bytes(digest, "little")))


def noisy(image: NDArray, noise: float | Sequence[float], *key: int | str) -> NDArray[np.float32]:
    """Add white Gaussian noise to an image, neither clipped nor rounded, as papers on denoising do it.

    Args:
        image: Any shape, uint8, or float32 in [0, 1].
        noise: Its σ in levels of 0 to 255, or the two between which it is drawn.
        key: What decides the noise.

    Returns:
        Levels in [0, 1] but for the noise.
    """
    draw = drawn_by(*key)
    sigma = draw.uniform(noise[0], noise[1]) if isinstance(noise, Sequence) else noise
    added = draw.standard_normal(image.shape, np.float32)
    added *= sigma / 255
    added += image / np.float32(255) if image.dtype == np.uint8 else image
    return added

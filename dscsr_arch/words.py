"""Words for people. Importing this costs nothing: no torch."""

from __future__ import annotations


def many(count: int, thing: str) -> str:
    """``1 image``, ``2,000 images``, ``0 batches``."""
    ending = "" if count == 1 else "es" if thing.endswith(("s", "tch")) else "s"
    return f"{count:,} {thing}{ending}"


def every(count: int, thing: str) -> str:
    """``every iteration``, ``every 2,000 iterations``."""
    return f"every {thing if count == 1 else many(count, thing)}"

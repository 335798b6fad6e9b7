"""Write a network, load it again, compare it with its source, and only then give it its name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn

from dscsr_arch.deployable import deployable
from dscsr_arch.errors import DscsrError, UnavailableError
from dscsr_arch.metadata import Metadata, describe
from dscsr_arch.quantized_conv import in_words, require_full_precision
from dscsr_model.export.compare import Difference, difference
from dscsr_model.export.formats import Format
from dscsr_model.files import atomic_folder, disk_errors


class Shipped(NamedTuple):
    """What was written."""

    path: Path
    metadata: Metadata
    parameters: int
    """Of the fused network."""
    bytes: int
    """Of all its files."""
    differences: dict[str, Difference]
    """By what read the file: of its images from the source's."""
    not_asked: dict[str, str]
    """What would have read it, too, but cannot here: why not."""
    quantized: str
    """How many convolutions are quantized, and in how many bits."""


def ship(
    network: nn.Module,
    path: Path,
    form: Format,
    *,
    half: bool = False,
    force: bool = False,
    sources: Sequence[str | os.PathLike[str]] = (),
) -> Shipped:
    """Write ``network`` to ``path``, checked; see `compare.difference` for what that means.

    Args:
        network: A network as `load_model` gives it; it stays as it is.
        path: The file; of a format of several, the first. Its folder is made if it is missing.
        form: What to write.
        half: In float16.
        force: Replace what is there.
        sources: Files that are never overwritten, ``force`` or not.

    Raises:
        DscsrError: ``path`` is taken, cannot be written, or what was written is not what it should be. Nothing of it
            is kept.
    """
    check_places(form.files(path), sources)
    if half:
        require_full_precision(network, "float16")
    shipped = deployable(network)
    metadata, differences, not_asked = describe(shipped), {}, {}
    names = [out.name for out in form.files(path)]
    with disk_errors(path), atomic_folder(path.parent, names, replace=force) as folder:
        file = folder / path.name
        form.write(network, file, half=half)
        for by, read in form.readers.items():
            try:
                differences[by] = difference(network, read(file, shipped), half=half, by=by)
            except UnavailableError as error:  # noqa: PERF203 - of two readers
                not_asked[by] = str(error)
        size = sum(made.stat().st_size for made in form.files(file))
    parameters = sum(parameter.numel() for parameter in shipped.parameters())
    return Shipped(path, metadata, parameters, size, differences, not_asked, in_words(shipped))


def check_places(outs: Sequence[Path], sources: Sequence[str | os.PathLike[str]]) -> None:
    """Raise DscsrError if a file to be written is a folder, or one of the ``sources``."""
    for out in outs:
        if out.is_dir():
            raise DscsrError("a file name", f"{out}, which is a folder", "Choose another name.")
        if any(out.exists() and os.path.exists(source) and out.samefile(source) for source in sources):
            raise DscsrError("an output beside the source", f"the source itself: {out}", "Choose another name.")

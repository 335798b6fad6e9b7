"""Write a network aside, load it again, compare it with its source, and only then give it its name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn

from dscsr_arch.deployable import deployable
from dscsr_arch.errors import DscsrError
from dscsr_arch.metadata import Metadata, describe
from dscsr_arch.sizes import likely_channels
from dscsr_model.export.compare import difference
from dscsr_model.export.formats import Format
from dscsr_model.files import atomic_folder, disk_errors


class Shipped(NamedTuple):
    """What was written."""

    path: Path
    metadata: Metadata
    parameters: int
    """Of the fused network."""
    bytes: int
    differences: dict[str, float]
    """By what read the file: the largest difference of its images from the source's."""
    not_asked: dict[str, str]
    """What would have read it, too, but cannot here: why not."""


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

    Until everything is right the file has another name in the same folder, and when anything is wrong it is removed.

    Args:
        network: A network as `load_model` gives it; it stays as it is.
        path: The file. Its folder is made if it is missing.
        form: What to write.
        half: In float16.
        force: Replace ``path`` if it is there.
        sources: Files that are never overwritten, ``force`` or not.

    Raises:
        DscsrError: ``path`` is taken, cannot be written, or what was written is not what it should be.
    """
    metadata = describe(shipped := deployable(network))
    _check_free(path, force, sources)
    with disk_errors(path), atomic_folder(path.parent, [path.name], force) as folder:
        temporary = folder / path.name
        form.write(network, temporary, half)
        channels = metadata.arguments.get("num_in_ch", likely_channels(network)[0])
        found, not_asked = {}, {}
        for by, run, why_not in form.checks(temporary, metadata.network):
            if run is None:
                not_asked[by] = why_not
            else:
                found[by] = difference(network, run, channels, half=half, what=f"the file, read by {by},")
        size = temporary.stat().st_size
        _check_free(path, force, sources)  # somebody may have come while we wrote
    return Shipped(path, metadata, sum(p.numel() for p in shipped.parameters()), size, found, not_asked)


def _check_free(path: Path, force: bool, sources: Sequence[str | os.PathLike[str]]) -> None:
    if path.is_dir():
        raise DscsrError(f"Expected a file name, but {path} is a folder. Choose another name.")
    if any(path.exists() and os.path.exists(source) and path.samefile(source) for source in sources):
        raise DscsrError(
            f"Expected an output beside the source, but got the source itself: {path}. Choose another name."
        )
    if (path.exists() or path.is_symlink()) and not force:
        raise DscsrError(
            f"Expected to write something new, but {path} exists. Pass --force to replace it, or choose another name."
        )

"""Where VGG-19's ImageNet weights are looked for. Nothing is ever downloaded, and nothing heavy is imported."""

from __future__ import annotations

import os
from pathlib import Path

from dscsr_arch.errors import DscsrError

FILE = "vgg19-dcbb9e9d.pth"
SOURCE = f"https://download.pytorch.org/models/{FILE}"
IMAGENET, RANDOM = "imagenet", "random"
_REMEDY = (
    f"Fetch torchvision's weights of VGG-19 from {SOURCE} (548 MB; nothing is downloaded unasked) and put them there, "
    "or write `vgg_weights: <path>`; `features: teacher` needs no such file."
)


def find_vgg_weights(vgg_weights: str) -> Path | None:
    """The weight file that an option ``vgg_weights`` means.

    Args:
        vgg_weights: ``imagenet`` for torchvision's file in one of `places`, ``random`` for none, else a path.

    Returns:
        An existing file, or None for ``random``.

    Raises:
        DscsrError: There is no such file; says where to get it and where to put it.
    """
    if vgg_weights == RANDOM:
        return None
    if not isinstance(vgg_weights, str) or not vgg_weights:
        raise DscsrError(
            f"Expected `vgg_weights` to be {IMAGENET}, {RANDOM} or a path, but got {vgg_weights!r}. Correct it."
        )
    if vgg_weights == IMAGENET:
        for folder in places():
            if (folder / FILE).is_file():
                return folder / FILE
        listed = " or ".join(f"'{folder / FILE}'" for folder in places())
        raise DscsrError(f"Expected {listed} for `vgg_weights: {IMAGENET}`, but got no such file. {_REMEDY}")
    file = Path(vgg_weights).expanduser()
    if not file.is_file():
        got = "which is a folder" if file.is_dir() else "which does not exist"
        raise DscsrError(f"Expected weights of VGG-19, but got '{file}', {got}. {_REMEDY}")
    return file


def places() -> tuple[Path, ...]:
    """Folders of torchvision's file: BasicSR's, below the working directory, and the cache of torch.hub."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "torch")
    hub = Path(os.environ.get("TORCH_HOME") or cache).expanduser() / "hub" / "checkpoints"
    return Path("experiments", "pretrained_models"), hub

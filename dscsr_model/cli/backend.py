"""``--backend``: what runs the network of ``dscsr upscale``, as asked for, by its file, or the fastest that is here."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dscsr_arch.errors import DscsrError, ImageError, UnavailableError
from dscsr_model.cli import networks
from dscsr_model.inference.backends import BACKENDS, NAMES, TORCH, open_network, openers
from dscsr_model.shared_work import Alone

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dscsr_model.inference.engines import Engine
    from dscsr_model.profiling.fastest import Choice

AUTO = "auto"
_SIDE = 256


def add_argument(parser: argparse.ArgumentParser) -> None:
    """Declare ``--backend``."""
    parser.add_argument(
        "--backend",
        choices=(*NAMES, AUTO),
        help="what runs the network (default torch, or what opens the file); auto: the fastest that is installed, "
        "after a second of measuring",
    )


def check(args: argparse.Namespace) -> None:
    """Raise `DscsrError` if the backend does not suit the weights, or what else was asked for."""
    possible, backend = openers(args.weights), backend_of(args)
    is_file = TORCH not in possible
    if backend not in (*possible, AUTO):
        kind = f"weights of PyTorch for --backend {TORCH}" if backend == TORCH else f"a file for --backend {backend}"
        raise DscsrError(kind, args.weights, "Leave --backend out.")
    fixed = args.base or args.width or args.param_key or args.overrides or args.opt
    if is_file and (args.precision != "fp32" or fixed):
        what = "an ONNX file" if args.weights.suffix.lower() == ".onnx" else "a program"
        raise DscsrError(
            f"no --precision, --base, --width, --param-key, -opt or --set with {what}, which has all that fixed",
            "one",
            "Leave it out, or export another file (dscsr export).",
        )
    wrong = "--compile" if args.compile else f"--precision {args.precision}"
    if backend == AUTO and (args.compile or args.precision != "fp32"):
        raise DscsrError("--precision fp32, and no --compile, with --backend auto", wrong, "Leave one of the two out.")
    if backend in BACKENDS and (args.compile or args.precision not in BACKENDS[backend].precisions):
        precisions = " or ".join(BACKENDS[backend].precisions)
        expected = f"--precision {precisions}, and no --compile, with {BACKENDS[backend].label}"
        raise DscsrError(expected, wrong, "Leave it out, or choose --backend torch.")


def backend_of(args: argparse.Namespace) -> str:
    """Its name: as asked for, or as the weights tell."""
    given: str | None = args.backend
    return given or (TORCH if TORCH in openers(args.weights) else openers(args.weights)[0])


def make_engine(args: argparse.Namespace, team: Alone) -> Engine:
    """The engine that the arguments name. Under ``auto`` rank 0 measures while the others wait; all take its choice."""
    from dscsr_model.inference.engines import find_device

    name = backend_of(args)
    if name in BACKENDS:
        BACKENDS[name].require()
    else:
        find_device(args.device)  # before the weights are read
    network = networks.load_network(args) if TORCH in openers(args.weights) else None
    with tempfile.TemporaryDirectory(prefix="dscsr_upscale_") as folder:
        if name == AUTO and team.rank > 0:
            name = team.learn()
        if name != AUTO:
            return _build(name, network, Path(folder), args)
        builders = {each: partial(_build, each, network, Path(folder), args) for each in _installed(args.weights)}
        found = _fastest(builders, args.input, levels=_has_levels(args.weights, network))
        team.decide(lambda: found.name)
        return found.engine


def _build(name: str, network: nn.Module | None, folder: Path, args: argparse.Namespace) -> Engine:
    if network is None:
        return BACKENDS[name].open(args.weights, device=args.device, precision=args.precision)
    if name == TORCH:
        from dscsr_model.inference.engines import torch_engine

        return torch_engine(network, device=args.device, precision=args.precision, compile=args.compile)
    return open_network(BACKENDS[name], network, folder, write, device=args.device, precision=args.precision)


def write(form: str, network: nn.Module, path: Path, half: bool) -> None:
    """Write a network as a file of a format, by its name, compared as every export; see `open_network`."""
    from dscsr_model.export.formats import FORMATS
    from dscsr_model.export.ship import ship

    ship(network, path, FORMATS[form], half=half)


def _installed(weights: Path) -> list[str]:
    """What can run the weights here. Of the others those are told that are installed, and broken."""
    found, missing, broken = [], None, []
    for name in openers(weights):
        try:
            if name != TORCH:
                BACKENDS[name].require()
            found.append(name)
        except UnavailableError as error:  # noqa: PERF203 - of a few
            missing = missing or error
            if find_spec(BACKENDS[name].package):
                broken.append(f"{BACKENDS[name].label} was no candidate: {error}")
    if missing and not found:
        raise missing
    if broken:
        print("\n".join(broken), file=sys.stderr)
    return found


def _has_levels(weights: Path, network: nn.Module | None) -> bool:
    """Whether numbers become whole in a network, or in an ONNX file."""
    from dscsr_arch.quantized_conv import quantized_layers

    if network is not None:
        return bool(quantized_layers(network))
    from dscsr_model.inference.onnx_file import has_levels

    return weights.suffix.lower() == ".onnx" and has_levels(weights)


def _fastest(builders: Mapping[str, Callable[[], Engine]], source: Path, *, levels: bool) -> Choice:
    from dscsr_model.profiling.fastest import fastest

    found = fastest(builders, _tile(source), levels=levels)
    label = {TORCH: "PyTorch"} | {name: each.label for name, each in BACKENDS.items()}
    times = ", ".join(f"{label[name]} {ms:.3g} ms" for name, ms in found.milliseconds.items())
    height, width = found.size
    print(f"--backend {found.name}: the fastest here ({times}, for {width}x{height} pixels)", file=sys.stderr)
    for name, fault in found.faults.items():
        print(f"{label[name]} was no candidate: {fault}", file=sys.stderr)
    return found


def _tile(source: Path) -> Tensor:
    """The middle of the first image that can be read, (1, 3, H, W) in [0, 1], of at most `_SIDE` pixels a side.

    Without one it is noise: each image will be named as broken in its turn.
    """
    import torch

    from dscsr_model.data.image_io import read_image
    from dscsr_model.data.pairing import search_images

    for file in [source] if source.is_file() else [source / name for name in search_images(source)[0]]:
        try:
            pixels: Any = read_image(file).pixels
        except (ImageError, OSError, MemoryError):
            continue
        height, width, channels = pixels.shape
        top, left = max(0, height - _SIDE) // 2, max(0, width - _SIDE) // 2
        part = pixels[top : top + _SIDE, left : left + _SIDE, [0, 1, 2] if channels > 2 else [0, 0, 0]]
        image = torch.from_numpy(part.astype("float32")) / (255 if pixels.dtype == "uint8" else 65535)
        return image.permute(2, 0, 1)[None]
    return torch.rand(1, 3, _SIDE, _SIDE)

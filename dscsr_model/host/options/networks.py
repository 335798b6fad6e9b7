"""Networks of an option file: do they fit the data, can they be built, and which sizes of images do they take.

They are built to be looked at: without memory for their weights where that is possible, and never without end.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from dscsr_arch.architecture import architectures
from dscsr_arch.cssr_arch import CSSRNet
from dscsr_arch.errors import SizeError
from dscsr_arch.foreign import find_backbone
from dscsr_arch.sizes import SizeRequirements, size_requirements
from dscsr_arch.words import many
from dscsr_model.data.memory import free_ram
from dscsr_model.host.options.faults import Key, Report
from dscsr_model.host.options.run import Run
from dscsr_model.training.quantization import quantized
from dscsr_model.training.validation import evaluating

_THEIRS = frozenset({"ECBSR", "MSRResNet", "RIDNet", "RRDBNet", "SRVGGNetCompact", "SwinIR"})
INPUT_CHANNELS = ("num_in_ch", "in_chans")
"""What networks call the channels of the images that they take; the latter, SwinIR's, are the output's, too."""
SIDE = 16
"""From here on, of the image that is sent through a network."""
_MOST_LAYERS = 100_000


def is_image_network(kind: str) -> bool:
    """Whether networks of a type take one image and give one: cheap to build, and their `scale` is the image's."""
    return kind.removesuffix("_dscsr") in {"CSSRNet", *architectures(), *_THEIRS}


# --- arguments that the data decide -----------------------------------------------------------------------------------


def check_against_data(key: Key, network_class: Any, run: Run) -> None:
    """Report a scale or channels of ``network_g``, or of its backbone, that are not the data's.

    A network tells its scale by an argument; of networks that we do not know, `upscale` only, and only if given.
    """
    section, scale = run.section(*key), run.whole("scale")
    if network_class is CSSRNet:
        if isinstance(backbone := section.get("backbone"), dict):
            check_against_data((*key, "backbone"), find_backbone(backbone["type"]), run)
        return
    known = is_image_network(section["type"])
    parameters = inspect.signature(network_class).parameters

    def told(name: str) -> tuple[int | None, str]:
        default = parameters[name].default if known and name in parameters else None
        value = section.get(name, default)
        sound = isinstance(value, int) and not isinstance(value, bool)
        return value if sound else None, f"{value}" if name in section else f"{value}, its default"

    for name in ("upscale", "scale") if scale is not None and known else ("upscale",) if scale is not None else ():
        value, got = told(name)
        if value is not None and value != scale:
            remedy = f"Write `{name}: {scale}`, or change `scale:` and the data to {value}."
            run.report.add((*key, name), f"{scale}, as `scale: {scale}` at the top says", got, remedy)
    for name in (*INPUT_CHANNELS, "num_out_ch") if known else ():
        value, got = told(name)
        others = {dataset: channels for dataset, channels in run.channels.items() if channels != value}
        if value is None or not others:
            continue
        if len(set(run.channels.values())) == 1:
            expected = f"{next(iter(others.values()))}, the channels of the datasets' images"
            remedy = "Write it so, or change the images: `dscsr prepare --color`, and `color` of PairedCropDataset."
            run.report.add((*key, name), expected, got, remedy)
            continue
        for dataset, channels in others.items():  # where the datasets differ, it is theirs to change
            expected = f"images of {many(value, 'channel')}, as the network's `{name}` says"
            remedy = _other_channels(str(run.known_datasets[dataset]), value)
            run.report.add(("datasets", str(dataset)), expected, channels, remedy)


def _other_channels(dataset: str, wanted: int) -> str:
    """How a dataset comes to give them."""
    if dataset == "PairedCropDataset":
        return f"Set `color: {'gray' if wanted == 1 else 'rgb'}`."
    if wanted != 1:
        return "Remove its `color: y`."
    if dataset == "SingleImageDataset":
        return "Leave it out, and enlarge its images by `dscsr upscale`, which gives a gray network each channel."
    return "Take `type: PairedCropDataset` with `color: gray` (BasicSR's `y` has levels from 16 to 235)."


# --- building ---------------------------------------------------------------------------------------------------------


def build_network(
    key: Key, arguments: Mapping[str, Any], network_class: Any, known: bool, report: Report
) -> nn.Module | None:
    """Build the network, without memory for its weights where it can be; one that cannot, only if it is ``known``."""
    network, error = _try_on("meta", network_class, arguments)
    bytes_needed = sum(p.numel() * p.element_size() for p in network.parameters()) if network is not None else 0
    if bytes_needed > (free := free_ram()):
        got = f"weights of {bytes_needed / 2**30:,.1f} GiB, and {free / 2**30:,.1f} GiB are free"
        report.add(key, "a network that fits into memory", got, "Make it smaller.")
        return None
    if error is not None and known and not isinstance(error, _EndlessError):
        network, error = _try_on("cpu", network_class, arguments)  # some read values that `meta` does not have
    if error is not None and (known or isinstance(error, _EndlessError)):
        report.add_raised(key, f"arguments that {network_class.__name__} takes", error)
    return network


class _EndlessError(Exception):
    """A constructor that would go on for ever, as with a mistyped number of blocks."""


@contextmanager
def quietly_built() -> Iterator[None]:
    """Networks built inside leave torch's generator as it is, warn of nothing, and have an end."""
    count = 0

    def registered(*_: Any) -> None:
        nonlocal count
        count += 1
        if count > _MOST_LAYERS:
            raise _EndlessError(f"more than {_MOST_LAYERS:,} layers")

    hook = register_module_module_registration_hook(registered)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")  # training will show them
            yield
    finally:
        hook.remove()


def _try_on(device: str, network_class: Any, arguments: Mapping[str, Any]) -> tuple[nn.Module | None, Exception | None]:
    try:
        with quietly_built(), torch.device(device):
            network = network_class(**arguments)
    except Exception as error:  # whatever a constructor raises
        return None, error
    return (network if isinstance(network, nn.Module) else None), None


def put_quantizers(network: nn.Module, run: Run) -> nn.Module | None:
    """``network`` quantized as ``train: quantize:`` says; None where that is faulty."""
    key, section = ("train", "quantize"), run.section("train").get("quantize")
    if not isinstance(section, dict) or not run.is_train or run.report.has(*key):
        return network
    with run.report.catching(key):
        return quantized(network, section)
    return None


# --- sizes ------------------------------------------------------------------------------------------------------------


def check_sizes(network: nn.Module, run: Run, at: Key = ("network_g",), role: str = "") -> None:
    """Report a network of our models, at a place in the file, that does not take the images or patches of the training.

    Patches are never padded.
    """
    if not run.is_train or not run.ours:
        return
    try:
        with evaluating(network):
            sizes = size_requirements(network)
            if at == ("network_g",):
                _check_output(network, sizes.fit(SIDE), run)
    except SizeError as error:
        known = is_image_network(type(network).__name__)  # of others, some operations need memory
        if known or not any(parameter.is_meta for parameter in network.parameters()):
            run.report.add_error(at, error)
        return
    for one in run.by_stage:
        _check_patch(network, sizes, one, role)


def _check_patch(network: nn.Module, sizes: SizeRequirements, run: Run, role: str) -> None:
    key, step = ("datasets", "train", "gt_size"), sizes.multiple_of
    gt_size, scale = run.whole(*key) or 0, run.whole("scale", default=1) or 0
    patch = gt_size // scale if scale else 0
    if patch and (fitting := sizes.fit(patch)) != patch:
        sides = [side for side in (patch // step * step, fitting) if side >= sizes.minimum]
        name = f"{type(network).__name__}{role}"
        words = f"LQ patches whose sides {name} takes, from {sizes.fit(1)} pixels in steps of {step}"
        remedy = f"Write `gt_size: {' or '.join(str(side * scale) for side in sides)}`."
        run.report.add(key, words, f"{patch} (`gt_size: {gt_size}`)", remedy)


def _check_output(network: nn.Module, side: int, run: Run) -> None:
    """Channels and scale must be the data's. Where torch stretches one to the other, only a validation would show it.

    Arguments that say so have many names (``in_chans``, ``upscaling_factor``); the network itself is asked.
    """
    scale, of_data = run.whole("scale"), set(run.channels.values())
    if scale is None or len(of_data) != 1:
        return
    (channels,) = of_data
    given, wanted = (channels, side, side), (channels, side * scale, side * scale)
    like = next(network.parameters(), torch.empty(0))
    try:
        with torch.no_grad():
            got = f"{tuple(network(like.new_zeros(1, *given)).shape[1:])}"
    except Exception as error:  # whatever a network raises
        got = str(error).strip().partition("\n")[0] or type(error).__name__
        if like.is_meta and hasattr(network, "size_multiple"):
            return  # it has not been tried before: operations may need memory
    if got != f"{wanted}":
        kind, remedy = type(network).__name__, "Give it the channels and the scale of the data."
        run.report.add(("network_g",), f"images {wanted} from {given}, as the data are", f"{got} from {kind}", remedy)


def common_side(networks: Iterable[nn.Module], least: int) -> int:
    """The smallest side from ``least`` on of images that all networks take; those that take none do not count."""
    common = SizeRequirements()
    for network in networks:
        with evaluating(network), suppress(SizeError):
            found = size_requirements(network)
            multiple = math.lcm(common.multiple_of, found.multiple_of)
            common = SizeRequirements(multiple, max(common.minimum, found.minimum))
    return common.fit(least)

"""What students learn from: teachers, the layers that are compared, and LoRA."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from dscsr_arch.conv_lora import lora_layers
from dscsr_arch.errors import DscsrError, LoRAError, WeightsError
from dscsr_arch.sizes import likely_channels
from dscsr_arch.words import many
from dscsr_model.host.options.faults import Key
from dscsr_model.host.options.networks import INPUT_CHANNELS, SIDE, check_sizes, common_side, quietly_built
from dscsr_model.host.options.run import Run, find
from dscsr_model.options.section import describe
from dscsr_model.options.sections import TeacherSection
from dscsr_model.training import lora
from dscsr_model.training.feature_hooks import FeatureHooks, Features, check_layer
from dscsr_model.training.teacher import build_teachers, frozen
from dscsr_model.training.validation import evaluating

AS_TEACHER = " (a teacher of layers, which would not lie where the student's do in a padded patch)"
"""What messages add to its name when it does not take the patches."""
_FEATURE_LOSSES = frozenset({
    "SpatialAffinityLoss", "AttentionTransferLoss", "L1Loss", "MSELoss", "CharbonnierLoss",
})  # fmt: skip
"""Losses that may compare features and cost nothing to build."""


def put_lora(network: nn.Module, run: Run) -> nn.Module | None:
    """``network`` with the LoRA of its section; None where that is faulty."""
    section, key = run.section("network_g").get("lora"), ("network_g", "lora")
    if not run.ours or run.is_csd or section is None:
        return network
    if run.is_train:
        _check_base(run)
    for name in ("rank", "dora", "dropout") if not section.get("layers") else ():
        if section.get(name):
            words = f"`{name}` beside `layers`, as `weights` alone tell their ranks and train as they are"
            run.report.add((*key, name), words, describe(section[name]), "Remove it, or add `layers`.")
    if run.report.has(*key):
        return None
    layers, weights = section.get("layers"), section.get("weights")
    with run.report.catching((*key, "layers") if layers else (*key, "weights") if weights else key):
        network = lora.inject_lora(network, {**section, "weights": None} if layers else section)
    if layers and weights:
        with run.report.catching((*key, "weights")):
            network = lora.start_from(network, section)
    if run.is_train and not run.report.has(*key) and (idle := _idle_layers(network, _input_channels(run))):
        got = f"{idle[0]}{f' and {len(idle) - 1} more' if idle[1:] else ''}, which it does not call: LoRA there is lost"
        remedy = f"Leave such layers out by a pattern before the others, `'{idle[0]}': ~`."
        run.report.add((*key, "layers") if layers else key, "layers that the network calls", got, remedy)
    return None if run.report.has(*key) else network


def _idle_layers(network: nn.Module, channels: int) -> list[str]:
    """Layers with LoRA that no image passes: what reads their weights, if anything does, does not see the update."""
    called: set[nn.Module] = set()
    hooks = [
        layer.register_forward_hook(lambda module, *_: called.add(module)) for layer in lora_layers(network).values()
    ]
    like, side = next(network.parameters()), common_side([network], SIDE)
    with evaluating(network), torch.no_grad():
        for training in (False, True):  # in either
            with suppress(Exception):  # whatever a network raises: others report it
                network.train(training)(like.new_zeros(2, channels, side, side))
    for hook in hooks:
        hook.remove()
    return [name for name, layer in lora_layers(network).items() if layer not in called] if called else []


def _check_base(run: Run) -> None:
    if run.section("path").get("pretrain_network_g") is None:
        remedy = "LoRA trains on a frozen network: name the weight file of a trained one."
        run.report.add(("path", "pretrain_network_g"), "the base of the LoRA", "none", remedy)


def check_teachers(run: Run, network: nn.Module | None) -> None:
    """Report layers that are not there, and a teacher that cannot be had or does not match the student, ``network``."""
    if not run.is_train or not run.distils:
        return
    if run.known_model == "DSCLoRAModel":
        if network is not None and not lora_layers(network):
            remedy = "Take `type: DSCLoRA`, add `lora:`, or take `model_type: DistillationModel` to train everything."
            run.report.add(("network_g",), "a network with LoRA", f"{type(network).__name__} without", remedy)
        if run.section("network_g").get("lora") is None:  # else `put_lora` has looked
            _check_base(run)
    targets = [target for one in run.by_stage for target in one.targets.values()]
    needed = any(target.asks_teacher(run.stored_teacher) for target in targets)
    teachers = [teacher for teacher in _teachers(run) if teacher is not None] if needed else []
    for one in run.by_stage:
        _check_layers(one, network, teachers)
    if teachers and any(target.layers for target in targets):
        check_sizes(teachers[0], run, ("teacher",), AS_TEACHER)
    for one in run.by_stage if teachers and not run.report.has("network_g") else ():
        _compare(one, network, teachers)


def _check_layers(run: Run, network: nn.Module | None, teachers: list[nn.Module]) -> None:
    for key, target in run.targets.items():
        networks = {"layers": network, "teacher_layers": teachers[0] if teachers else None}
        for name, of in ((name, of) for name, of in networks.items() if of is not None):
            where = (*key, name if name in run.section(*key) else "layers")
            for layer in getattr(target, name) or target.layers or ():
                with run.report.catching((*where, layer)):
                    check_layer(layer, dict(of.named_modules()), type(of).__name__)


def _teachers(run: Run) -> Iterator[nn.Module | None]:
    """The teachers, fused; each file that is none is reported."""
    section = run.section("teacher")
    if not section or run.report.has("teacher"):
        return

    def build(network: Mapping[str, Any]) -> Any:
        return run.registries.ARCH_REGISTRY.get(network["type"])(**{k: v for k, v in network.items() if k != "type"})

    teachers: list[tuple[str, Mapping[str, Any] | None]] = []
    with run.report.catching(("teacher", "network")):
        teachers = TeacherSection.parse(section).teachers
    for number, (file, network) in enumerate(teachers, 1):
        key = ("teacher", "weights", *([file] if isinstance(section["weights"], list) else []))
        at = ("teacher", "network", *([str(number)] if isinstance(section.get("network"), list) else []))
        try:
            with quietly_built():
                yield frozen(build_teachers({**section, "weights": file, "network": network}, build)[0])
        except (LoRAError, WeightsError) as error:
            run.report.add_error(key, error)
        except Exception as error:  # whatever a constructor raises
            run.report.add_raised(at, "arguments that the network takes", error)


def _compare(run: Run, network: nn.Module | None, teachers: list[nn.Module]) -> None:
    """Send an image through student and teachers: do their outputs and features match in shape?

    A patch, if features are compared: they depend on its size where a network pads it by itself, as HAT does.
    """
    scale, channels = run.whole("scale"), _input_channels(run)
    pairs = [(key, *pair) for key, target in run.targets.items() for pair in target.pairs]
    patch = (run.whole("datasets", "train", "gt_size") or 0) // (scale or 1) if pairs else 0
    side = common_side([*teachers, *([network] if network is not None else [])], patch or SIDE)
    x = torch.zeros(1, channels, side, side)
    ours = _probe(network, x, [layer for _, layer, _ in pairs]) if network is not None else ""
    own_features = {} if isinstance(ours, str) else ours[1]
    features: Features = {}
    with run.report.catching(("teacher",)):
        for number, teacher in enumerate(teachers):
            kind, own = type(teacher).__name__, likely_channels(teacher)[0]
            answer = _probe(teacher, x, [] if number else [layer for _, _, layer in pairs])
            if isinstance(answer, str):
                expected = f"a teacher for images of {many(channels, 'channel')}, which `network_g` takes"
                got = f"{kind}, whose first layer takes {own}" if own != channels else f"{kind}, which says: {answer}"
                raise DscsrError(expected, got, "Take another one.")
            found, width = answer[0].shape[-1] / side, answer[0].shape[1]
            if scale is not None and found != scale:
                expected = f"a teacher of scale {scale}, as `scale: {scale}` says"
                raise DscsrError(expected, f"{kind} of scale {found:g}", "Take another one.")
            if not isinstance(ours, str) and width != ours[0].shape[1]:
                expected = f"a teacher whose images have {many(ours[0].shape[1], 'channel')}, as those of `network_g`"
                raise DscsrError(expected, f"{kind} with {width}", "Take another one.")
            features = features or dict(answer[1])
        for key, one, other in pairs:
            if one in own_features and other in features:
                _compare_features(run, key, one, own_features[one], features[other], side)


def _compare_features(run: Run, key: Key, layer: str, ours: Tensor, theirs: Tensor, side: int) -> None:
    """Whether the loss takes features of these shapes; losses that are costly to build are not asked."""
    kind, regress = run.section(*key)["type"], run.targets[key].regress
    loss = find(run.registries.LOSS_REGISTRY, kind)
    maps = ours.dim() == theirs.dim() == 4
    if loss is None or (kind not in _FEATURE_LOSSES and (maps or not regress)):
        return
    shape = (1, theirs.shape[1], *ours.shape[2:]) if regress else ours.shape
    try:
        if regress and not maps:
            raise ValueError("1×1 convolutions regress maps")
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Using a target size")  # torch would stretch one to the other
            loss(**run.arguments(key))(torch.rand(shape), torch.rand(theirs.shape))
    except Exception as error:  # whatever a loss raises
        shapes = (_shape(feature) for feature in (ours, theirs))
        words = f"features that {kind} can compare, for an image of {side}×{side}"
        remedy = "Take layers that match. `regress: true`, or SpatialAffinityLoss or AttentionTransferLoss, compares "
        remedy += "any channels, if height and width are the same."
        if isinstance(error, ValueError) and maps and ours.shape[2:] == theirs.shape[2:]:  # as ours say it
            remedy = " ".join(str(error).split())
        if not maps:
            remedy = "Name layers that put out maps of height and width, such as convolutions."
        run.report.add((*key, "layers", layer), words, "{} beside the teacher's {}".format(*shapes), remedy)


def _input_channels(run: Run) -> int:
    section = run.section("network_g")
    network = find(run.registries.ARCH_REGISTRY, section.get("type"))
    parameters = inspect.signature(network).parameters if network is not None else {}
    name = next((name for name in INPUT_CHANNELS if name in parameters), INPUT_CHANNELS[0])
    default = getattr(parameters.get(name), "default", None)
    default = default if isinstance(default, int) else 3
    return run.whole("network_g", name, default=default) or default


def _shape(feature: Tensor) -> str:
    if feature.dim() == 4:
        channels, height, width = feature.shape[1:]
        return f"{many(channels, 'channel')} of {height}×{width}"
    return f"{'×'.join(map(str, feature.shape[1:]))} numbers without height and width"


def _probe(network: nn.Module, x: Tensor, layers: Iterable[str]) -> tuple[Tensor, Features] | str:
    """Output and features of the image ``x``; or, in words, what went wrong."""
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    known = dict(network.named_modules())
    wanted = [layer for layer in layers if layer in known]
    try:
        with torch.no_grad(), evaluating(network):
            output, features = FeatureHooks(network, wanted).watch(network, x.to(device))
    except Exception as error:  # a layer that no image passes, an input of other channels, an operation without meta
        return str(error).strip().rstrip(".").split("\n")[0] or type(error).__name__
    return output, features

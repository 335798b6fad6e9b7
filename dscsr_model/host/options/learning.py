"""What networks learn from: a teacher, LoRA, the losses, and the widths of a CSSR-Net."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dscsr_arch.conv_lora import lora_layers
from dscsr_arch.cssr_arch import CSSRNet
from dscsr_arch.errors import DscsrError, LoRAError, WeightsError
from dscsr_model.host.options.faults import Key
from dscsr_model.host.options.networks import SIDE, check_sizes, common_side, quietly_built
from dscsr_model.host.options.registry import check_typed
from dscsr_model.host.options.run import Run, find
from dscsr_model.host.options.structure import check_section
from dscsr_model.losses.contrastive_loss import ContrastiveLoss
from dscsr_model.losses.spatial_affinity_loss import SpatialAffinityLoss
from dscsr_model.losses.vgg import SMALLEST
from dscsr_model.options.losses import CSD_KEYS, TARGET_KEYS, CSDLoss, LossTarget, check_cover
from dscsr_model.options.section import describe, listed
from dscsr_model.training import log, lora, widths
from dscsr_model.training.feature_hooks import FeatureHooks, Features, check_layer
from dscsr_model.training.teacher import AS_TEACHER, build_teachers, frozen
from dscsr_model.training.teacher_features import TeacherFeatures
from dscsr_model.training.validation import evaluating

# Losses that may compare features and cost nothing to build.
_FEATURE_LOSSES = frozenset({"SpatialAffinityLoss", "L1Loss", "MSELoss", "CharbonnierLoss"})


def check_losses(run: Run) -> None:
    """Report values that our losses do not take, weights that are not there, and batches that are too small."""
    if run.is_train and run.ours:
        names = [str(name).removesuffix("_opt") for name, loss in run.section("train").items() if loss]
        _try(run, ("train",), lambda: log.check_names(names))
    for key, section in run.losses():
        if run.report.has(*key):
            continue
        kind = find(run.registries.losses, section.get("type"))
        if kind is ContrastiveLoss and run.known_model is not None and not run.is_csd:
            words = f"a model type that gives {section['type']} a teacher and negatives (`CSDModel`)"
            got = f"`model_type: {run.known_model}`, which has no negatives"
            run.report.add((*key, "type"), words, got, "Take it, or remove the loss.")
        elif kind in (ContrastiveLoss, SpatialAffinityLoss):
            try:
                loss = kind(**run.arguments(key))
            except DscsrError as error:  # only weight files raise it
                run.report.add_error((*key, "vgg_weights"), error)
            except (TypeError, ValueError) as error:
                run.report.add_raised(key, f"values that {kind.__name__} takes", error)
            else:
                if isinstance(loss, ContrastiveLoss):
                    _check_negatives(key, loss, run)


def _check_negatives(key: Key, loss: ContrastiveLoss, run: Run) -> None:
    """Negatives are drawn from what is processed at a time: the smallest part of a batch on one GPU."""
    batch = run.whole("datasets", "train", "batch_size_per_gpu")
    parts = run.whole("train", "accumulate_steps", default=1)
    if batch is None or parts is None:
        return
    smallest = batch // min(parts, batch)
    if smallest < loss.num_negatives:
        got = f"{smallest}, as `batch_size_per_gpu: {batch}`"
        got += f" in {parts} parts (`accumulate_steps`)" if parts > 1 else ""
        remedy = f"Take larger batches, or `num_negatives: {smallest}`."
        run.report.add((*key, "num_negatives"), f"a batch of at least {loss.num_negatives} negatives", got, remedy)
    elif smallest == 1 and loss.exclude_self:
        remedy = "Take larger batches, or `exclude_self: false`."
        run.report.add((*key, "exclude_self"), "another sample to compare a negative with", "a batch of one", remedy)


def _try(run: Run, key: Key, check: Callable[[], Any]) -> Any | None:
    try:
        return check()
    except DscsrError as error:
        run.report.add_error(key, error)
        return None


# --- whose output a loss trains, against what -------------------------------------------------------------------------


def check_targets(run: Run) -> None:
    """Report keys of losses that the model reads, a teacher that is missing, and a CSSRNet in the wrong place."""
    _check_backbone(run)
    if not run.is_train or not (run.distils or run.is_csd):
        return
    kind: type[LossTarget | CSDLoss] = LossTarget if run.distils else CSDLoss
    keys = TARGET_KEYS if run.distils else ("type", "features", *CSD_KEYS)
    for key, section in run.losses():
        given = {name: section[name] for name in keys if name in section}
        check_section(run, key, given, kind, "train")
        if not run.report.has(*key) and (target := _try(run, key, partial(kind.parse, given))):
            run.targets[key] = target
    needing = [key[-1] for key, target in run.targets.items() if target.needs_teacher]
    if run.distils and needing and not run.options.get("teacher"):
        got = f"none, and {listed(needing)} compares with it"
        run.report.add(("teacher",), "a section `teacher:`", got, "Add it, with `weights:`, or remove the loss.")
    total: Any = run.section("train").get("total_iter")
    known = len(run.targets) == len(run.losses()) and not run.report.has("train", "total_iter")
    if run.is_csd and run.targets and known:
        _try(run, ("train", "total_iter"), lambda: check_cover(run.targets.values(), int(total)))
    border, side = run.whole("teacher", "border"), run.whole("datasets", "train", "gt_size")
    scale = run.whole("scale")
    if border and side and scale and 2 * border >= side // scale:
        got = f"{border}, while patches have {side // scale} LQ pixels (`gt_size: {side}`)"
        remedy = f"Take at most {(side // scale - 1) // 2}, or larger patches."
        run.report.add(("teacher", "border"), "a border that leaves something of a patch", got, remedy)


def _check_backbone(run: Run) -> None:
    """A backbone is checked under every model type: any of them can test its smallest student."""
    section, key = run.section("network_g"), ("network_g", "backbone")
    kind = find(run.registries.networks, section.get("type"))
    if kind is CSSRNet and isinstance(section.get("backbone"), dict):
        check_typed(run, key, run.registries.networks, "network")
    if run.is_csd and kind is not None and kind is not CSSRNet:
        remedy = "Write `{type: CSSRNet, backbone: {…}, widths: [0.25]}`, or take `model_type: EfficientSRModel`."
        run.report.add(("network_g", "type"), "CSSRNet, as CSDModel trains students", describe(section["type"]), remedy)
    elif kind is CSSRNet and not run.is_csd and run.known_model is not None and run.is_train:
        got = f"`{run.known_model}`, which trains networks of one output"
        run.report.add(("model_type",), "CSDModel, as CSSRNet has several widths", got, "Take it.")


# --- LoRA and widths --------------------------------------------------------------------------------------------------


def put_lora(network: nn.Module, run: Run) -> nn.Module | None:
    """``network`` with the LoRA of its section; None where that is faulty."""
    section, key = run.section("network_g").get("lora"), ("network_g", "lora")
    if not run.ours or run.is_csd or section is None:
        return network
    if run.is_train:
        _check_base(run)
    for name in ("rank", "dropout") if not section.get("layers") else ():
        if section.get(name):
            words = f"`{name}` beside `layers`, as `weights` alone tell their ranks and train as they are"
            run.report.add((*key, name), words, describe(section[name]), "Remove it, or add `layers`.")
    if run.report.has(*key):
        return None
    blamed: Key = key
    try:
        if section.get("layers"):
            blamed = (*key, "layers")
            network = lora.put(network, {**section, "weights": None})
        if section.get("weights"):
            blamed = (*key, "weights")
        return lora.start_from(network, section) if section.get("layers") else lora.put(network, section)
    except DscsrError as error:
        run.report.add_error(blamed, error)
        return None


def _check_base(run: Run) -> None:
    if run.section("path").get("pretrain_network_g") is None:
        remedy = "LoRA trains on a frozen network: name the weight file of a trained one."
        run.report.add(("path", "pretrain_network_g"), "the base of the LoRA", "none", remedy)


def check_learning(run: Run, network: nn.Module | None) -> None:
    """Report widths and layers that are not there, and a teacher that cannot be had or does not match the student.

    Args:
        run: What is checked.
        network: ``network_g``; None where it could not be built.
    """
    if isinstance(network, CSSRNet) and run.is_csd:
        _check_widths(run, network)
        for key, target in run.targets.items():
            if target.contrastive:
                _check_contrast(run, key, target, network)
    if not run.is_train or not run.distils:
        return
    if run.known_model == "DSCLoRAModel":
        if network is not None and not lora_layers(network):
            remedy = "Take `type: DSCLoRA`, add `lora:`, or take `model_type: DistillationModel` to train everything."
            run.report.add(("network_g",), "a network with LoRA", f"{type(network).__name__} without", remedy)
        if run.section("network_g").get("lora") is None:  # else `put_lora` has looked
            _check_base(run)
    _check_teachers(run, network)


def _check_widths(run: Run, network: CSSRNet) -> None:
    val, report = run.section("val"), run.report
    if report.has("val", "widths"):
        return
    teacher = [widths.TEACHER] if not run.is_train or any(t.needs_teacher for t in run.targets.values()) else []
    given, known = val.get("widths"), sorted({widths.TEACHER, *network.widths})
    if given is not None and not (given and all(width in known for width in given)):
        remedy = "Take these, or add to `network_g: widths`."
        report.add(("val", "widths"), f"widths among {listed(known, code=False)}", describe(given), remedy)
        return
    metrics = run.section("val", "metrics")
    names = [*metrics, *(f"{name}_{widths.label(w)}" for name in metrics for w in given or [*network.widths, *teacher])]
    best = val.get("best_metric")
    if best is not None and best not in names:
        report.add(("val", "best_metric"), f"one of {listed(names, most=20)}", describe(best), "Take one.")


def _check_contrast(run: Run, key: Key, target: CSDLoss, network: CSSRNet) -> None:
    side = run.whole("datasets", "train", "gt_size")
    if target.features == "teacher":
        if run.section("path").get("pretrain_network_g") is None:
            words = "a trained teacher, as its first layers compare the images (`features: teacher`)"
            remedy = "Name its weight file, or take other `features` of `vgg19`."
            run.report.add(("path", "pretrain_network_g"), words, "none", remedy)
        layers = tuple(target.feature_layers or ())
        _try(run, (*key, "feature_layers"), lambda: TeacherFeatures(network.backbone, layers))
    elif side is not None and side < SMALLEST:
        words = f"patches of at least {SMALLEST}×{SMALLEST} pixels, as VGG-19 compares them"
        remedy = "Take larger patches, or `features: teacher`."
        run.report.add(("datasets", "train", "gt_size"), words, side, remedy)


# --- teachers ---------------------------------------------------------------------------------------------------------


def _check_teachers(run: Run, network: nn.Module | None) -> None:
    needed = any(target.needs_teacher for target in run.targets.values())
    teachers = [teacher for teacher in _teachers(run) if teacher is not None] if needed else []
    for key, target in run.targets.items():
        for name, of in (("layers", network), ("teacher_layers", teachers[0] if teachers else None)):
            where = (*key, name if name in run.section(*key) else "layers")
            for layer in getattr(target, name) or target.layers or ():
                if of is not None:
                    _check_layer(run, (*where, layer), layer, of)
    if teachers and any(target.layers for target in run.targets.values()):
        check_sizes(teachers[0], run, ("teacher",), AS_TEACHER)
    if teachers and not run.report.has("network_g"):
        _compare(run, network, teachers)


def _check_layer(run: Run, key: Key, layer: str, network: nn.Module) -> None:
    _try(run, key, lambda: check_layer(layer, dict(network.named_modules()), type(network).__name__))


def _teachers(run: Run) -> Iterator[nn.Module | None]:
    """The teachers, fused; each file that is none is reported."""
    section = run.section("teacher")
    if not section or run.report.has("teacher"):
        return

    def build(network: Mapping[str, Any]) -> Any:
        return run.registries.networks.get(network["type"])(**{k: v for k, v in network.items() if k != "type"})

    named = section["weights"]
    for file in named if isinstance(named, list) else [named]:
        key = ("teacher", "weights", *([str(file)] if isinstance(named, list) else []))
        try:
            with quietly_built():
                yield frozen(build_teachers({**section, "weights": file}, build)[0])
        except (LoRAError, WeightsError) as error:
            run.report.add_error(key, error)
        except Exception as error:  # whatever a constructor raises
            run.report.add_raised(("teacher", "network"), "arguments that the network takes", error)


def _compare(run: Run, network: nn.Module | None, teachers: list[nn.Module]) -> None:
    """Send a small image through student and teachers: do their outputs and features match in shape?"""
    report, scale, channels = run.report, run.whole("scale"), _input_channels(run)
    side = common_side([*teachers, *([network] if network is not None else [])], SIDE)
    x = torch.zeros(1, channels, side, side)
    pairs = [(key, *pair) for key, target in run.targets.items() for pair in target.pairs]
    ours = _probe(network, x, [layer for _, layer, _ in pairs]) if network is not None else ""
    features: Features = {}
    for number, teacher in enumerate(teachers):
        answer = _probe(teacher, x, [] if number else [layer for _, _, layer in pairs])
        kind, expected, got = type(teacher).__name__, "", ""
        if isinstance(answer, str):
            expected, got = (
                f"a teacher for images of {channels} channels, which `network_g` takes",
                f"that says: {answer}",
            )
        elif scale is not None and answer[0].shape[-1] != side * scale:
            expected = f"a teacher of scale {scale}, as `scale: {scale}` says"
            got = f"of scale {answer[0].shape[-1] / side:g}"
        elif not isinstance(ours, str) and answer[0].shape[1] != ours[0].shape[1]:
            expected = f"a teacher whose images have {ours[0].shape[1]} channels, as those of `network_g`"
            got = f"with {answer[0].shape[1]}"
        if expected or isinstance(answer, str):
            report.add(("teacher",), expected, f"a {kind} {got}", "Take another one.")
            return
        features = features or dict(answer[1])
    own_features = {} if isinstance(ours, str) else ours[1]
    for key, one, other in pairs:
        if one in own_features and other in features:
            _compare_features(run, key, one, own_features[one], features[other], side)


def _compare_features(run: Run, key: Key, layer: str, ours: Tensor, theirs: Tensor, side: int) -> None:
    """Whether the loss takes features of these shapes; losses that are costly to build are not asked."""
    kind = run.section(*key)["type"]
    loss = find(run.registries.losses, kind)
    if kind not in _FEATURE_LOSSES or loss is None or ours.dim() != 4 or theirs.dim() != 4:
        return
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Using a target size")  # torch would stretch one to the other
            loss(**run.arguments(key))(torch.rand(ours.shape), torch.rand(theirs.shape))
    except Exception:  # whatever a loss raises
        shapes = (f"{feature.shape[1]} channels of {feature.shape[2]}×{feature.shape[3]}" for feature in (ours, theirs))
        words = f"features that {kind} can compare, for an image of {side}×{side}"
        remedy = "Take layers that match, a teacher of this width, or SpatialAffinityLoss, which compares any channels."
        run.report.add((*key, "layers", layer), words, "{} beside the teacher's {}".format(*shapes), remedy)


def _input_channels(run: Run) -> int:
    section = run.section("network_g")
    network = find(run.registries.networks, section.get("type"))
    parameter = inspect.signature(network).parameters.get("num_in_ch") if network is not None else None
    default = 3 if parameter is None or not isinstance(parameter.default, int) else parameter.default
    return run.whole("network_g", "num_in_ch", default=default) or default


def _probe(network: nn.Module, x: Tensor, layers: Iterable[str]) -> tuple[Tensor, Features] | str:
    """Output and features of the image ``x``; or, in words, what went wrong."""
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    known = dict(network.named_modules())
    wanted = [layer for layer in layers if layer in known]
    try:
        with torch.no_grad(), evaluating(network), FeatureHooks(network, wanted) as hooks:
            output, features = hooks.watch(network, x.to(device))
    except Exception as error:  # a layer that no image passes, an input of other channels, an operation without meta
        return str(error).strip().rstrip(".").split("\n")[0] or type(error).__name__
    return output, features

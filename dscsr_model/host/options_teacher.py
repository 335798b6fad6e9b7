"""What students learn from: ``teacher:``, ``network_g: lora:``, and the targets and layers of losses."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dscsr_arch.conv_lora import lora_layers
from dscsr_arch.errors import DscsrError
from dscsr_model.host import options_schema as schema
from dscsr_model.host.options_faults import Key, Report, listed
from dscsr_model.host.options_registry import Registries, find
from dscsr_model.host.options_sizes import check_sizes, common_side
from dscsr_model.host.options_structure import Run, check_section, describe
from dscsr_model.options.losses import TARGET_KEYS, LossTarget
from dscsr_model.training import lora
from dscsr_model.training.feature_hooks import FeatureHooks, Features, check_layer
from dscsr_model.training.teacher import AS_TEACHER, build_teachers, frozen
from dscsr_model.training.validation import evaluating

_SIDE = 16  # from here on, of the image that is sent through student and teacher, to see what shapes come out


def check_learning_sections(run: Run, registries: Registries) -> None:
    """Report keys and values of the sections, and sections that the model type does not know. Builds nothing."""
    if run.known_model is None:
        return
    for key, models in ((("teacher",), schema.DISTILLING), (("network_g", "lora"), schema.LORA_MODELS)):
        given = run.section(*key[:-1]).get(key[-1]) if len(key) > 1 else run.options.get(key[-1])
        if given is None:
            continue
        if run.known_model not in models:
            got = f"`model_type: {run.known_model}`, which does not know it"
            words = f"a model type that knows `{key[-1]}:` ({listed(sorted(models))})"
            run.report.add(key, words, got, "Take one of them, or remove the section.")
        elif not isinstance(given, dict):
            run.report.add(key, schema.SECTION.words, describe(given), "Indent its keys below it.")
        else:
            table = schema.TEACHER if key == ("teacher",) else schema.LORA
            check_section(given, key, table, run.phase, run.report, strict=True)
    if run.is_train:
        _check_aims(run, registries)
        _check_border(run)


def _check_aims(run: Run, registries: Registries) -> None:
    needing = []
    for key, section in _losses(run):
        if run.known_model in schema.CSD_MODELS:
            return  # `options_csd` reads its losses
        if run.known_model not in schema.DISTILLING:
            kind = find(registries.losses, section.get("type"))
            takes = inspect.signature(kind).parameters if kind is not None else {}
            for name in TARGET_KEYS:
                if name in section and name not in takes:
                    words = f"a model type that knows `{name}` ({listed(sorted(schema.DISTILLING))})"
                    got = f"`model_type: {run.known_model}`"
                    run.report.add((*key, name), words, got, "Take one of them, or remove the key.")
            continue
        try:
            aim = LossTarget.parse(section, key[-1])
        except DscsrError as error:
            run.report.add_error(key, error)
        else:
            needing += [key[-1]] if aim.needs_teacher else []
    if needing and not run.options.get("teacher"):
        got = f"none, and {listed(needing)} compares with it"
        run.report.add(("teacher",), "a section `teacher:`", got, "Add it, with `weights:`, or remove the loss.")


def put_lora(network: nn.Module, run: Run) -> nn.Module | None:
    """``network`` with the LoRA of its section; None where that is faulty."""
    section, key = run.section("network_g").get("lora"), ("network_g", "lora")
    if run.known_model not in schema.LORA_MODELS or section is None:
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
            network = lora.inject_lora(network, {**section, "weights": None})
        if section.get("weights"):
            blamed = (*key, "weights")
        return lora.start_from(network, section) if section.get("layers") else lora.inject_lora(network, section)
    except DscsrError as error:
        run.report.add_error(blamed, error)
        return None


def check_learning(run: Run, registries: Registries, network: nn.Module | None) -> None:
    """Report a teacher that cannot be had or does not match the student, and layers that are not there.

    Args:
        run: What is checked.
        registries: BasicSR's.
        network: The student; None where it could not be built.
    """
    if not run.is_train or run.known_model not in schema.DISTILLING:
        return
    if run.known_model == "DSCLoRAModel":
        _check_lora_student(run, network)
    aimed = [(key, LossTarget.parse(section, key[-1])) for key, section in _losses(run) if not run.report.has(*key)]
    teachers = _teachers(run, registries) if any(aim.needs_teacher for _, aim in aimed) else []
    for key, aim in aimed:
        for name, of in (("layers", network), ("teacher_layers", teachers[0] if teachers else None)):
            if of is not None:
                where = (*key, name if name in run.section(*key) else "layers")
                for layer in (pair[name == "teacher_layers"] for pair in aim.pairs):
                    _check_layer(where, layer, of, run.report)
    if teachers and any(aim.pairs for _, aim in aimed):
        check_sizes(teachers[0], run, ("teacher",), AS_TEACHER)
    if teachers and not run.report.has("network_g"):
        _compare(run, registries, network, teachers, aimed)


def _check_border(run: Run) -> None:
    """Something of a patch must be left between the borders."""
    border, side = run.section("teacher").get("border", 0), run.section("datasets", "train").get("gt_size")
    scale = run.options.get("scale")
    if run.report.has("teacher", "border") or not (isinstance(border, int) and isinstance(side, int)):
        return
    if not isinstance(scale, int) or scale < 1 or 2 * border < side // scale:
        return
    got = f"{border}, while patches have {side // scale} LQ pixels (`gt_size: {side}`)"
    remedy = f"Take at most {(side // scale - 1) // 2}, or larger patches."
    run.report.add(("teacher", "border"), "a border that leaves something of a patch", got, remedy)


def _losses(run: Run) -> list[tuple[Key, Mapping[str, Any]]]:
    sections = run.section("train").items()
    return [(("train", str(k)), s) for k, s in sections if str(k).endswith("_opt") and isinstance(s, dict) and s]


def _check_lora_student(run: Run, network: nn.Module | None) -> None:
    if network is not None and not lora_layers(network):
        remedy = "Take `type: DSCLoRA`, add `lora:`, or take `model_type: DistillationModel` to train everything."
        run.report.add(("network_g",), "a network with LoRA", f"{type(network).__name__} without", remedy)
    if run.section("network_g").get("lora") is None:  # else `put_lora` has looked
        _check_base(run)


def _check_base(run: Run) -> None:
    if run.section("path").get("pretrain_network_g") is None:
        remedy = "LoRA trains on a frozen network: name the weight file of a trained one."
        run.report.add(("path", "pretrain_network_g"), "the base of the LoRA", "none", remedy)


def _teachers(run: Run, registries: Registries) -> list[nn.Module]:
    """The teachers, fused; each file that is none is reported."""
    section, report = run.section("teacher"), run.report
    if not section or report.has("teacher"):
        return []
    named = section["weights"]
    files = named if isinstance(named, list) else [named]
    keys = [("teacher", "weights", *([str(file)] if isinstance(named, list) else [])) for file in files]
    found = [
        _teacher(key, {**section, "weights": file}, run, registries) for key, file in zip(keys, files, strict=True)
    ]
    return [teacher for teacher in found if teacher is not None]


def _teacher(key: Key, section: Mapping[str, Any], run: Run, registries: Registries) -> nn.Module | None:
    def build(network: Mapping[str, Any]) -> Any:
        return registries.networks.get(network["type"])(**{k: v for k, v in network.items() if k != "type"})

    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")  # training will show them
            return frozen(build_teachers(section, build)[0])
    except DscsrError as error:
        run.report.add_error(key, error)
    except Exception as error:  # whatever a constructor raises
        message = str(error).strip().rstrip(".") or type(error).__name__
        words = "arguments that the network takes"
        run.report.add(("teacher", "network"), words, f"its error: {message}", "Correct them.")
    return None


def _check_layer(key: Key, layer: str, network: nn.Module, report: Report) -> None:
    try:
        check_layer(layer, dict(network.named_modules()), type(network).__name__)
    except DscsrError as error:
        report.add_error((*key, layer), error)


def _compare(
    run: Run,
    registries: Registries,
    network: nn.Module | None,
    teachers: list[nn.Module],
    aimed: list[tuple[Key, LossTarget]],
) -> None:
    """Send a small image through student and teachers: do their outputs and features match in shape?"""
    report, scale = run.report, run.options.get("scale")
    channels = _input_channels(run, registries)
    side = common_side([*teachers, *([network] if network is not None else [])], _SIDE)
    x = torch.zeros(1, channels, side, side)
    ours = _probe(network, x, [name for _, aim in aimed for name, _ in aim.pairs]) if network is not None else None
    theirs: list[tuple[Tensor, Features]] = []
    for number, teacher in enumerate(teachers):
        layers = [] if number else [layer for _, aim in aimed for _, layer in aim.pairs]
        answer = _probe(teacher, x, layers)
        kind = type(teacher).__name__
        if isinstance(answer, str):
            words = f"a teacher for images of {channels} channels, which `network_g` takes"
            report.add(("teacher",), words, f"a {kind} that says: {answer}", "Take another teacher.")
            return
        theirs.append(answer)
        shape = tuple(answer[0].shape)
        if isinstance(scale, int) and shape[-1] != side * scale:
            got = f"a {kind} of scale {shape[-1] / side:g}"
            report.add(("teacher",), f"a teacher of scale {scale}, as `scale: {scale}` says", got, "Take another one.")
            return
        if isinstance(ours, tuple) and shape[1] != ours[0].shape[1]:
            words = f"a teacher whose images have {ours[0].shape[1]} channels, as those of `network_g`"
            report.add(("teacher",), words, f"a {kind} with {shape[1]}", "Take another teacher.")
            return
    if isinstance(ours, tuple):
        for key, aim in aimed:
            for one, other in aim.pairs:
                if one in ours[1] and other in theirs[0][1]:
                    _compare_features(key, one, ours[1][one], theirs[0][1][other], side, run, registries)


def _compare_features(
    key: Key, layer: str, ours: Tensor, theirs: Tensor, side: int, run: Run, registries: Registries
) -> None:
    """Whether the loss takes features of these shapes; losses that are costly to build are not asked."""
    section = run.section(*key)
    loss = find(registries.losses, section.get("type"))
    if section["type"] not in schema.FEATURE_LOSSES or loss is None or ours.dim() != 4 or theirs.dim() != 4:
        return
    arguments = {k: v for k, v in section.items() if k not in ("type", *TARGET_KEYS)}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Using a target size")  # torch would stretch one to the other
            loss(**arguments)(torch.rand(ours.shape), torch.rand(theirs.shape))
    except Exception:  # whatever a loss raises
        shapes = (f"{feature.shape[1]} channels of {feature.shape[2]}×{feature.shape[3]}" for feature in (ours, theirs))
        words = f"features that {section['type']} can compare, for an image of {side}×{side}"
        remedy = "Take layers that match, a teacher of this width, or SpatialAffinityLoss, which compares any channels."
        run.report.add((*key, "layers", layer), words, "{} beside the teacher's {}".format(*shapes), remedy)


def _input_channels(run: Run, registries: Registries) -> int:
    section = run.section("network_g")
    network = find(registries.networks, section.get("type"))
    parameter = inspect.signature(network).parameters.get("num_in_ch") if network is not None else None
    default = 3 if parameter is None or not isinstance(parameter.default, int) else parameter.default
    given = section.get("num_in_ch", default)
    return given if isinstance(given, int) else default


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

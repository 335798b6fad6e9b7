"""CSDModel in an option file: the backbone and its widths, whose output a loss trains and when, what is validated."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from dscsr_arch.cssr_arch import CSSRNet, find_backbone
from dscsr_arch.errors import DscsrError
from dscsr_model.host import options_schema as schema
from dscsr_model.host.options_faults import Key, listed
from dscsr_model.host.options_registry import Registries, check_typed, find
from dscsr_model.host.options_structure import Run, describe
from dscsr_model.host.options_weights import check_channels, check_scale
from dscsr_model.losses.vgg import SMALLEST
from dscsr_model.options.losses import CSDLoss
from dscsr_model.training import widths
from dscsr_model.training.loss_sections import check_cover, loss_sections
from dscsr_model.training.teacher import TeacherFeatures


def check_csd_sections(run: Run, registries: Registries) -> None:
    """Report a network without students, its backbone's type, arguments and scale, and keys of losses. Builds nothing.

    A backbone is checked under every model type: any of them can test its smallest student.
    """
    section, key = run.section("network_g"), ("network_g", "backbone")
    kind = find(registries.networks, section.get("type"))
    if kind is CSSRNet and isinstance(section.get("backbone"), dict):
        check_typed(key, section["backbone"], registries.networks, "network", run.report, must=True)
        if not run.report.has(*key):
            backbone = find_backbone(section["backbone"]["type"])
            check_scale(key, section["backbone"], backbone, run)
            check_channels(key, section["backbone"], backbone, run)
    if run.known_model not in schema.CSD_MODELS:
        if kind is CSSRNet and run.known_model is not None and run.is_train:
            got = f"`{run.known_model}`, which trains networks of one output"
            run.report.add(("model_type",), "CSDModel, as CSSRNet has several widths", got, "Take it.")
        return
    if kind is not None and kind is not CSSRNet:
        remedy = "Write `{type: CSSRNet, backbone: {…}, widths: [0.25]}`, or take `model_type: EfficientSRModel`."
        run.report.add(("network_g", "type"), "CSSRNet, as CSDModel trains students", describe(section["type"]), remedy)
    if run.is_train:
        _check_roles(run)


def check_csd(run: Run, network: nn.Module | None) -> None:
    """Report widths and layers that the network does not have, and a teacher that is needed and not trained.

    Args:
        run: What is checked.
        network: ``network_g``; None where it could not be built.
    """
    if run.known_model not in schema.CSD_MODELS or not isinstance(network, CSSRNet):
        return
    found = _roles(run)
    val, teacher = run.section("val"), not run.is_train or any(role.needs_teacher for role in found.values())
    known, given = (widths.TEACHER, *network.widths), val.get("widths")
    if given is not None and not (isinstance(given, list) and given and all(width in known for width in given)):
        words = f"a list of widths among {', '.join(map(str, sorted(known)))}"
        run.report.add(("val", "widths"), words, describe(given), "Take these, or add to `network_g: widths`.")
    else:
        labels = map(widths.label, widths.validated_widths(given, network.widths, teacher))
        metrics = run.section("val", "metrics")
        names = [*metrics, *(f"{metric}_{label}" for label in labels for metric in metrics)]
        if metrics and (named := val.get("best_metric")) is not None and named not in names:
            run.report.add(("val", "best_metric"), f"one of {', '.join(names)}", repr(named), "Take one.")
    for name, role in found.items():
        key = ("train", f"{name}_opt")
        if role.contrastive and run.section(*key).get("features") == "teacher":
            _check_first_layers(run, key, role, network)
        elif role.contrastive:
            _check_patch(run)


def _check_roles(run: Run) -> None:
    sections = {str(k): s for k, s in run.section("train").items() if str(k).endswith("_opt") and isinstance(s, dict)}
    for name, section in sections.items():
        _report(run, ("train", name), partial(CSDLoss.parse, section, name))
    total: Any = run.section("train").get("total_iter")
    if schema.ITERATIONS.accepts(total) and sections and not any(run.report.has("train", name) for name in sections):
        _report(run, ("train", "total_iter"), partial(check_cover, _roles(run), int(total)))


def _report(run: Run, key: Key, check: Callable[[], Any]) -> None:
    try:
        check()
    except DscsrError as error:
        run.report.add_error(key, error)


def _roles(run: Run) -> dict[str, CSDLoss]:
    """Those of the losses without a fault so far."""
    train: dict[str, Any] = {
        str(key): section
        for key, section in run.section("train").items()
        if isinstance(section, dict) and not run.report.has("train", str(key))
    }
    sections = loss_sections(train) if run.is_train else {}
    return {name: CSDLoss.parse(section, f"{name}_opt") for name, section in sections.items()}


def _check_first_layers(run: Run, key: Key, role: CSDLoss, network: CSSRNet) -> None:
    if run.section("path").get("pretrain_network_g") is None:
        words = "a trained teacher, as its first layers compare the images (`features: teacher`)"
        remedy = f"Name its weight file, or take other `features` of {listed(['vgg19'])}."
        run.report.add(("path", "pretrain_network_g"), words, "none", remedy)
    _report(run, (*key, "feature_layers"), partial(TeacherFeatures, network.backbone, role.feature_layers or ()))


def _check_patch(run: Run) -> None:
    side = run.section("datasets", "train").get("gt_size")
    if isinstance(side, int) and side < SMALLEST:
        words = f"patches of at least {SMALLEST}×{SMALLEST} pixels, as VGG-19 compares them"
        remedy = "Take larger patches, or `features: teacher`."
        run.report.add(("datasets", "train", "gt_size"), words, f"{side}", remedy)

"""Losses of an option file: what they compare and when, their values, and what CSDModel's need."""

from __future__ import annotations

from typing import Any

from dscsr_arch.cssr_arch import CSSRNet
from dscsr_arch.errors import DscsrError, UnavailableError
from dscsr_model.host import registration
from dscsr_model.host.options.faults import Key
from dscsr_model.host.options.registry import check_typed
from dscsr_model.host.options.run import Run, find
from dscsr_model.host.options.structure import check_section
from dscsr_model.losses.contrastive_loss import ContrastiveLoss
from dscsr_model.losses.msssim_loss import MSSSIMLoss
from dscsr_model.losses.vgg import SMALLEST
from dscsr_model.models.csd_model import TEACHER, width_label
from dscsr_model.options.losses import CSD_KEYS, TARGET_KEYS, CSDLoss, LossTarget
from dscsr_model.options.section import describe, listed
from dscsr_model.training.log import BASICSR_NAMES, loss_sections
from dscsr_model.training.teacher import TeacherFeatures


def check_losses(run: Run) -> None:
    """Report values that our losses do not take, weights that are not there, and batches that are too small."""
    if run.is_train and run.ours:
        _check_names(run)
    for key, section in run.losses():
        if run.report.has(*key):
            continue
        kind = find(run.registries.LOSS_REGISTRY, section.get("type"))
        if kind is ContrastiveLoss and run.known_model is not None and not run.is_csd:
            words = f"a model type that gives {section['type']} a teacher and negatives (`CSDModel`)"
            got = f"`model_type: {run.known_model}`, which has no negatives"
            run.report.add((*key, "type"), words, got, "Take it, or remove the loss.")
        elif kind is not None and kind in registration.losses().values():
            try:
                loss = kind(**run.arguments(key))
            except UnavailableError as error:
                run.report.add_error((*key, "type"), error)
            except DscsrError as error:  # only weight files raise it
                run.report.add_error((*key, "vgg_weights"), error)
            except (TypeError, ValueError) as error:
                run.report.add_raised(key, f"values that {kind.__name__} takes", error)
            else:
                if isinstance(loss, ContrastiveLoss):
                    _check_negatives(key, loss, run)
                if isinstance(loss, MSSSIMLoss):
                    _check_images(key, loss, run)


def _check_names(run: Run) -> None:
    """No two losses may share a name in the log: the terms of a step are summed by it."""
    losses = loss_sections(run.section("train"))
    for owner, name in ((owner, name) for owner, names in BASICSR_NAMES.items() for name in names):
        if owner in losses and name in losses:
            got = f"`{name}_opt` beside `{owner}_opt`, both logged as `l_{name}`"
            run.report.add(("train", f"{name}_opt"), "losses of different names", got, f"Rename `{name}_opt`.")


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


def _check_images(key: Key, loss: MSSSIMLoss, run: Run) -> None:
    """The coarsest scale of a patch must hold a window; less of it is compared with a teacher that has a border."""
    side, target = run.whole("datasets", "train", "gt_size"), run.targets.get(key)
    if getattr(target, "layers", None):
        remedy = "Remove it, or take another loss, such as L1Loss."
        run.report.add((*key, "layers"), "images for MS-SSIM, in [0, 1]", "layers, whose values have no range", remedy)
        return
    border = run.whole("teacher", "border", default=0) if getattr(target, "target", None) == "teacher" else 0
    lost = 2 * (border or 0) * (run.whole("scale") or 1) if run.distils else 0
    if side is not None and side - lost < loss.smallest:
        got = f"{side}, less {lost} of `teacher: border`" if lost else side
        needed = f"patches of at least {loss.smallest + lost} pixels"
        words = f"{needed}, as MS-SSIM compares them in a window of {loss.window}"
        largest = (side - lost - 1) // 16 + 1
        smaller = f", or `window: {largest - (largest + 1) % 2}`" if largest >= 3 else ""
        run.report.add(("datasets", "train", "gt_size"), words, got, f"Take larger patches{smaller}.")


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
        if not run.report.has(*key):
            with run.report.catching(key):
                run.targets[key] = kind.parse(given)
    asking = [key[-1] for key, target in run.targets.items() if run.distils and target.asks_teacher(run.stored_teacher)]
    if asking and not run.options.get("teacher"):
        got = f"none, and {listed(asking)} compares with it"
        got += ", layers of which are not stored" * run.stored_teacher
        run.report.add(("teacher",), "a section `teacher:`", got, "Add it, with `weights:`, or remove the loss.")
    if run.is_csd and run.targets and len(run.targets) == len(run.losses()):
        _check_cover(run)
    border, side = run.whole("teacher", "border"), run.whole("datasets", "train", "gt_size")
    scale = run.whole("scale")
    if border and side and scale and not run.stored_teacher and 2 * border >= side // scale:
        got = f"{border}, while patches have {side // scale} LQ pixels (`gt_size: {side}`)"
        remedy = f"Take at most {(side // scale - 1) // 2}, or larger patches."
        run.report.add(("teacher", "border"), "a border that leaves something of a patch", got, remedy)


def _check_cover(run: Run) -> None:
    """Every iteration must have something to train."""
    first, total = (run.stage.first, run.stage.until) if run.stage else (1, run.whole("train", "total_iter") or 0)
    losses = [loss for loss in run.targets.values() if loss.every in (None, 1)]
    for iteration in sorted([first, *(loss.end_iter + 1 for loss in losses if loss.end_iter is not None)]):
        if first <= iteration <= total and not any(loss.covers(iteration) for loss in losses):
            got = f"none in iteration {iteration} of {total}"
            remedy = "Correct `start_iter`, `end_iter` and `every`, or `total_iter`."
            run.report.add(("train", "total_iter"), "a loss in every iteration", got, remedy)
            return


def _check_backbone(run: Run) -> None:
    """A backbone is checked under every model type: any of them can test its smallest student."""
    section, key = run.section("network_g"), ("network_g", "backbone")
    kind = find(run.registries.ARCH_REGISTRY, section.get("type"))
    if kind is CSSRNet and isinstance(section.get("backbone"), dict):
        check_typed(run, key, run.registries.ARCH_REGISTRY, "network")
    if run.is_csd and kind is not None and kind is not CSSRNet:
        remedy = "Write `{type: CSSRNet, backbone: {…}, widths: [0.25]}`, or take `model_type: EfficientSRModel`."
        run.report.add(("network_g", "type"), "CSSRNet, as CSDModel trains students", describe(section["type"]), remedy)
    elif kind is CSSRNet and not run.is_csd and run.known_model is not None and run.is_train:
        got = f"`{run.known_model}`, which trains networks of one output"
        run.report.add(("model_type",), "CSDModel, as CSSRNet has several widths", got, "Take it.")


# --- CSD --------------------------------------------------------------------------------------------------------------


def check_csd(run: Run, network: Any) -> None:
    """Report widths and layers that ``network_g`` does not have, and patches too small for VGG-19."""
    if isinstance(network, CSSRNet) and run.is_csd:
        _check_widths(run, network)
        layers: dict[Key, Any] = {}
        for one in run.by_stage:
            for key, target in one.targets.items():
                if target.contrastive:
                    _check_contrast(one, key, target, network)
                    if layers.setdefault(key, target.feature_layers) != target.feature_layers:
                        got, remedy = f"others, {target.feature_layers}", "Give the loss of this stage another name."
                        one.report.add((*key, "feature_layers"), f"those of before, {layers[key]}", got, remedy)


def _check_widths(run: Run, network: CSSRNet) -> None:
    val, report = run.section("val"), run.report
    if report.has("val", "widths"):
        return
    targets = [target for one in run.by_stage for target in one.targets.values()]
    runs = not run.is_train or any(target.asks_teacher(run.stored_teacher) for target in targets)
    teacher = [TEACHER] if runs else []
    given, known = val.get("widths"), sorted({TEACHER, *network.widths})
    if given is not None and not (given and all(width in known for width in given)):
        remedy = "Take these, or add to `network_g: widths`."
        report.add(("val", "widths"), f"widths among {listed(known, code=False)}", describe(given), remedy)
        return
    metrics = run.section("val", "metrics")
    names = [*metrics, *(f"{name}_{width_label(w)}" for name in metrics for w in given or [*network.widths, *teacher])]
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
        with run.report.catching((*key, "feature_layers")):
            TeacherFeatures(network.backbone, tuple(target.feature_layers or ()))
    elif side is not None and side < SMALLEST:
        words = f"patches of at least {SMALLEST}×{SMALLEST} pixels, as VGG-19 compares them"
        remedy = "Take larger patches, or `features: teacher`."
        run.report.add(("datasets", "train", "gt_size"), words, side, remedy)

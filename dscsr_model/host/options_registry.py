"""Types named in an option file: are they registered, and do their constructors take the arguments beside them?

The only file of the option check that imports BasicSR, and only when it is called.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from dscsr_model.host import options_schema as schema
from dscsr_model.host.options_faults import Key, Report, did_you_mean, listed, nearest
from dscsr_model.host.options_structure import Run, describe
from dscsr_model.training import optimizers

_SCHEDULERS = {  # SRModel's names, and the classes of basicsr.models.lr_scheduler behind them
    "MultiStepLR": "MultiStepRestartLR",
    "MultiStepRestartLR": "MultiStepRestartLR",
    "CosineAnnealingRestartLR": "CosineAnnealingRestartLR",
}
_PLAIN_LOSSES = frozenset({"L1Loss", "MSELoss", "CharbonnierLoss", "WeightedTVLoss"})  # building them costs nothing
_METRIC_EXTRAS = frozenset({"type", "better"})  # read by SRModel, not by the metric function


class Registries:
    """BasicSR's registries, with our own types in them. Read through their public mapping methods only."""

    def __init__(self) -> None:
        import dscsr_model

        dscsr_model.register()
        from basicsr.utils import registry

        self.models = registry.MODEL_REGISTRY
        self.networks = registry.ARCH_REGISTRY
        self.losses = registry.LOSS_REGISTRY
        self.datasets = registry.DATASET_REGISTRY
        self.metrics = registry.METRIC_REGISTRY


def find(registry: Any, name: Any) -> Any | None:
    """What BasicSR would take for ``name``, or None."""
    if not isinstance(name, str):
        return None
    entries = dict(iter(registry))
    return entries.get(name) or entries.get(f"{name}_basicsr")


def known_type(name: Any, known: Iterable[str], registry: Any) -> str | None:
    """Which of the types whose keys we know ``name`` is, or was meant to be; None for another plugin's."""
    known = list(known)
    if name in known:
        return str(name)
    if isinstance(name, str) and find(registry, name) is None:
        close = nearest(name, registry.keys())
        return close if close in known else None
    return None


def check_registered(run: Run, registries: Registries) -> None:
    """Report types that are not registered and constructor arguments that do not exist or are missing."""
    report, options = run.report, run.options
    _known(("model_type",), options.get("model_type"), registries.models, "model", report)
    for name, dataset in run.section("datasets").items():
        if isinstance(dataset, dict):
            _known(("datasets", str(name), "type"), dataset.get("type"), registries.datasets, "dataset", report)
    # Another plugin's model may build its networks and losses by itself: only what is registered is checked then.
    basicsr_builds = run.basicsr_builds
    for key, section in options.items():
        if str(key).startswith("network_") and isinstance(section, dict):
            section = run.constructors((str(key),), section)
            check_typed((str(key),), section, registries.networks, "network", report, basicsr_builds)
    if run.known_model in schema.DISTILLING and run.section("teacher", "network"):
        section = run.section("teacher", "network")
        check_typed(("teacher", "network"), section, registries.networks, "network", report, True)
    if run.is_train:
        for key, section in run.section("train").items():
            if str(key).endswith("_opt") and isinstance(section, dict) and section:
                where = ("train", str(key))
                section = run.constructors(where, section)
                loss = check_typed(where, section, registries.losses, "loss", report, basicsr_builds)
                if loss is not None and section["type"] in _PLAIN_LOSSES:
                    _try(where, section["type"], report, functools.partial(_try_loss, loss, _arguments(section)))
                    if key == "perceptual_opt" and run.known_model not in (None, *schema.ANY_LOSSES):
                        words, got = f"a loss that {run.known_model} can use as perceptual", f"`{section['type']}`"
                        report.add(where, words, got, "Take PerceptualLoss, or `model_type: EfficientSRModel`.")
    if run.known_model is not None:
        _metrics(run, registries)
        if run.is_train:
            _optimizer(run, registries)
            _scheduler(run, registries)


def check_arguments(
    key: Key, arguments: Mapping[str, Any], function: Callable[..., Any], report: Report, given: Iterable[str] = ()
) -> None:
    """Report arguments of the option file that ``function`` does not take, and those it needs beside ``given``."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a constructor without a readable signature
        return
    named = {p.name: p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    for name in given:
        named.pop(name, None)
    needed = {name for name, p in named.items() if p.default is p.empty} - set(arguments)
    what = getattr(function, "__name__", str(function))
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for name in arguments:
            if name not in named:
                meant = nearest(name, needed) or nearest(name, named)
                needed.discard(meant or "")
                remedy = f"Did you mean `{meant}`?" if meant else f"It takes {listed(named, most=20)}."
                report.add((*key, str(name)), f"an argument of {what}", f"`{name}`", remedy)
    for name in sorted(needed):
        report.add((*key, name), f"a value, as {what} has no default for it", "no such key", f"Add `{name}:`.")


def _known(key: Key, name: Any, registry: Any, what: str, report: Report) -> Any | None:
    if name is None:
        return None  # reported as a missing key, or not needed
    found = find(registry, name)
    if found is None:
        words = f"a registered {what}"
        remedy = did_you_mean(name, registry.keys(), f"Registered are {listed(sorted(registry.keys()), most=12)}.")
        own = "If a file or package of yours defines it, name that at the top: `import: my_file.py`."
        report.add(key, words, describe(name), f"{remedy} {own}")
    return found


def check_typed(
    key: Key, section: Mapping[str, Any], registry: Any, what: str, report: Report, must: bool
) -> Any | None:
    """Check a section of ``type`` and constructor arguments; give the class if all is well so far."""
    name = section.get("type")
    if not must and find(registry, name) is None:
        return None
    if name is None:
        report.add((*key, "type"), f"the name of a {what}", "no such key", "Add `type:`.")
        return None
    found = _known((*key, "type"), name, registry, what, report)
    if found is not None:
        check_arguments(key, _arguments(section), found, report)
    return None if report.has(*key) else found


def _arguments(section: Mapping[str, Any]) -> dict[str, Any]:
    return {str(name): value for name, value in section.items() if name != "type"}


def _try(key: Key, what: str, report: Report, build: Callable[[], Any]) -> Any | None:
    """Build something small; what it raises is a fault at ``key``."""
    try:
        return build()
    except Exception as exc:  # whatever a constructor raises, the user's values caused it
        message = str(exc).strip().rstrip(".") or type(exc).__name__
        report.add(key, f"values that {what} takes", f"its error: {message}", "Correct them.")
        return None


def _try_loss(loss_class: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    value = loss_class(**arguments)(torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8))
    if value.dim():
        raise ValueError(f"it gives {tuple(value.shape)} values, not one that can be minimized (`reduction: mean`)")


def _metrics(run: Run, registries: Registries) -> None:
    tested = {str(name): kind for name, kind in run.known_datasets.items() if name != "train"}
    without_gt = [name for name, kind in tested.items() if kind == "SingleImageDataset"]
    if run.known_model in schema.ON_DEVICE and (len(without_gt) < len(tested) or not run.is_train):
        without_gt = []  # these models score where there is something to compare with
    for name, section in run.section("val", "metrics").items():
        key = ("val", "metrics", str(name))
        if not isinstance(section, dict) or "type" not in section:
            continue
        metric = _known((*key, "type"), section["type"], registries.metrics, "metric", run.report)
        if metric is None:
            continue
        parameters = inspect.signature(metric).parameters
        # BasicSR's metrics swallow unknown arguments in **kwargs: a misspelt test_y_channel would measure RGB.
        if metric.__module__.startswith("basicsr.metrics."):
            known = [p for p in parameters if p not in ("img", "img2", "kwargs")] + sorted(_METRIC_EXTRAS)
            for argument in section:
                if argument not in known:
                    remedy = did_you_mean(argument, known, f"It takes {listed(known)}.")
                    run.report.add((*key, str(argument)), f"an argument of {section['type']}", f"`{argument}`", remedy)
        arguments = {k: v for k, v in section.items() if k not in _METRIC_EXTRAS}
        check_arguments(key, arguments, metric, run.report, given=("img", "img2"))
        if "img2" in parameters and without_gt:
            got = f"`datasets: {without_gt[0]}` without it (SingleImageDataset)"
            remedy = "Add a set that has it, or remove the metric."
            if run.known_model not in schema.ON_DEVICE:
                remedy = "Remove the metric, or take EfficientSRModel, which then scores the other sets alone."
            run.report.add(key, "ground truth to compare with", got, remedy)


def _optimizer(run: Run, registries: Registries) -> None:
    """Ask the model's own ``get_optimizer``: BasicSR 1.4.2 knows Adam only, its master branch several."""
    from basicsr.models.base_model import BaseModel

    key, section = ("train", "optim_g"), run.section("train", "optim_g")
    model = find(registries.models, run.known_model)
    if run.report.has(*key) or not section or model is None:
        return
    if model.get_optimizer is BaseModel.get_optimizer:
        names = [name for name in dir(torch.optim) if inspect.isclass(getattr(torch.optim, name))]
        known = [name for name in names if _optimizer_is_known(BaseModel, name)]
    else:
        known = optimizers.optimizer_names()
    kind = section["type"]
    if kind not in known:
        whose = "This BasicSR" if model.get_optimizer is BaseModel.get_optimizer else f"{run.known_model}"
        remedy = did_you_mean(kind, known, f"{whose} knows {listed(known, most=20)}.")
        run.report.add((*key, "type"), f"an optimizer of {run.known_model}", describe(kind), remedy)
        return
    check_arguments(key, _arguments(section), getattr(torch.optim, kind), run.report, given=("params",))
    if not run.report.has(*key):
        weight = torch.zeros(1, 1, 1, 1, requires_grad=True)
        weight.grad = torch.zeros_like(weight)  # a step shows what the constructor has not looked at, as three `betas`
        _try(key, kind, run.report, lambda: model.get_optimizer(None, kind, [weight], **_arguments(section)).step())


def _optimizer_is_known(base_model: Any, name: str) -> bool:
    try:
        base_model.get_optimizer(None, name, [torch.zeros(1, requires_grad=True)], lr=1e-4)
    except NotImplementedError:
        return False
    except Exception:  # it is known and does not like our one parameter
        return True
    return True


def _scheduler(run: Run, registries: Registries) -> None:
    from basicsr.models import lr_scheduler
    from basicsr.models.base_model import BaseModel

    key, section, report = ("train", "scheduler"), run.section("train", "scheduler"), run.report
    model = find(registries.models, run.known_model)
    if report.has(*key) or not section or model is None:
        return
    kind, known = section["type"], list(_SCHEDULERS)
    if model.setup_schedulers is not BaseModel.setup_schedulers:
        known += [name for name in optimizers.scheduler_names() if name not in known]
    if kind not in known:
        remedy = did_you_mean(kind, known, f"It knows {listed(known, most=20)}.")
        report.add((*key, "type"), f"a schedule of {run.known_model}", describe(kind), remedy)
        return
    theirs = kind in _SCHEDULERS
    schedule = getattr(lr_scheduler, _SCHEDULERS[kind]) if theirs else getattr(torch.optim.lr_scheduler, kind)
    check_arguments(key, _arguments(section), schedule, report, given=("optimizer", "last_epoch"))
    if report.has(*key):
        return
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)])

    def build_and_step() -> None:
        built = schedule(optimizer, **_arguments(section))
        optimizer.step()
        built.step()

    _try(key, kind, report, build_and_step)
    total = run.section("train").get("total_iter", 0)
    if report.has(*key) or report.has("train", "total_iter"):
        return
    if kind == "CosineAnnealingRestartLR" and total - 1 > (periods := sum(section["periods"])):
        got = f"{periods}, shorter than `total_iter: {total}`"
        remedy = "BasicSR would stop with an error there: lengthen the last period."
        report.add((*key, "periods"), "periods that add up to the whole training", got, remedy)
    cycle: Any = schedule(optimizer, **_arguments(section)) if kind == "OneCycleLR" else None
    if cycle is not None and total - 1 > cycle.total_steps:
        got = f"{cycle.total_steps} steps, fewer than `total_iter: {total}`"
        report.add(key, "a cycle of the whole training", got, "It would stop with an error there: lengthen it.")

"""Types named in an option file: are they registered, and do their constructors take the arguments beside them?"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

from dscsr_arch.words import many
from dscsr_model.host.options.faults import Key, Report, did_you_mean, nearest
from dscsr_model.host.options.run import Run, find
from dscsr_model.host.options.structure import LORA_MODELS, of_other_models, source_of
from dscsr_model.options.section import MODELS, describe, listed
from dscsr_model.options.sections import Options
from dscsr_model.training import optimizers

_SCHEDULERS = {  # SRModel's names, and the classes of basicsr.models.lr_scheduler behind them
    "MultiStepLR": "MultiStepRestartLR",
    "MultiStepRestartLR": "MultiStepRestartLR",
    "CosineAnnealingRestartLR": "CosineAnnealingRestartLR",
}
_PLAIN_LOSSES = frozenset({"L1Loss", "MSELoss", "CharbonnierLoss", "WeightedTVLoss"})  # building them costs nothing
_METRIC_EXTRAS = frozenset({"type", "better"})  # read by SRModel, not by the metric function


def check_registered(run: Run) -> None:
    """Report types that are not registered and constructor arguments that do not exist or are missing."""
    report, registries = run.report, run.registries
    look_up(("model_type",), run.options.get("model_type"), registries.MODEL_REGISTRY, "model", report)
    for name, dataset in run.section("datasets").items():
        if isinstance(dataset, dict):
            look_up(
                ("datasets", str(name), "type"), dataset.get("type"), registries.DATASET_REGISTRY, "dataset", report
            )
    # Another plugin's model may build its networks and losses by itself: only what is registered is checked then.
    for name, section in run.options.items():
        if str(name).startswith("network_") and isinstance(section, dict):
            check_typed(run, (str(name),), registries.ARCH_REGISTRY, "network", run.basicsr_builds)
    for key in _networks_of_teachers(run) if run.distils else ():
        check_typed(run, key, registries.ARCH_REGISTRY, "network")
    for key, section in run.losses():
        loss = check_typed(run, key, registries.LOSS_REGISTRY, "loss", run.basicsr_builds)
        if loss is not None and section["type"] in _PLAIN_LOSSES:
            _try_loss(run, key, loss)
    if run.known_model is not None:
        _check_metrics(run)
        if run.is_train:
            _check_optimizer(run)
            _check_scheduler(run)


def _networks_of_teachers(run: Run) -> list[Key]:
    """Where the sections of `teacher: network` are, which may be a list."""
    key, given = ("teacher", "network"), run.section("teacher").get("network")
    if isinstance(given, list):
        return [(*key, str(number)) for number, section in enumerate(given, 1) if section]
    return [key] if given else []


def look_up(key: Key, name: Any, registry: Any, what: str, report: Report) -> Any | None:
    """What is registered as ``name``; None is reported, unless there is no name: that is a missing key."""
    found = find(registry, name)
    if found is None and name is not None:
        remedy = did_you_mean(name, registry.keys(), f"Registered are {listed(sorted(registry.keys()), most=12)}.")
        own = "If a file or package of yours defines it, name that at the top: `import: my_file.py`."
        report.add(key, f"a registered {what}", describe(name), f"{remedy} {own}")
    return found


def check_typed(run: Run, key: Key, registry: Any, what: str, must: bool = True) -> Any | None:
    """Check a section of ``type`` and constructor arguments; give the class if all is well so far."""
    name = run.section(*key).get("type")
    if not must and find(registry, name) is None:
        return None
    if name is None:
        run.report.add((*key, "type"), f"the name of a {what}", "no such key", "Add `type:`.")
        return None
    found = look_up((*key, "type"), name, registry, what, run.report)
    if found is not None:
        check_arguments(key, run.arguments(key), found, run.report)
    return None if run.report.has(*key) else found


def check_arguments(
    key: Key, arguments: Mapping[str, Any], function: Callable[..., Any], report: Report, given: Iterable[str] = ()
) -> None:
    """Report arguments of the option file that ``function`` does not take, and those it needs beside ``given``."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a constructor without a readable signature
        return
    named = {p.name: p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name not in given}
    needed = {name for name, p in named.items() if p.default is p.empty} - set(arguments)
    what = getattr(function, "__name__", str(function))
    # BasicSR's metrics swallow unknown arguments in **kwargs: a misspelt test_y_channel would measure RGB.
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters) and not function.__module__.startswith(
        "basicsr.metrics."
    )
    for name in arguments if not takes_any else ():
        if name not in named:
            meant = nearest(name, needed) or nearest(name, named)
            needed.discard(meant or "")
            remedy = f"Did you mean `{meant}`?" if meant else f"It takes {listed(named, most=20)}."
            report.add((*key, str(name)), f"an argument of {what}", f"`{name}`", remedy)
    for name in sorted(needed):
        report.add((*key, name), f"a value, as {what} has no default for it", "no such key", f"Add `{name}:`.")


def _try(key: Key, what: str, report: Report, build: Callable[[], Any]) -> Any | None:
    """Build something small; what it raises is a fault at ``key``."""
    try:
        return build()
    except Exception as error:  # whatever a constructor raises, the user's values caused it
        report.add_raised(key, f"values that {what} takes", error)
        return None


def _try_loss(run: Run, key: Key, loss_class: Callable[..., Any]) -> None:
    kind = run.section(*key)["type"]
    loss = _try(key, kind, run.report, lambda: loss_class(**run.arguments(key)))
    value = loss and _try(key, kind, run.report, lambda: loss(torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)))
    if value is not None and value.dim():
        got = f"{tuple(value.shape)} of them"
        run.report.add(key, f"one number of {kind} to minimize", got, "Write `reduction: mean`.")
    if key[-1] == "perceptual_opt" and run.known_model is not None and not run.ours:
        words = f"a loss that {run.known_model} can use as perceptual"
        run.report.add(key, words, f"`{kind}`", "Take PerceptualLoss, or `model_type: EfficientSRModel`.")


def _check_metrics(run: Run) -> None:
    tested = {str(name): kind for name, kind in run.known_datasets.items() if name != "train"}
    without_gt = [name for name, kind in tested.items() if kind == "SingleImageDataset"]
    if run.ours and (len(without_gt) < len(tested) or not run.is_train):
        without_gt = []  # these models score where there is something to compare with
    for name, section in run.section("val", "metrics").items():
        key = ("val", "metrics", str(name))
        if not isinstance(section, dict):
            continue
        metric = look_up((*key, "type"), section.get("type"), run.registries.METRIC_REGISTRY, "metric", run.report)
        if metric is None:
            continue
        arguments = {k: v for k, v in section.items() if k not in _METRIC_EXTRAS}
        check_arguments(key, arguments, metric, run.report, given=("img", "img2"))
        if "img2" in inspect.signature(metric).parameters and without_gt:
            got = f"`datasets: {without_gt[0]}` without it (SingleImageDataset)"
            remedy = "Add a set that has it, or remove the metric."
            if not run.ours:
                remedy = "Remove the metric, or take EfficientSRModel, which then scores the other sets alone."
            run.report.add(key, "ground truth to compare with", got, remedy)


def _check_optimizer(run: Run) -> None:
    """Ask the model's own ``get_optimizer``: BasicSR 1.4.2 knows Adam only, its master branch several."""
    from basicsr.models.base_model import BaseModel

    key, section = ("train", "optim_g"), run.section("train", "optim_g")
    model = find(run.registries.MODEL_REGISTRY, run.known_model)
    if run.report.has(*key) or not section or model is None:
        return
    kind, known, stock = section["type"], optimizers.optimizer_names(), model.get_optimizer is BaseModel.get_optimizer
    if stock:
        names = [name for name in dir(torch.optim) if inspect.isclass(getattr(torch.optim, name))]
        known = [name for name in names if _optimizer_is_known(BaseModel, name)]
    if kind not in known:
        whose = "This BasicSR" if stock else f"{run.known_model}"
        remedy = did_you_mean(kind, known, f"{whose} knows {listed(known, most=20)}.")
        run.report.add((*key, "type"), f"an optimizer of {run.known_model}", describe(kind), remedy)
        return
    arguments = run.arguments(key)
    check_arguments(key, arguments, getattr(torch.optim, kind), run.report, given=("params",))
    if not run.report.has(*key):
        weight = torch.zeros(1, 1, 1, 1, requires_grad=True)
        weight.grad = torch.zeros_like(weight)  # a step shows what the constructor has not looked at, as three `betas`
        _try(key, kind, run.report, lambda: model.get_optimizer(None, kind, [weight], **arguments).step())


def _optimizer_is_known(base_model: Any, name: str) -> bool:
    try:
        base_model.get_optimizer(None, name, [torch.zeros(1, requires_grad=True)], lr=1e-4)
    except NotImplementedError:
        return False
    except Exception:  # it is known and does not like our one parameter
        return True
    return True


def _check_scheduler(run: Run) -> None:
    from basicsr.models import lr_scheduler
    from basicsr.models.base_model import BaseModel

    key, section, report = ("train", "scheduler"), run.section("train", "scheduler"), run.report
    model = find(run.registries.MODEL_REGISTRY, run.known_model)
    if report.has(*key) or not section or model is None:
        return
    kind, known, arguments = section["type"], list(_SCHEDULERS), run.arguments(key)
    if model.setup_schedulers is not BaseModel.setup_schedulers:
        known += [name for name in optimizers.scheduler_names() if name not in known]
    if kind not in known:
        remedy = did_you_mean(kind, known, f"It knows {listed(known, most=20)}.")
        report.add((*key, "type"), f"a schedule of {run.known_model}", describe(kind), remedy)
        return
    theirs = _SCHEDULERS.get(kind)
    schedule: Any = getattr(lr_scheduler, theirs) if theirs else getattr(torch.optim.lr_scheduler, kind)
    check_arguments(key, arguments, schedule, report, given=("optimizer", "last_epoch"))
    if report.has(*key):
        return
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)])

    def build_and_step() -> Any:
        built = schedule(optimizer, **arguments)
        optimizer.step()
        built.step()
        return built

    built = _try(key, kind, report, build_and_step)
    total = run.section("train").get("total_iter", 0)
    length = f"`total_iter: {total}`"
    if run.stage is not None:  # whose schedule is counted from its own start, or from that of the run
        total = run.stage.until - run.stage.schedule_after
        length = f"the {many(total, 'iteration')} up to {run.stage.until}"
    if built is None or report.has("train", "total_iter"):
        return
    if kind == "CosineAnnealingRestartLR" and total - 1 > (periods := sum(section["periods"])):
        got = f"{periods}, shorter than {length}"
        remedy = "BasicSR would stop with an error there: lengthen the last period."
        report.add((*key, "periods"), "periods that add up to the whole training", got, remedy)
    if kind == "OneCycleLR" and total - 1 > built.total_steps:
        got = f"{many(built.total_steps, 'step')}, fewer than {length}"
        report.add(key, "a cycle of the whole training", got, "It would stop with an error there: lengthen it.")


# --- models of others -------------------------------------------------------------------------------------------------


def check_unread(run: Run) -> None:
    """Report options that only our models read, under a model of others whose source never mentions them."""
    model = find(run.registries.MODEL_REGISTRY, run.options.get("model_type"))
    if run.known_model is not None or not inspect.isclass(model):
        return
    ours = {cls.__name__ for cls in model.__mro__} & set(MODELS)  # it is one of ours, and more
    source: str | None = None
    for key, models in _of_ours(run):
        if ours & set(models):
            continue
        source = _source(model) if source is None else source
        if not re.search(rf"""["']{key[-1]}["']""", source):
            of_other_models(run, key, models, "whose code does not mention it")


def _of_ours(run: Run) -> Iterator[tuple[Key, list[str]]]:
    """The keys of ours in the file, each with the model types that know it."""
    if "lora" in run.section("network_g"):
        yield ("network_g", "lora"), LORA_MODELS
    for section in ("", "train", "val", "logger") if run.is_train else ("", "val"):
        key, kind = ((section,), Options.inside(section)) if section else ((), Options)
        for name in run.section(*key):
            if kind is not None and (models := kind.readers(name)):
                yield (*key, str(name)), models


def _source(model: type) -> str:
    """All that is loaded of the packages that the model and its parents come from, but ours."""
    packages = {cls.__module__.partition(".")[0] for cls in model.__mro__} - {"builtins", "dscsr_model"}
    loaded = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] in packages]
    return "\n".join(filter(None, map(source_of, loaded)))

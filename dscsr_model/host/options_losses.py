"""Our losses in an option file: their values, VGG-19's weights, and a batch that has the negatives asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dscsr_arch.errors import DscsrError
from dscsr_model.host import options_schema as schema
from dscsr_model.host.options_faults import Key, listed
from dscsr_model.host.options_registry import Registries, find
from dscsr_model.host.options_structure import Run
from dscsr_model.losses.contrastive_loss import ContrastiveLoss
from dscsr_model.losses.spatial_affinity_loss import SpatialAffinityLoss
from dscsr_model.training.loss_sections import check_names

_OURS = (ContrastiveLoss, SpatialAffinityLoss)


def check_losses(run: Run, registries: Registries) -> None:
    """Report values that our losses do not take, weights that are not there, and batches that are too small."""
    if not run.is_train:
        return
    if run.known_model in schema.ANY_LOSSES:
        given = [str(name).removesuffix("_opt") for name, loss in run.section("train").items() if loss]
        try:
            check_names(given)
        except DscsrError as error:
            run.report.add_error(("train",), error)
    for name, section in run.section("train").items():
        key = ("train", str(name))
        if not key[1].endswith("_opt") or not isinstance(section, dict) or run.report.has(*key):
            continue
        kind = section.get("type")
        loss_class = find(registries.losses, kind)
        if loss_class is ContrastiveLoss and run.known_model not in (None, *schema.CSD_MODELS):
            got = f"`model_type: {run.known_model}`, which has no negatives"
            words = f"a model type that gives {kind} a teacher and negatives ({listed(sorted(schema.CSD_MODELS))})"
            run.report.add((*key, "type"), words, got, "Take it, or remove the loss.")
        elif loss_class in _OURS:
            arguments = {str(k): value for k, value in run.constructors(key, section).items() if k != "type"}
            loss = _build(key, loss_class, arguments, run)
            if isinstance(loss, ContrastiveLoss):
                _check_batch(key, loss, run)


def _build(key: Key, loss_class: Any, arguments: Mapping[str, Any], run: Run) -> Any | None:
    try:
        return loss_class(**arguments)
    except DscsrError as error:  # only weight files raise it
        run.report.add_error((*key, "vgg_weights"), error)
    except (TypeError, ValueError) as error:
        message = str(error).strip().rstrip(".")
        run.report.add(key, f"values that {loss_class.__name__} takes", f"its error: {message}", "Correct them.")
    return None


def _check_batch(key: Key, loss: ContrastiveLoss, run: Run) -> None:
    """Negatives are drawn from what is processed at a time: the smallest part of a batch on one GPU."""
    train = run.section("datasets", "train")
    batch, parts = train.get("batch_size_per_gpu"), run.section("train").get("accumulate_steps", 1)
    if run.report.has("datasets", "train", "batch_size_per_gpu") or run.report.has("train", "accumulate_steps"):
        return
    if not isinstance(batch, int) or not isinstance(parts, int):
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

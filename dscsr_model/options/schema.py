"""All declarations as one JSON schema, by which editors complete and check option files, and as a page of tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pydantic.json_schema import models_json_schema

from dscsr_model.options.datasets import DATASETS, LoopDataset
from dscsr_model.options.losses import CSDLoss, LossTarget
from dscsr_model.options.section import MODELS, SR, Schema, Section
from dscsr_model.options.sections import LoRASection, LossSection, MetricSection, Options, StageSection
from dscsr_model.options.signatures import section_of

Constructors = Mapping[str, Callable[..., Any]]


def json_schema(networks: Constructors, losses: Constructors) -> dict[str, Any]:
    """The JSON schema of option files, draft 7.

    Args:
        networks: Of ours, by the name under which they are registered: their sections are known, others' may hold
            anything.
        losses: The same.
    """
    ours = {name: section_of(constructor, name) for name, constructor in {**networks, **losses}.items()}
    kinds = [Options, LoopDataset, *DATASETS.values(), MetricSection, LossSection, LoRASection, StageSection]
    pairs = [(kind, "validation") for kind in dict.fromkeys([*kinds, *ours.values()])]
    schema = models_json_schema(pairs, schema_generator=Schema, ref_template="#/$defs/{model}")[1]  # type: ignore[arg-type]
    definitions: dict[str, Any] = schema["$defs"]
    for definition in definitions.values():
        _finish(definition)
    lora = {"lora": _or_null(_ref("LoRASection"))}
    for name in networks:
        definitions[name]["properties"].update(lora)
    if "CSSRNet" in definitions:
        definitions["CSSRNet"]["properties"]["backbone"] = _ref("Network")
    loss = definitions["LossSection"]
    for kind in (LossTarget, CSDLoss):
        loss["properties"] = {**kind.properties(), **loss["properties"]}
    for name in losses:
        definitions[name].pop("additionalProperties")
    loss.update(_by_type(losses))
    definitions["TrainSection"]["patternProperties"] = {"_opt$": _or_null(_ref("LossSection"))}
    definitions["StageTrainSection"]["patternProperties"] = {"_opt$": _or_null({"type": "object"})}
    definitions["Network"] = _by_type(networks)
    definitions["Dataset"] = _by_type(DATASETS, "LoopDataset")
    ours_or_srmodels = {"properties": {"model_type": {"enum": list(MODELS)}}}  # of others, nothing is known
    top = {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Option file of dscsr and BasicSR"}
    return {**top, "type": "object", "if": ours_or_srmodels, "then": _ref("Options"), "$defs": definitions}


def _finish(definition: dict[str, Any]) -> None:
    """What `option` marked becomes what JSON schema has for it."""
    for name, value in definition["properties"].items():
        if value.get("default", ...) is None:
            del value["default"]
        if value.pop("needed", "") == "always":
            definition["required"] = [*definition.get("required", []), name]
        if (by := value.pop("by", "")) not in ("", SR):
            value["description"] += f" ({', '.join(model for model, marks in MODELS.items() if by in marks)})"
        kind = value["anyOf"][0] if "anyOf" in value and "title" not in value else value
        if of := value.pop("of", None):
            section = next(one for one in (kind, *kind.get("anyOf", ())) if one.get("type") == "object")
            section.pop("additionalProperties", None)
            section["allOf"] = [_ref(of)]
        if each := value.pop("each", None):
            array = next((one for one in (kind, *kind.get("anyOf", ())) if one.get("type") == "array"), None)
            (array or kind)["items" if array else "additionalProperties"] = _ref(each)


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _by_type(kinds: Iterable[str], otherwise: str | None = None) -> dict[str, Any]:
    """The schema of a section whose ``type`` says what it is: one of ``kinds``, or something that nobody knows."""
    known = {"properties": {"type": {"enum": list(kinds)}}, "required": ["type"]}
    cases = [
        {"if": {"properties": {"type": {"const": name}}, "required": ["type"]}, "then": _ref(name)} for name in kinds
    ]
    other = [{"if": known, "else": _ref(otherwise)}] if otherwise else []
    return {"required": ["type"], "allOf": [*cases, *other]}


# --- as a page --------------------------------------------------------------------------------------------------------

_Kinds = list[tuple[str, type[Section]]]
_Rows = Iterator[tuple[str, str, str, str]]


def markdown(networks: Constructors, losses: Constructors) -> str:
    """All options as tables."""
    parts = [
        "# Options",
        "Every option that the check knows, made from the declarations in `dscsr_model/options` by "
        "`dscsr schema --markdown`. Models, datasets, networks and losses of others may read more. `~` is YAML's null.",
    ]
    of_losses: _Kinds = [("", LossSection), ("DistillationModel, DSCLoRAModel", LossTarget), ("CSDModel", CSDLoss)]
    sections: list[tuple[str, _Kinds]] = [
        ("The file", [("", Options)]),
        *_inside(Options, ""),
        ("`train: <name>_opt:`", of_losses),
        ("`train: stages:`, each", [("", StageSection)]),
        *_inside(StageSection, "train: stages: "),
        ("`val: metrics: <name>:`", [("", MetricSection)]),
        ("`network_g: lora:`", [("", LoRASection)]),
        ("`datasets: <name>:`", [("", LoopDataset), *DATASETS.items()]),
    ]
    for what, constructors in (("Network", networks), ("Loss", losses)):
        sections += [(f"{what} `{name}`", [("", section_of(kind, name))]) for name, kind in constructors.items()]
    for title, kinds in sections:
        parts += [f"## {title}", _table(_rows(kinds))]
    return "\n\n".join(parts) + "\n"


def _inside(kind: type[Section], before: str) -> Iterator[tuple[str, _Kinds]]:
    for key in kind.declared():
        if (inside := kind.inside(key)) and inside is not LossSection:
            yield f"`{before}{key}:`", [("", inside)]
            yield from _inside(inside, f"{before}{key}: ")


def _rows(kinds: _Kinds) -> _Rows:
    """Option, value, default and meaning, each once; of whom, if it is not read so by all."""
    readers: dict[tuple[str, str, str, str], list[str]] = {}
    for reader, kind in kinds:
        for key, field in kind.declared().items():
            if key == "type" and (reader or field.is_required()):
                continue
            needed = [phase for phase in ("train", "test") if key in kind.needed(phase, SR)]
            default = _yaml(field.default)
            if needed or field.is_required():
                default = "needed" if len(needed) != 1 else f"needed to {needed[0]}"
            row = f"`{key}`", _value(kind, key), default, kind.about(key).rstrip(".").replace("``", "`")
            readers.setdefault(row, []).append(reader or ", ".join(kind.readers(key)))
    for (key, value, default, meaning), by in readers.items():
        yield key, value, default, meaning + (f" ({', '.join(by)})" if all(by) else "")


def _yaml(default: Any) -> str:
    if default is None:
        return ""
    shown = str(list(default) if isinstance(default, tuple) else default)
    return f"`{shown.lower() if isinstance(default, bool) else shown}`"


_WORDS = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "text",
          "array": "a list", "object": "a section", "null": "`~`"}  # fmt: skip


def _value(kind: type[Section], key: str) -> str:
    value = kind.properties()[key]
    if kind.inside(key) is None and ("title" in str(value) or "enum" in str(value)):
        return kind.words(key).partition(" (")[0] + (" or `~`" if kind.takes_null(key) else "")
    kinds = [_WORDS.get(one.get("type", "object"), "") for one in value.get("anyOf", [value])]
    return " or ".join(dict.fromkeys(kinds))


def _table(rows: _Rows) -> str:
    lines = [("option", "value", "default", "meaning"), ("---",) * 4, *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)

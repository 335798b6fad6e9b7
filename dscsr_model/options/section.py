"""A section of an option file: known keys, each with its type, range, default and meaning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema
from typing_extensions import Self

from dscsr_arch.errors import DscsrError
from dscsr_model.options.values import SECTION

Phase = Literal["", "always", "train", "test"]

SR, OURS, DISTILLING, CSD = "SRModel", "EfficientSRModel", "DistillationModel", "CSDModel"
QUANTIZING = "quantizing"
MODELS: dict[str, tuple[str, ...]] = {
    "SRModel": (SR,),
    "SwinIRModel": (SR,),
    "EfficientSRModel": (SR, OURS, QUANTIZING),
    "DistillationModel": (SR, OURS, DISTILLING, QUANTIZING),
    "DSCLoRAModel": (SR, OURS, DISTILLING),
    "CSDModel": (SR, OURS, CSD),
}
"""Model types whose options are known: all that are read by BasicSR's loop, whatever the model is, and these.

Another model type belongs to another plugin: what only it knows is not rejected.
"""


def option(about: str, default: Any = None, *, by: str = "", needed: Phase = "", **more: Any) -> Any:
    """Declare an option.

    Args:
        about: One line that says what it does.
        default: Its value where the file does not have it.
        by: Who reads it, as in `MODELS`; empty: BasicSR's loop, or whoever reads the section.
        needed: When the key must be there, since BasicSR stops with a KeyError without it.
        more: ``alias``, the key where Python cannot have it as a name. For the JSON schema: ``of`` names what a section
            inside is, ``each`` what every section in it is.
    """
    marks: dict[str, Any] = {
        "by": by,
        "needed": needed,
        **{name: more.pop(name) for name in ("of", "each") if name in more},
    }
    return Field(default, description=about, json_schema_extra=marks, **more)


class Schema(GenerateJsonSchema):
    """Without titles made of names: a title says what kind of value it is."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never."""
        return False


class Section(BaseModel):
    """A section. Values are strict: text is no number, true is no 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    plugins: ClassVar[bool] = False
    """Whether a model type that is not known may read other keys."""

    @classmethod
    def parse(cls, section: Mapping[Any, Any] | None, where: str = "") -> Self:
        """The values of a section, with defaults for what it does not have.

        Args:
            section: As the file has it; None is an empty one. Keys of others and sections inside are passed over.
            where: What messages call it, such as ``train``.

        Raises:
            DscsrError: A value is of another type, out of range, or contradicts another one.
        """
        try:
            return cls.model_validate(cls._values(section or {}))
        except ValidationError as error:
            name = str(error.errors(include_url=False)[0]["loc"][0])
            remedy, got = f"`{name}`: {cls.about(name)}.", describe((section or {})[name])
            raise DscsrError(cls.words(name), got, remedy, f"{where}: {name}".lstrip(": ")) from None
        except DscsrError as error:
            raise DscsrError(error.expected, error.got, error.remedy, where or None) from None

    @classmethod
    def refused(cls, section: Mapping[Any, Any]) -> list[str]:
        """Known keys whose values are of another type or out of range."""
        try:
            cls.model_validate(cls._values(section))
        except ValidationError as error:  # a value that could be of several types has several errors
            return list(dict.fromkeys(str(one["loc"][0]) for one in error.errors(include_url=False)))
        except DscsrError:
            pass  # values that contradict each other
        return []

    @classmethod
    def _values(cls, section: Mapping[Any, Any]) -> dict[str, Any]:
        """What of a section is known, without sections inside: these are parsed by themselves."""
        return {name: value for name, value in section.items() if name in cls.declared() and not cls.inside(name)}

    @classmethod
    @cache
    def declared(cls) -> dict[str, FieldInfo]:
        """Known keys and their declarations."""
        return {field.alias or name: field for name, field in cls.model_fields.items()}

    @classmethod
    def inside(cls, key: str) -> type[Section] | None:
        """The class of a section inside this one; None for values."""
        annotation = cls.declared()[key].annotation
        found = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
        return next((kind for kind in found if issubclass(kind, Section)), None)

    @classmethod
    def reads(cls, key: Any, model: str | None) -> bool:
        """Whether the option is declared and a model type, None for one that is not known, reads it."""
        return key in cls.declared() and cls._mark(key, "by") in ("", *MODELS.get(model or "", ()))

    @classmethod
    def readers(cls, key: Any) -> list[str]:
        """Model types that read an option beside SRModel; none for one that SRModel, or nobody, reads."""
        by = cls._mark(key, "by") if key in cls.declared() else ""
        return [] if by in ("", SR) else sorted(model for model, marks in MODELS.items() if by in marks)

    @classmethod
    def needed(cls, phase: str, model: str | None) -> set[str]:
        """Keys of a model type without which BasicSR stops in this phase, ``train`` or ``test``."""
        return {
            key for key in cls.declared() if cls.reads(key, model) and cls._mark(key, "needed") in ("always", phase)
        }

    @classmethod
    def _mark(cls, key: str, name: str) -> str:
        marks = cls.declared()[key].json_schema_extra
        return str(marks.get(name, "")) if isinstance(marks, dict) else ""

    @classmethod
    def is_closed(cls, model: str | None) -> bool:
        """Whether keys that are not declared are faults."""
        return cls.model_config["extra"] == "forbid" and (model is not None or not cls.plugins)

    @classmethod
    def takes_null(cls, key: str) -> bool:
        """Whether `~` is a value of the option."""
        return type(None) in get_args(cls.declared()[key].annotation)

    @classmethod
    def about(cls, key: str) -> str:
        """What the option does."""
        return cls.declared()[key].description or ""

    @classmethod
    def words(cls, key: str) -> str:
        """What its value has to be."""
        if cls.inside(key):
            return SECTION
        kind = cls._kind(key)
        return str(kind.get("title") or "one of " + ", ".join(f"`{word}`" for word in cls.choices(key)))

    @classmethod
    def choices(cls, key: str) -> list[str]:
        """The words among its values, if there are some."""
        kind = cls._kind(key)
        kinds = [kind, *kind.get("anyOf", ())]
        return [str(word) for one in kinds for word in one.get("enum", [one["const"]] if "const" in one else [])]

    @classmethod
    def _kind(cls, key: str) -> dict[str, Any]:
        """The value's JSON schema, null left out."""
        kind: dict[str, Any] = cls.properties()[key]
        return kind["anyOf"][0] if "anyOf" in kind and "title" not in kind else kind

    @classmethod
    @cache
    def properties(cls) -> dict[str, Any]:
        """JSON schemas of the values, by key."""
        return dict(cls.model_json_schema(schema_generator=Schema)["properties"])


class TypedSection(Section):
    """A section of a registered type and its arguments, of which only some are declared."""

    model_config = ConfigDict(extra="allow", frozen=True)


def describe(value: Any) -> str:
    """A value in words for "but got …"."""
    if value is None:
        return "nothing (`~`)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return f"a section with {listed(value, most=4)}" if value else "an empty section"
    if isinstance(value, str):
        return f"the text {value!r}"
    return str(value)


def listed(names: Iterable[Any], most: int = 8, code: bool = True) -> str:
    """``a, b, c and 5 more`` for messages."""
    every = [f"`{name}`" if code else str(name) for name in names]
    more = len(every) - most
    return ", ".join(every[:most]) + (f" and {more} more" if more > 0 else "")

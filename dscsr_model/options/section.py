"""A section of an option file: known keys, each with its type, range, default and meaning."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema
from typing_extensions import Self

from dscsr_arch.errors import DscsrError
from dscsr_model.options.values import SECTION

Phase = Literal["", "always", "train", "test"]


def option(about: str, default: Any = None, *, needed: Phase = "", **marks: Any) -> Any:
    """Declare an option.

    Args:
        about: One line that says what it does.
        default: Its value where the file does not have it.
        needed: When the key must be there, since BasicSR stops with a KeyError without it.
        marks: For the JSON schema: ``of`` names what a section inside is, ``each`` what every section in it is.
    """
    return Field(default, description=about, json_schema_extra={"needed": needed, **marks})


class Schema(GenerateJsonSchema):
    """Without titles made of names: a title says what kind of value it is."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never."""
        return False


CLOSED = ConfigDict(extra="forbid", frozen=True)
OPEN = ConfigDict(extra="allow", frozen=True)
"""For sections with keys that are not declared: arguments of a registered type, or what another plugin reads."""


class Section(BaseModel):
    """A section. Values are strict: text is no number, true is no 1."""

    model_config = CLOSED

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
    def needed(cls, phase: str) -> Iterator[str]:
        """Keys without which BasicSR stops in this phase, ``train`` or ``test``."""
        for key, field in cls.declared().items():
            if isinstance(extra := field.json_schema_extra, dict) and extra.get("needed") in ("always", phase):
                yield key

    @classmethod
    def is_closed(cls) -> bool:
        """Whether keys that are not declared are faults."""
        return cls.model_config["extra"] == "forbid"

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
        return [word for one in kinds for word in one.get("enum", [one["const"]] if "const" in one else [])]

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

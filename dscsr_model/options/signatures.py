"""Sections of registered types, made of their signatures and docstrings: what these say is not said again."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field, create_model

from dscsr_model.options.section import Section

_ARGUMENT = re.compile(r"^    (\w+): (.+(?:\n     +.+)*)", flags=re.MULTILINE)


def section_of(constructor: Callable[..., Any], name: str) -> type[Section]:
    """A section ``{type: name, …}`` with the arguments of a constructor: type, default, and what its docstring says."""
    _, _, said = inspect.cleandoc(constructor.__doc__ or "").partition("\nArgs:\n")
    about = {argument: " ".join(text.split()) for argument, text in _ARGUMENT.findall(said.partition("\n\n")[0])}
    fields: dict[str, Any] = {"type": (Literal[name], Field(description="the class"))}
    for parameter in inspect.signature(constructor, eval_str=True).parameters.values():
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (parameter.annotation, Field(default, description=about.get(parameter.name, "")))
    return create_model(name, __base__=Section, __doc__=constructor.__doc__, **fields)

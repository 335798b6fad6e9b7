"""Kinds of values that options have: type, range, and in ``title`` what messages call them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field


def _whole(value: Any) -> Any:
    """BasicSR's own option files write ``val_freq: !!float 5e3``."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _template(value: str) -> str:
    """BasicSR calls ``value.format(name)``: that must work, and keep the name."""
    if value.count("{}") != 1 or value.count("{") + value.count("}") != 2:
        raise ValueError
    return value


def _rising(value: Any) -> Any:
    if isinstance(value, list) and value[0] > value[1]:
        raise ValueError
    return value


Text = Annotated[str, Field(strict=True, min_length=1, title="text")]
Path = Annotated[str, Field(strict=True, min_length=1, title="a path")]
Bool = Annotated[bool, Field(strict=True, title="true or false")]
Count = Annotated[int, Field(strict=True, ge=1, title="a whole number of at least 1")]
Natural = Annotated[int, Field(strict=True, ge=0, title="a whole number of at least 0")]
Workers = Annotated[int, Field(strict=True, ge=0, le=256, title="a whole number from 0 to 256")]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**32, title=f"a whole number between 0 and {2**32 - 1}")]
Iterations = Annotated[
    int, Field(strict=True, ge=1, title="a whole number of iterations, at least 1"), BeforeValidator(_whole)
]
Iteration = Annotated[int, Field(strict=True, ge=1, title="a whole number of at least 1"), BeforeValidator(_whole)]
Warmup = Annotated[
    int, Field(strict=True, ge=-1, title="a whole number of iterations, or -1 for none"), BeforeValidator(_whole)
]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False, title="a number")]
Ratio = Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0, title="a number above 0")]
Decay = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0, lt=1, title="a number from 0 to below 1")]
Factor = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0, title="a number of at least 0")]
Share = Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0, lt=1, title="a number between 0 and 1")]
Numbers = Annotated[list[Number], Field(title="a list of numbers")]
_Level = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0, le=255)]
Noise = Annotated[
    _Level | Annotated[list[_Level], Field(min_length=2, max_length=2)],
    Field(title="a number from 0 to 255, or the lowest and the highest, like [0, 50]"),
    AfterValidator(_rising),
]
Template = Annotated[
    str,
    Field(strict=True, title="text with `{}` for the name of the GT file, like `'{}x4'`"),
    AfterValidator(_template),
]
Names = Annotated[Annotated[str, Field(strict=True)] | list[Any], Field(title="a name or a list of names")]
Layers = Annotated[list[Text], Field(min_length=1, title="a list of layer names")]
Patterns = Annotated[list[Text], Field(title="a list of patterns of layer names")]
Files = Annotated[Path | Annotated[list[Path], Field(min_length=1)], Field(title="a path or a list of paths")]
Code = Annotated[Path | Annotated[list[Path], Field(min_length=1)], Field(title="a file or module, or a list of them")]
Compile = Annotated[
    Bool | Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"],
    Field(title="true, false or a mode of torch.compile"),
]
GPUs = Annotated[Literal["auto"] | Natural, Field(title="`auto` or a whole number of at least 0")]
SECTION = "a section (indented `key: value` lines)"
Stages = Annotated[list[Any], Field(min_length=1, title="a list of stages, `- until: …` and what changes")]
AnySection = Annotated[dict[Any, Any], Field(title=SECTION)]
"""A section whose keys are looked at elsewhere, as they depend on its ``type``."""
Networks = Annotated[
    dict[Any, Any] | Annotated[list[dict[Any, Any] | None], Field(min_length=1)],
    Field(title="a section, or a list of sections (`~` where the file tells its own)"),
]

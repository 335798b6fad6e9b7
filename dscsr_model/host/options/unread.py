"""Options of ours that nothing will read: a run that ignores them is not what its option file says.

Model types whose keys are known reject what they do not know (`structure`). Another plugin's model may read anything;
here its source tells whether it mentions a key at all.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from types import ModuleType

from dscsr_model.host.options.faults import Key
from dscsr_model.host.options.run import Run, find
from dscsr_model.host.options.structure import LORA_MODELS, of_other_models
from dscsr_model.options.section import MODELS
from dscsr_model.options.sections import Options


def check_unread(run: Run) -> None:
    """Report options that only our models read, under a model of others whose source never mentions them."""
    model = find(run.registries.models, run.options.get("model_type"))
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
    return "\n".join(filter(None, map(_text, loaded)))


def _text(module: ModuleType) -> str | None:
    try:
        return inspect.getsource(module)
    except (OSError, TypeError):  # no Python source, or an empty file
        return None

"""Options of ours that nothing will read: a run that ignores them is not what its option file says.

Model types whose keys are known reject what they do not know (`options_structure`). Another plugin's model may read
anything; here its source tells whether it mentions a key at all.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from types import ModuleType

from dscsr_model.host import options_schema as schema
from dscsr_model.host.options_faults import Key, listed
from dscsr_model.host.options_registry import Registries, find
from dscsr_model.host.options_structure import Run


def check_unread(run: Run, registries: Registries) -> None:
    """Report options that only our models read, under a model type of others that never mentions them."""
    model = find(registries.models, run.options.get("model_type"))
    if run.known_model is not None or not inspect.isclass(model):
        return
    ours = {cls.__name__ for cls in model.__mro__} & schema.ANY_LOSSES  # it is one of ours, and more
    source: str | None = None
    for key, models in _given(run):
        if ours & models:
            continue
        source = _source(model) if source is None else source
        if not re.search(rf"""["']{key[-1]}["']""", source):
            got = f"`model_type: {run.options['model_type']}`, whose code does not mention it"
            words = f"a model type that knows `{key[-1]}:` ({listed(sorted(models))})"
            run.report.add(key, words, got, "Take one of them, or remove the key.")


def _given(run: Run) -> Iterator[tuple[Key, frozenset[str]]]:
    """The keys of ours in the file, each with the model types that know it."""
    if "lora" in run.section("network_g"):
        yield ("network_g", "lora"), schema.LORA_MODELS
    for section in ("", "train", "val", "logger") if run.is_train else ("", "val"):
        key = (section,) if section else ()
        for name in run.section(*key):
            if models := schema.models_knowing(section, name):
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

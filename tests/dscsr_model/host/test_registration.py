"""Registering with BasicSR, alone and beside other plugins that want the same names."""

import sys
import warnings
from functools import partial

import pytest

import dscsr_model
from dscsr_arch.errors import DscsrError
from dscsr_model.host import compat, registration
from dscsr_model.host.patches import installed


@pytest.fixture
def registry():
    """BasicSR's own; test_hosts has those of before 1.4.0."""
    dscsr_model.register()
    from basicsr.utils.registry import Registry

    return Registry("arch")


def make(name: str = "SPAN", module: str = "another.plugin") -> type:
    return type(name, (), {"__module__": module})


OURS = make(module="dscsr_arch.span_arch")
CLASH = r"name SPAN belongs to another\.plugin\.SPAN, so dscsr's is registered as SPAN_dscsr: write `type: SPAN_dscsr`"


def test_every_entry_can_be_built_by_its_name():
    dscsr_model.register()
    from basicsr.utils import registry

    for entry in registration.entries():
        cls = getattr(registry, entry.registry).get(entry.name)
        assert f"{cls.__module__}:{cls.__name__}" == entry.target
    names = registration.registered_names()
    assert list(names) == [entry.name for entry in registration.entries()]
    assert all(name == registered for name, registered in names.items())


@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_a_name_that_another_has_or_wants_later_is_theirs(registry, first):
    theirs = make()
    steps = [partial(registry.register, theirs), partial(registration._register, registry, OURS)]
    if first == "ours":
        steps.reverse()
        registration._register(registry, OURS)
        assert list(registry) == [("SPAN", OURS)]
    steps[0]()
    with pytest.warns(UserWarning, match=CLASH):
        steps[1]()
    assert dict(iter(registry)) == {"SPAN": theirs, "SPAN_dscsr": OURS}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        registration._register(registry, OURS)  # said once
    assert dict(iter(registry)) == {"SPAN": theirs, "SPAN_dscsr": OURS}


def test_others_keep_their_quarrels(registry):
    registration._register(registry, OURS)
    registry.register(make("Other"))
    with pytest.raises(AssertionError, match="'Other' was already registered"):
        registry.register(make("Other"))
    assert {name for name, _ in registry} == {"SPAN", "Other"}


def state_of_basicsr():
    """Everything that registering changes, or might."""
    from basicsr.utils import registry

    registries = [vars(getattr(registry, entry.registry)) for entry in registration.entries()]
    modules = {name: dict(vars(module)) for name, module in sys.modules.items() if name.partition(".")[0] == "basicsr"}
    classes = [modules["basicsr.models.base_model"]["BaseModel"], modules["basicsr.models.sr_model"]["SRModel"]]
    classes.append(modules["basicsr.data.data_sampler"]["EnlargedSampler"])
    return (
        [(dict(each), dict(each["_obj_map"])) for each in registries],
        {name: {key: value for key, value in names.items() if callable(value)} for name, names in modules.items()},
        [dict(vars(cls)) for cls in classes],
    )


@pytest.mark.parametrize("stage", ["loading", "patching", "registering"])
def test_a_registration_that_fails_leaves_nothing_behind(monkeypatch, stage):
    dscsr_model.register()
    import basicsr

    whole = state_of_basicsr()
    installed.undo()
    try:
        without = state_of_basicsr()
        assert not any(registration.registered_names().values())
        assert without != whole
        with monkeypatch.context() as patch:
            if stage == "loading":
                late = registration.Entry("MODEL_REGISTRY", "dscsr_model.models.efficient_sr_model:NotThere")
                patch.setattr(registration, "ENTRIES", (*registration.ENTRIES, late))
            elif stage == "patching":
                late = compat.Patch("late", "", lambda: True, lambda: 1 / 0)
                patch.setattr(compat, "RUN_PATCHES", (*compat.RUN_PATCHES, late))
            else:
                register = registration._register
                fail_last = lambda table, obj: register(table, obj) or 1 / (obj.__name__ != "CSDModel")  # noqa: E731
                patch.setattr(registration, "_register", fail_last)
            version = basicsr.__version__.replace(".", r"\.")
            met = rf"but got \S*basicsr, version {version}, where it ends with .*Nothing of dscsr is registered here"
            with pytest.raises(DscsrError, match=met):
                dscsr_model.register()
        assert state_of_basicsr() == without
        assert not {*compat.applied()} & {*compat.RUN_PATCHES}
    finally:
        dscsr_model.register()
    assert not [name for name, registered in registration.registered_names().items() if registered is None]


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (ModuleNotFoundError("No module named 'addict'", name="addict"), "`addict` is missing: install what this"),
        (ImportError("libxcb.so.1: cannot open shared object file"), "A library of the system is missing: install it"),
    ],
)
def test_what_a_basicsr_requires_and_lacks_is_named(error, remedy):
    assert f"with {type(error).__name__}: {error}. {remedy}" in str(registration._cannot_register(error))


PLUGIN = """
from torch import nn
from basicsr.utils.registry import ARCH_REGISTRY

@ARCH_REGISTRY.register()
class SPAN(nn.Module):
    pass
"""
USE = """
import dscsr_model.models.csd_model, dscsr_model.host.registration
print(dscsr_model.host.registration.registered_names())
import plugin
from basicsr.archs import build_network
theirs = build_network({'type': 'SPAN'})
ours = build_network({'type': 'SPAN_dscsr', 'feature_channels': 8})
print(type(theirs).__module__, type(ours).__module__)
"""


def test_a_plugin_behind_a_module_of_ours_that_imports_basicsr_by_itself(run_python, tmp_path):
    (tmp_path / "plugin.py").write_text(PLUGIN)
    done = run_python("-c", USE, check=True, env={"DSCSR_AUTOLOAD": "1"})
    assert "None" not in done.stdout
    assert done.stdout.endswith("plugin dscsr_arch.span_arch\n")
    assert done.stderr.count("belongs to plugin.SPAN") == 1

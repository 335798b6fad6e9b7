"""Registering with BasicSR, alone and beside other plugins that want the same names."""

import sys
import types
import warnings

import pytest

import dscsr_model
from dscsr_model.host import registration


@pytest.fixture
def registry():
    dscsr_model.register()
    from basicsr.utils.registry import Registry

    return Registry("arch")


def make(name: str = "SPAN", module: str = "another.plugin") -> type:
    return type(name, (), {"__module__": module})


OURS = make(module="dscsr_arch.span_arch")
CLASH = r"name SPAN belongs to another\.plugin\.SPAN, so dscsr's is registered as SPAN_dscsr: write `type: SPAN_dscsr`"


def register_ours(registry):
    registration._give_way_later(registry)
    registration._register(registry, OURS)


def test_every_entry_can_be_built_by_its_name():
    dscsr_model.register()
    from basicsr.utils import registry

    for entry in registration.ENTRIES:
        cls = getattr(registry, entry.registry).get(entry.name)
        assert f"{cls.__module__}:{cls.__name__}" == entry.target
    names = registration.registered_names()
    assert list(names) == [entry.name for entry in registration.ENTRIES]
    assert all(name == registered for name, registered in names.items())


def test_a_second_registration_changes_nothing(registry):
    dscsr_model.register()
    register_ours(registry)
    register_ours(registry)
    assert list(registry) == [("SPAN", OURS)]


def test_a_taken_name_is_left_to_its_owner(registry):
    theirs = make()
    registry.register(theirs)
    with pytest.warns(UserWarning, match=CLASH):
        register_ours(registry)
    assert dict(iter(registry)) == {"SPAN": theirs, "SPAN_dscsr": OURS}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_ours(registry)  # said once
    assert dict(iter(registry)) == {"SPAN": theirs, "SPAN_dscsr": OURS}


def test_a_name_that_another_wants_later_is_given_up(registry):
    register_ours(registry)
    theirs = make()
    with pytest.warns(UserWarning, match=CLASH):
        assert registry.register()(theirs) is theirs
    assert dict(iter(registry)) == {"SPAN": theirs, "SPAN_dscsr": OURS}
    register_ours(registry)
    assert dict(iter(registry)) == {"SPAN": theirs, "SPAN_dscsr": OURS}


def test_a_name_wanted_through_a_suffix_is_given_up(registry):
    ours, theirs = make("SPAN_x", "dscsr_arch.span_arch"), make("SPAN")
    registration._give_way_later(registry)
    registration._register(registry, ours)
    with pytest.warns(UserWarning, match="registered as SPAN_x_dscsr"):
        registry.register(theirs, suffix="x")
    assert dict(iter(registry)) == {"SPAN_x": theirs, "SPAN_x_dscsr": ours}


def test_others_keep_their_quarrels(registry):
    register_ours(registry)
    registry.register(make("Other"))
    with pytest.raises(AssertionError, match="'Other' was already registered"):
        registry.register(make("Other"))
    assert [name for name, _ in registry] == ["SPAN", "Other"]


@pytest.mark.parametrize("process", ["worker", "rank 1"])
def test_only_the_first_process_warns(registry, process, monkeypatch):
    if process == "worker":
        monkeypatch.setattr("multiprocessing.parent_process", lambda: object())
    else:
        monkeypatch.setenv("RANK", "1")
    registry.register(make())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_ours(registry)
    assert "SPAN_dscsr" in registry


def test_a_class_whose_module_is_being_imported_waits(monkeypatch):
    """A module of ours that imports basicsr itself brings us to the registration before its class exists."""
    module = types.ModuleType("dscsr_model.half")
    module.__spec__ = types.SimpleNamespace(_initializing=True)
    monkeypatch.setitem(sys.modules, "dscsr_model.half", module)
    assert registration._load("dscsr_model.half:Late") is None
    module.__spec__._initializing = False
    module.Late = OURS
    assert registration._load("dscsr_model.half:Late") is OURS


PLUGIN = """
from torch import nn
from basicsr.utils.registry import ARCH_REGISTRY

@ARCH_REGISTRY.register()
class SPAN(nn.Module):
    pass
"""

USE = """
from basicsr.archs import build_network
theirs = build_network({'type': 'SPAN'})
ours = build_network({'type': 'SPAN_dscsr', 'feature_channels': 8})
print(type(theirs).__module__, type(ours).__module__)
import dscsr_model; dscsr_model.register()
"""


def test_a_real_plugin_after_the_autoload(run_python, tmp_path):
    (tmp_path / "plugin.py").write_text(PLUGIN)
    done = run_python("-c", "import basicsr, plugin" + USE, check=True, env={"DSCSR_AUTOLOAD": "1"})
    assert "plugin dscsr_arch.span_arch" in done.stdout
    assert done.stderr.count("belongs to plugin.SPAN") == 1


def test_a_real_plugin_before_register(run_python, tmp_path):
    (tmp_path / "plugin.py").write_text(PLUGIN)
    # A plugin can only import a BasicSR that imports: mended, but without our networks yet.
    code = (
        "from dscsr_model.host import compat; compat.mend_imports()\nimport plugin, dscsr_model\ndscsr_model.register()"
    )
    done = run_python("-c", code + USE, check=True, env={"DSCSR_AUTOLOAD": "0"})
    assert "plugin dscsr_arch.span_arch" in done.stdout
    assert done.stderr.count("belongs to plugin.SPAN") == 1


FIRST = sorted(
    {entry for entry in registration.ENTRIES if not entry.target.startswith("dscsr_arch.")}, key=lambda e: e.target
)


@pytest.mark.parametrize("entry", FIRST, ids=lambda entry: entry.name)
def test_importing_a_registered_module_first_registers_it_too(run_python, entry):
    module = entry.target.partition(":")[0]
    code = f"import {module}\nfrom basicsr.utils.registry import {entry.registry} as r\nassert '{entry.name}' in r"
    run_python("-c", code, check=True, env={"DSCSR_AUTOLOAD": "1"})

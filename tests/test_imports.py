"""Which way imports may point (docs/architecture.md), read from the source of every file, lazy imports included."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

# cli → export, host → models → training, losses, data → dscsr_arch: a room may use itself and what stands lower.
# Beside the models, and without BasicSR: export → profiling → inference → training, data.
# `dscsr_model` itself is the public door, register().
HEIGHT = {
    "dscsr_model.cli": 5,
    "dscsr_model": 3,
    "dscsr_model.host": 3,
    "dscsr_model.export": 4,
    "dscsr_model.profiling": 3,
    "dscsr_model.models": 2,
    "dscsr_model.inference": 2,
    "dscsr_model.training": 1,
    "dscsr_model.losses": 1,
    "dscsr_model.data": 1,
    "dscsr_model.options": 0.5,
    "dscsr_model.evaluation": 0,
    "dscsr_model.read_ahead": 0,
    "dscsr_model.stored_values": 0,
    "dscsr_model.tiling": 0.5,
    "dscsr_model.files": 0.5,
    "dscsr_model.shared_work": 0.5,
    "dscsr_model.weights": 0.5,
    "dscsr_model.plots": 0.7,
    "dscsr_arch": 0,
}
MAY_IMPORT_BASICSR = ("dscsr_model.host.", "dscsr_model.models.", "dscsr_model.data.paired_crop_dataset")
MAY_LOOK_UP_LAZILY = ("dscsr_arch.foreign",)  # backbones that only BasicSR has, inside one function

FILES = sorted(file for package in ("dscsr_arch", "dscsr_model") for file in (ROOT / package).rglob("*.py"))


def dotted(file: Path) -> str:
    name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def room(module: str) -> str:
    if module.startswith("dscsr_arch"):
        return "dscsr_arch"
    names = [name for name in HEIGHT if module == name or module.startswith(f"{name}.")]
    return max(names, key=len, default="")


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """Every imported module, also by a literal name given to import_module, and whether it stands in a function."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    lazy = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: write imports in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            argument = node.args[0]
            first = argument.values[0] if isinstance(argument, ast.JoinedStr) else argument
            names = [str(first.value)] if isinstance(first, ast.Constant) else []
        yield from ((name, id(node) in lazy) for name in names)


@pytest.mark.parametrize("file", FILES, ids=dotted)
def test_arrows(file):
    """And BasicSR is imported by the door, the models and the dataset only."""
    module = dotted(file)
    for imported, lazy in imports(file):
        if room(imported):
            lower = HEIGHT[room(imported)] < HEIGHT[room(module)] or room(imported) == room(module)
            door = imported in ("dscsr_model", "dscsr_model.register") and HEIGHT[room(module)] >= 3
            inside = module == "dscsr_model" and room(imported) == "dscsr_model.host"
            assert lower or door or inside, f"{module} imports {imported}, against the arrows"
        elif imported.partition(".")[0] == "basicsr":
            allowed = f"{module}.".startswith(MAY_IMPORT_BASICSR) or (lazy and module in MAY_LOOK_UP_LAZILY)
            assert allowed, f"{module} imports {imported}"


def test_what_reports_home_is_imported_in_one_place():
    """See its head. The rehearsal, a script of its own, does as much by itself."""
    may = {"dscsr_model.inference.no_telemetry", "dscsr_model.inference.rehearsal_process"}
    reporting = {
        dotted(file)
        for file in FILES
        if "onnxruntime" in (text := file.read_text(encoding="utf-8")) or "openvino" in text
        for imported, _ in imports(file)
        if imported.partition(".")[0] in ("onnxruntime", "openvino") and ".quantization" not in imported
    }
    assert reporting == may


def test_registries_are_touched_in_one_place():
    registering = [dotted(file) for file in FILES if "_REGISTRY" in file.read_text(encoding="utf-8")]
    assert set(registering) - {"dscsr_arch.foreign"} <= {
        "dscsr_model.host.registration",
        "dscsr_model.host.options.run",  # reads them, to suggest names
        *(f"dscsr_model.host.options.{room}" for room in ("registry", "structure", "losses", "teachers", "weights")),
        "dscsr_model.models.validating_sr_model",  # reads it, to learn which metrics compare
        "dscsr_model.export.spandrel_support",  # spandrel's
    }


def test_rules_see_what_they_forbid(tmp_path):
    """The reader of imports finds each way of importing."""
    file = tmp_path / "module.py"
    file.write_text(
        "import a\nfrom b import c\n"
        "def f():\n    import d.e\n    importlib.import_module('g')\n    __import__(f'h.{f}')\n"
        "class K:\n    def m(self):\n        from i import j\n"
    )
    assert sorted(imports(file)) == [
        ("a", False), ("b.c", False), ("d.e", True), ("g", True), ("h.", True), ("i.j", True)
    ]  # fmt: skip


LIGHT = {  # in this order
    "dscsr_model": "torch basicsr numpy cv2 lmdb yaml argparse",
    "dscsr_arch.errors": "torch basicsr numpy",
    "dscsr_model.files": "torch basicsr numpy asyncio",
    "dscsr_model.cli": "torch basicsr numpy cv2 lmdb yaml",
}


def test_light_modules_stay_light(run_python):
    """The command line also when it has shown its help."""
    code = f"""
import importlib, sys
for name, heavy in {LIGHT}.items():
    module = importlib.import_module(name)
    if name == 'dscsr_model.cli':
        module._parser().format_help()
    assert not {{*heavy.split()}} & {{*sys.modules}}, name
"""
    run_python("-c", code, check=True)


WITHOUT_BASICSR = (
    *("data.bicubic", "data.prepare", "data.lmdb_store", "losses.functional", "training", "inference", "profiling"),
    *("export", "cli.export", "cli.upscale", "cli.profile", "cli.submit"),
)


def test_preparing_and_exporting_need_no_basicsr_and_networks_of_shapes_alone_no_compiler(run_python):
    """torch computes with tensors without numbers by importing its compiler, which every command would wait for."""
    lines = "\n".join(f"import dscsr_model.{module}" for module in WITHOUT_BASICSR)
    code = f"""
import sys
sys.modules["basicsr"] = None
import torch
from dscsr_arch import SPAN
with torch.device("meta"):
    network = SPAN(feature_channels=8)
network.load_state_dict(network.state_dict())
network.fuse().state_dict()
assert "torch._dynamo" not in sys.modules
{lines}
"""
    run_python("-c", code, check=True)

"""Networks, losses and datasets of the user's own, named by ``import:``."""

import multiprocessing
import re
import sys

import option_files
import pytest

import dscsr_model
from dscsr_arch.errors import DscsrError
from dscsr_model.host import user_code
from dscsr_model.host.options.check import OptionsError, check_options
from dscsr_model.host.user_code import import_user_code

LOSS = """
from torch.nn import L1Loss
from basicsr.utils.registry import LOSS_REGISTRY

@LOSS_REGISTRY.register()
class {name}(L1Loss):
    def __init__(self, loss_weight=1.0):
        super().__init__()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working directory, with options in `options/`; the registry, the path and the modules as they were, after."""
    dscsr_model.register()
    from basicsr.utils import registry

    for each in (registry.LOSS_REGISTRY, registry.MODEL_REGISTRY, registry.ARCH_REGISTRY):
        monkeypatch.setattr(each, "_obj_map", dict(each._obj_map))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("DSCSR_IMPORTED", "")
    (tmp_path / "options").mkdir()
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def check(folder, changes, **arguments):
    options = option_files.changed(option_files.training_options(option_files.make_data(folder / "data")), changes)
    check_options(option_files.write_options(folder / "options/opt.yml", options), is_train=True, **arguments)


@pytest.mark.parametrize("place", ["options/my_loss.py", "my_loss.py"])
def test_a_loss_in_a_file_beside_the_options_or_in_the_working_directory(folder, place):
    use = {"train:pixel_opt": {"type": "MineByFile", "loss_weight": 2}}
    with pytest.raises(OptionsError, match=r"got the text 'MineByFile'.* name that at the top: `import: my_file.py`"):
        check(folder, use)
    (folder / place).write_text(LOSS.format(name="MineByFile"))
    check(folder, {**use, "import": "my_loss.py"})
    check(folder, {**use, "import": ["my_loss.py"]})  # imported once: BasicSR refuses a second of its name
    with pytest.raises(OptionsError, match="Expected a file or module, or a list of them, but got 5"):
        check(folder, {**use, "import": 5})


def test_modules_of_the_working_directory_and_of_the_command_line(folder):
    """As in the folder of a project that registers its networks in a package of its own."""
    (folder / "theirs/archs").mkdir(parents=True)
    (folder / "theirs/__init__.py").touch()
    (folder / "theirs/archs/__init__.py").write_text("from .one import MineByModule")
    (folder / "theirs/archs/one.py").write_text(LOSS.format(name="MineByModule"))
    check(folder, {"train:pixel_opt": {"type": "MineByModule"}}, imports=["theirs.archs"])
    # The same modules, not others beside them.
    import_user_code(["theirs/archs/one.py", "theirs/archs/__init__.py"], "options/opt.yml")
    assert "one" not in sys.modules


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\nraise ValueError('mine')", 'File ".*bad.py", line 2, in <module>\n.*\nValueError: mine'),
        ("import einopsz", "No module named 'einopsz'"),
        ("def f(:", "SyntaxError"),
        ("raise SystemExit(2)", "SystemExit: 2"),
    ],
)
def test_an_error_in_it_is_told_with_its_own_traceback(folder, text, words):
    (folder / "bad.py").write_text(text)
    with pytest.raises(DscsrError) as error:
        import_user_code(["bad.py"], "opt.yml")
    first, _, rest = str(error.value).partition("\n")
    assert first == "Expected `bad.py` to be imported, but it raises an error of its own:"
    assert "importlib" not in rest
    assert re.search(words, rest), rest


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("my_los.py", r"got 'options/my_los.py' or 'my_los.py', which does not exist. Did you mean `my_loss.py`\?"),
        ("archs/x.py", r"'archs/x.py', which does not exist. Correct the path."),
        ("my_loss", r"got `my_loss`, and there is no `my_loss`. Did you mean the file `my_loss.py`\?"),
        ("hat.archs", r"got `hat.archs`, and there is no `hat`. Start where it lies"),
        ("my.loss.py", r"Expected a file that can be imported by its name, but got 'my.loss.py'. Rename it."),
        ("json.py", r"got 'json.py', while `json` is .*json/__init__.py. Rename it."),
    ],
)
def test_what_is_not_there_or_cannot_be_named(folder, name, words):
    for other in ("my_loss.py", "my.loss.py", "json.py"):
        (folder / "options" / other).touch()
    with pytest.raises(DscsrError, match=words):
        import_user_code([name], "options/opt.yml")


SPAWNED = """
import sys

def modules():
    from dscsr_model.host import user_code
    user_code.import_again()  # as `register()` does
    return list(sys.modules)
"""


def test_spawned_processes_have_it_too(folder):
    (folder / "options/spawned.py").write_text(SPAWNED)
    (folder / "options/beside.py").write_text("")
    import_user_code(["spawned.py", "beside.py"], "options/opt.yml")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(sys.modules["spawned"].modules)
    assert {"spawned", "beside"} <= set(found)
    assert not user_code.import_again()


MODEL = """
from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import MODEL_REGISTRY
from dscsr_model.models.efficient_sr_model import EfficientSRModel

@MODEL_REGISTRY.register()
class TheirModel(SRModel):
    def __init__(self, opt):
        self.tile = opt['val'].get('tile')

@MODEL_REGISTRY.register()
class TheirEfficientModel(EfficientSRModel):
    pass
"""
OF_OURS = {
    "train:precision": "bf16",
    "val:tile": 64,
    "logger:keep_checkpoints": 3,
    "network_g:lora": {"layers": {"*": [1, 1]}},
    "teacher": {"weights": "x"},
}


@pytest.mark.parametrize(
    ("model", "keys", "words"),
    [
        ("TheirModel", "train: precision, logger: keep_checkpoints, network_g: lora, teacher", "whose code does not"),
        ("TheirEfficientModel", "teacher", "`teacher:` (`DSCLoRAModel`, `DistillationModel`), but got"),
        (
            "SRModel",
            "train: precision, val: tile, logger: keep_checkpoints, network_g: lora, teacher",
            "`precision:` (",
        ),
    ],
)
def test_keys_of_ours_that_nothing_reads(folder, model, keys, words):
    """A model of others that never mentions them ignores them; one that derives from ours reads what ours does."""
    (folder / "options/their_model.py").write_text(MODEL)
    with pytest.raises(OptionsError) as error:
        check(folder, {**OF_OURS, "import": "their_model.py", "model_type": model})
    assert {fault.key for fault in error.value.faults} == set(keys.split(", "))
    assert words in str(error.value)


def test_keys_that_a_projects_own_srmodel_reads(folder):
    """As SAFMN's, vendored, reads `fft_opt`; a slip is told as ever."""
    (folder / "options/their_model.py").write_text(
        "from basicsr.models import sr_model\n"
        "from basicsr.utils.registry import MODEL_REGISTRY\n\n\n"
        "class SRModel(sr_model.SRModel):\n"
        "    def init_training_settings(self):\n"
        "        self.fft = self.opt['train'].get('fft_opt')\n\n\n"
        "MODEL_REGISTRY._obj_map['SRModel'] = SRModel\n"
    )
    changes = {"import": "their_model.py", "model_type": "SRModel", "train:fft_opt": {"type": "L1Loss"}}
    check(folder, changes)
    with pytest.raises(OptionsError, match="`fft_opts`"):
        check(folder, {**changes, "train:fft_opts": {"type": "L1Loss"}})

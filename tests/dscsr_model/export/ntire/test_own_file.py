"""`dscsr submit --source`: a network of the user's own becomes a kit, and what is wrong with it gets one message."""

import json
from functools import partial

import pytest
import torch

from dscsr_model.cli import main
from dscsr_model.export.ntire import kit as kits
from dscsr_model.export.ntire import self_check

NET = """
import torch.nn as nn


class Base(nn.Module):
    def __init__(self, dim, scale=4, *, kernel=3, **more):
        super(Base, self).__init__()
        self.head = nn.Conv2d(3, dim, kernel, padding=kernel // 2)
        self.tail = nn.Conv2d(dim, 3 * scale**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(scale)


class Net(Base):
    def forward(self, x):
        return self.shuffle(self.tail(self.head(x).relu()))


class Exact(Net):
    def __init__(self, dim):
        super().__init__(dim)


if __name__ == "__main__":
    import fvcore
try:
    import a_faster_kernel
except ImportError:
    a_faster_kernel = None
"""


@pytest.fixture
def submit(tmp_path, monkeypatch):
    """Run it on ``net.py`` and ``net.pth``, weights of its Net of 4 channels, in ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    namespace = {"__name__": "net"}
    exec(NET, namespace)
    weights = {f"module.{name}": tensor for name, tensor in namespace["Net"](4).state_dict().items()}
    torch.save({"params_ema": weights, "params": {**weights, "module.tail.bias": torch.zeros(3)}}, "net.pth")

    def run(*words, **options):
        options = {"--source": "net.py", "--class": "Net", "--set": "dim=4", "-o": "kit", **options}
        given = [word for name, value in options.items() if value is not None for word in (name, *value.split())]
        return main(["submit", "net.pth", "--team", "7", "--name", "Mine", *given, *words])

    return run


def test_is_checked_counted_and_written_with_the_class_that_is_handed_in(submit, tmp_path, monkeypatch, capsys):
    """In the real bare process."""
    monkeypatch.setattr(kits, "Kit", partial(kits.Kit, seconds=0))
    assert submit(**{"--class": "Exact"}) == 0
    told = capsys.readouterr().out
    assert "Exact(dim=4) of net.py" in told
    assert "its weights fit; its output, reduced by 4, is like its input to" in told
    assert "which is LITTLE: are these its weights" in told  # random ones
    mark = json.loads((tmp_path / "kit" / "kit.json").read_text())
    assert mark["parameters"] == 4 * 28 + 48 * 37
    assert mark["flops"] == (4 * 27 + 48 * 36) * 256**2
    assert (mark["counted_by"], mark["convolutions"]) == ("fvcore", 2)
    text = (tmp_path / "kit" / "models" / "team07_Mine.py").read_text()
    assert text.startswith(NET.rstrip())
    assert "class Mine(Exact):" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kit", "net.pth", "net.py"]


SHORT = """
import torch
class Net(torch.nn.{}):
    def __init__(self):
        {}
    def forward(self, x):
        {}
"""
FAULTS = [
    ({"--class": "Nett"}, NET, "Expected a class of net.py, but got Nett, which is not in it. Did you mean Net?"),
    ({"--class": None}, NET, "but got none (--class). Classes in it are Base, Net, Exact."),
    ({"--set": None}, NET, "one that needs dim. Say what they are: --set dim=VALUE."),
    ({"--class": "Exact", "--set": "dim=4 din=5"}, NET, "arguments of Exact in --set, but got din. Did you mean dim?"),
    ({"--set": "dim=4 scale=2"}, NET, "size mismatch for tail.weight: "),
    ({"--param-key": "params"}, NET, "size mismatch for tail.bias: "),
    ({"--fold": "exact"}, NET, "Expected a network of your own with --source, but got --fold too"),
    ({"--source": None}, NET, "Expected --source FILE.py, which --class is about, but got none"),
    ({"--source": "nowhere.py"}, NET, "Expected a file of Python code at nowhere.py, but got No such file"),
    ({"--name": "Base"}, NET, "but got 'Base', which is in use in the network's file. Choose another --name"),
    ({}, NET + "import einops\nfrom .utils import f\n", "standard library alone, as one file of the challenge, but got "
     ".utils, einops. Write what it uses"),
    ({}, "from basicsr.utils import x\n", "BasicSR's registry is not needed here"),
    ({}, "match 1:\n    case 1: pass\n", "Expected code of Python 3.9 in net.py, but got Pattern matching is only"),
    ({}, NET.replace("f, dim,", "f, dim: int | None,"), "annotations of Python 3.9 in net.py, but got `int | No"),
    ({}, "\xe9", "Expected code of Python 3.9 in net.py, but got 'utf-8' codec"),
    ({}, NET + "raise SystemExit(3)\n", "net.py to be imported, but got SystemExit: 3 (line 29). Correct it"),
    ({"--set": None}, SHORT.format("Module", "1 / 0", "pass"), "Net to be built by what --set says, as the challenge "
     "does, but got ZeroDivisionError: division by zero (line 5)"),
    ({"--set": None}, SHORT.format("Parameter", "pass", "pass"), "TypeError: the class is no torch.nn.Module. "),
    ({"--set": None}, SHORT.format("Module", "super().__init__()", "return x"), "Unexpected key(s) in state_dict: "
     '"head.weight", "head.bias"'),
    ({}, NET.replace("x).relu()", "x[..., 64:]).relu()"), "but got (1, 3, 388, 264) of an image (1, 3, 97, 130). The"),
    ({}, NET.replace("return ", "return x, "), "(1, 3, 4H, 4W) of one (1, 3, H, W), but got a tuple of an image"),
    ({}, NET.replace("x).relu()", "x).log()"), "Net to give finite numbers, but got "),
    ({}, NET.replace("(x).relu()", "(x.view(1, 3, 64, 64))"), "Net to run on images of odd sizes, but got Runtime"),
    ({}, NET.replace("return ", "self.seen = getattr(self, 'seen', x.mean())\n        return self.seen * "),
     "Net to do the same when an image ran through it before its weights came, but got images that differ by"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize(("changes", "code", "message"), FAULTS, ids=range(len(FAULTS)))
def test_whatever_is_wrong_gets_one_message(changes, code, message, submit, checked_here, tmp_path, capsys):
    (tmp_path / "net.py").write_text(code, encoding="latin-1")
    assert submit(**changes) == 1
    told = capsys.readouterr()
    assert message in told.err
    assert "Traceback" not in told.err
    assert (told.err.count("dscsr: error"), told.out) == (1, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.pth", "net.py"]


@pytest.mark.parametrize(
    ("ending", "limit", "message"),
    [
        ("import os\nos._exit(0)\n", 60, "but got exit code 0 (from"),
        (
            "while True: pass\n",
            0.1,
            "Expected the file to be checked within 0.1 seconds, but got no end. Look for a loop",
        ),
    ],
)
def test_a_file_that_ends_the_check_or_never_does(ending, limit, message, submit, tmp_path, monkeypatch, capsys):
    """In the real bare process."""
    monkeypatch.setattr(self_check, "LIMIT", limit)
    (tmp_path / "net.py").write_text(NET + ending)
    assert submit() == 1
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.pth", "net.py"]

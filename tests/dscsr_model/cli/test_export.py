import re
import sys

import pytest
import torch

from dscsr_arch import CARN, SPAN, load_model
from dscsr_arch.metadata import beside
from dscsr_model.cli import main
from dscsr_model.export import ship


@pytest.fixture
def weights(tmp_path):
    network = SPAN(feature_channels=4, upscale=2)
    torch.save({"params": network.state_dict(), **beside(network)}, tmp_path / "net_g_latest.pth")
    return tmp_path / "net_g_latest.pth"


FORMATS = {
    "spandrel": ("32, weights under the names that spandrel and chaiNNer read", ["dscsr's load_model", "spandrel"]),
    "onnx": ("16, ONNX, any batch, height and width", ["ONNX Runtime"]),
    "ncnn": ("16, with its .bin: ncnn, any height and width", ["ncnn, computing in float32"]),
}


@pytest.mark.parametrize("name", [pytest.param(each, marks=[pytest.mark.slow] * (each == "ncnn")) for each in FORMATS])
def test_every_line_is_in_place(weights, tmp_path, monkeypatch, capsys, spandrel, name):
    """Nothing but our lines is printed; spandrel is asked."""
    monkeypatch.chdir(tmp_path)
    says, readers = FORMATS[name]
    half = ["--fp16"] * (name != "spandrel")
    assert main(["export", str(weights), "-o", "my new/", "--format", name, *half]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    file = {"spandrel": "_spandrel.pth", "onnx": "_fp16.onnx", "ncnn": "_fp16_x2.param"}[name]
    file = f"net_g_latest{file}"
    first, *lines, last = printed.out.splitlines()
    assert re.fullmatch(rf"my new/{file}  \d+ KiB, float{says}", first)
    assert lines[:2] == [
        "  SPAN, 4 channels, x2, 3,436 parameters when fused",
        "  img_range 255, rgb_mean 0.4488/0.4371/0.404, norm true",
    ]
    read = [line.partition(": ")[0] for line in lines[2:]]
    told = ["largest difference from the source", *["what float16 costs"] * len(half)]
    notes = ["  Upscayl"] * (name == "ncnn")
    assert read == [*(f"  {each}, read by {reader}" for reader in readers for each in told), *notes]
    spandrel_call = f"spandrel.ModelLoader().load_from_file('my new/{file}')"
    call = spandrel_call if name == "spandrel" else f"dscsr upscale -i photo.png -o results -w 'my new/{file}'"
    assert last == f"  use it: {call}"
    files = [file, *[file.replace(".param", ".bin")] * (name == "ncnn")]
    assert sorted(entry.name for entry in (tmp_path / "my new").iterdir()) == sorted(files)


def test_a_network_of_another_is_exported_by_the_option_file_of_its_training(tmp_path, capsys):
    """What its code says is the truth: of its weights nobody here knows whose they are."""
    import dscsr_model

    dscsr_model.register()
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "opt.yml").write_text("import: mine.py\nnetwork_g: {type: MineToExport, width: 5}")
    torch.save(
        {"params": {"body.weight": torch.rand(5, 3, 3, 3), "up.weight": torch.rand(12, 5, 1, 1)}}, tmp_path / "w.pth"
    )
    words = ["export", str(tmp_path / "w.pth"), "-opt", str(tmp_path / "opt.yml"), "-o"]
    for name in ("out.onnx", "out.pth", "out.pt"):
        assert main([*words, str(tmp_path / name)]) == 0
        assert "MineToExport, 195 parameters when fused" in capsys.readouterr().out
    assert main([*words, str(tmp_path / "s.pth"), "--format", "spandrel"]) == 1
    assert "for spandrel, but got MineToExport" in capsys.readouterr().err


MINE = """
import torch
from basicsr.utils.registry import ARCH_REGISTRY

@ARCH_REGISTRY.register()
class MineToExport(torch.nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.body = torch.nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.up = torch.nn.Conv2d(width, 12, 1, bias=False)

    def forward(self, x):
        return torch.nn.functional.pixel_shuffle(self.up(self.body(x)), 2)
"""


def test_spandrel_names_what_helps_where_it_does_not_know_the_network(tmp_path, capsys):
    torch.save(CARN(num_feat=4, upscale=2).state_dict(), tmp_path / "w.pth")
    assert main(["export", str(tmp_path / "w.pth"), "-o", str(tmp_path), "--format", "spandrel"]) == 0
    printed = capsys.readouterr().out
    assert "spandrel does not know CARN (0.4.2), nor does chaiNNer. In Python, this helps:\n" in printed
    assert "  from dscsr_model.export.spandrel_support import register; register()\n" in printed
    assert f"use it: spandrel.ModelLoader().load_from_file('{tmp_path / 'w_spandrel.pth'}')" in printed


def test_why_spandrel_was_not_asked_is_said(weights, tmp_path, capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "spandrel", raising=False)
    (tmp_path / "spandrel.py").write_text("raise RuntimeError('operator torchvision::other\\n does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["export", str(weights), "-o", str(tmp_path / "out.pth"), "--format", "spandrel"]) == 0
    reason = "the import fails: .*operator torchvision::other does not exist"
    assert re.search(f"\n  spandrel itself was not asked: {reason}\n", capsys.readouterr().out)


def test_interrupted_it_ends_with_130_and_leaves_nothing(weights, tmp_path, monkeypatch, capsys):
    def interrupt(*_, **__):
        assert len(list(tmp_path.rglob("out.pth"))) == 1  # it is written, and about to be compared
        raise KeyboardInterrupt

    monkeypatch.setattr(ship, "difference", interrupt)
    assert main(["export", str(weights), "-o", str(tmp_path / "new" / "out.pth")]) == 130
    assert capsys.readouterr().err == "dscsr: interrupted\n"
    assert list(tmp_path.iterdir()) == [weights]


def test_taken_names_end_with_1(weights, tmp_path, capsys):
    assert main(["export", str(weights), "-o", str(weights), "--force"]) == 1
    assert "but got the source itself" in capsys.readouterr().err
    out = tmp_path / "out.pth"
    for words, code in (([], 0), ([], 1), (["--force"], 0)):
        assert main(["export", str(weights), "-o", str(out), *words]) == code
    assert load_model(out).upscale == 2

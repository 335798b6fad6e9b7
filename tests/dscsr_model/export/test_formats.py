import pytest

from dscsr_arch.errors import DscsrError
from dscsr_model.cli.export import _FORMATS
from dscsr_model.export.formats import FORMATS, choose


@pytest.mark.parametrize(
    ("out", "wanted", "half", "name", "form"),
    [
        ("a/x.pth", None, False, "a/x.pth", "pth"),
        ("x.SAFETENSORS", None, False, "x.SAFETENSORS", "safetensors"),
        ("x.onnx", None, True, "x.onnx", "onnx"),
        ("x.pt2", None, False, "x.pt2", "torch-export"),
        ("x.safetensors", "spandrel", False, "x.safetensors", "spandrel"),
        ("new/", "onnx", True, "new/net_g_fp16.onnx", "onnx"),
        ("there", "spandrel", True, "there/net_g_spandrel_fp16.pth", "spandrel"),
    ],
)
def test_format_and_name(tmp_path, monkeypatch, out, wanted, half, name, form):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    path, chosen = choose(out, wanted, "runs/net_g.pth", half)
    assert (str(path), chosen.name) == (name, form)


def test_a_name_says_nothing_twice(tmp_path):
    assert choose(tmp_path, "pth", "x4_fused.pth", False)[0].name == "x4_fused.pth"
    assert choose(tmp_path, "onnx", "x4_fp16.safetensors", True)[0].name == "x4_fp16.onnx"


@pytest.mark.parametrize(
    ("out", "wanted", "opset", "message"),
    [
        ("x.onnx", "pth", None, r"a file of the format pth to end in \.pth, but got 'x.onnx'. Change one of the two"),
        ("x.pt", "spandrel", None, r"spandrel to end in \.pth or \.safetensors, but got 'x.pt'"),
        (
            "x.bin",
            None,
            None,
            r"in one of \.pth, \.safetensors, .*, \.pt, \.param, or --format, but got 'x.bin'",
        ),
        ("x/", None, None, r"a file or a format, but got the folder x alone. Add --format pth\|"),
        ("x.pth", "caffe", None, "Expected a format among pth, .*, but got 'caffe'"),
        ("x.pt", None, 18, "Expected the format onnx for --opset, but got torchscript. Leave --opset out"),
    ],
)
def test_contradictions_get_one_message(out, wanted, opset, message):
    with pytest.raises(DscsrError, match=message):
        choose(out, wanted, "net_g.pth", False, opset)


def test_the_command_line_offers_every_format():
    assert tuple(FORMATS) == _FORMATS

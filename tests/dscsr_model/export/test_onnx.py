import json
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dscsr_arch import CARN, SPAN
from dscsr_arch.errors import DscsrError
from dscsr_arch.metadata import describe
from dscsr_model.export.compare import difference
from dscsr_model.export.onnx import run_onnx, to_onnx


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    network = SPAN(feature_channels=4, upscale=2)
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    to_onnx(network, path)
    return network, path


def test_the_model_holds_plain_convolutions_and_no_trace_of_this_machine(exported):
    import onnx

    network, path = exported
    assert difference(network, run_onnx(path)).largest < 1e-5  # float32, other order of summing
    model = onnx.load(path)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Conv") == 22
    assert kinds.count("DepthToSpace") == 1
    assert not {"Reshape", "Transpose"} & set(kinds)
    sizes = [[dim.dim_param or dim.dim_value for dim in each.type.tensor_type.shape.dim] for each in model.graph.input]
    assert sizes == [["batch", 3, "height", "width"]]
    assert [each.name for each in (*model.graph.input, *model.graph.output)] == ["input", "output"]
    assert b"span_arch" not in path.read_bytes()
    metadata = {prop.key: prop.value for prop in model.metadata_props}
    assert (metadata["network"], metadata["scale"], metadata["size_multiple"]) == ("SPAN", "2", "1")
    assert json.loads(metadata["arguments"]) == describe(network).arguments


@pytest.mark.parametrize(("half", "opset", "ir"), [(False, 20, 9), (True, 17, 8)])
def test_versions_that_others_open(exported, tmp_path, capfd, half, opset, ir):
    """ONNX Runtime 1.15 knows up to opset 19 and IR 9. Nothing is said, and no file of weights stands beside it."""
    import onnx

    to_onnx(exported[0], tmp_path / "net.onnx", half=half, opset=opset)
    assert capfd.readouterr() == ("", "")
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.onnx"]
    model = onnx.load(tmp_path / "net.onnx")
    assert (model.ir_version, [(each.domain, each.version) for each in model.opset_import]) == (ir, [("", opset)])
    plain_ones = {"Conv", "Sigmoid", "Mul", "Add", "Sub", "Concat", "DepthToSpace", "Constant", *["Cast"] * half}
    assert {node.op_type for node in model.graph.node} == plain_ones
    assert difference(exported[0], run_onnx(tmp_path / "net.onnx"), half=half).largest < (0.01 if half else 1e-5)


def test_a_file_that_is_no_model_gets_a_message(exported, tmp_path):
    (tmp_path / "net.onnx").write_bytes(exported[1].read_bytes()[:1000])
    with pytest.raises(DscsrError, match=r"net\.onnx: Expected ONNX Runtime to open it, but got this from it"):
        run_onnx(tmp_path / "net.onnx")
    with pytest.raises(DscsrError, match=r"takes an image \(1, 4, 5, 5\), but got this from ONNX Runtime: "):
        run_onnx(exported[1])(torch.rand(1, 4, 5, 5))


def test_what_cannot_be_translated_gets_a_message(exported, monkeypatch, tmp_path, capfd):
    class Pooling(nn.Module):  # SAFMN's
        def forward(self, x):
            return F.interpolate(F.adaptive_max_pool2d(x, (x.shape[2] // 2, x.shape[3] // 2)), x.shape[2:])

    class Odd(CARN):
        size_multiple = 1

        def forward(self, x):
            raise RuntimeError("odd")

    path = tmp_path / "net.onnx"
    with pytest.raises(DscsrError, match="exporter to ONNX to translate the network, but got this from it: odd"):
        to_onnx(Odd(num_feat=4), path)
    with pytest.raises(DscsrError, match="adaptive pooling, since output_size is not constant") as error:
        to_onnx(Pooling(), path)
    assert "Caused by" not in str(error.value)
    assert capfd.readouterr() == ("", "")  # not the whole graph
    with pytest.raises(DscsrError, match="Expected --opset to be one of 17, 18, 19, 20, but got 16"):
        to_onnx(exported[0], path, opset=16)
    with monkeypatch.context() as patched:
        patched.setattr(torch.onnx, "export", lambda model, args: None)
        with pytest.raises(DscsrError, match=r"Expected torch 2\.5 or newer for ONNX, but got 2"):
            to_onnx(exported[0], path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DscsrError, match=r"pip install 'dscsr\[onnx\]'"):
        to_onnx(exported[0], path)
    assert not list(tmp_path.iterdir())

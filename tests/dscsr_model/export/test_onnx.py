import json
import sys

import pytest
import torch

from dscsr_arch import CARN, SPAN
from dscsr_arch.deployable import deployable
from dscsr_arch.errors import DscsrError
from dscsr_arch.metadata import describe
from dscsr_model.cli import main
from dscsr_model.export import onnx as onnx_export
from dscsr_model.export.onnx import compare, quiet, require, to_onnx


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    network = SPAN(feature_channels=4, upscale=2)
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    to_onnx(network, path)
    return network, path


def test_the_difference_is_small_and_that_of_another_network_is_not(exported):
    network, path = exported
    assert 0 <= compare(network, path) < 1e-5  # float32, other order of summing
    torch.manual_seed(1)
    with pytest.raises(DscsrError, match="Expected the ONNX model to do what the network does"):
        compare(SPAN(feature_channels=4, upscale=2), path)
    with pytest.raises(DscsrError, match="Expected the ONNX model to make"):
        compare(SPAN(feature_channels=4, upscale=3), path)


def test_the_model_holds_plain_convolutions_and_no_trace_of_this_machine(exported):
    import onnx

    network, path = exported
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


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(("opset", "ir"), [(None, 8), (20, 9)])
def test_versions_that_others_open(exported, tmp_path, half, opset, ir):
    """ONNX Runtime 1.15 knows up to opset 19 and IR 9."""
    import onnx

    to_onnx(exported[0], tmp_path / "net.onnx", half=half, **({"opset": opset} if opset else {}))
    model = onnx.load(tmp_path / "net.onnx")
    assert (model.ir_version, [(each.domain, each.version) for each in model.opset_import]) == (ir, [("", opset or 17)])
    plain_ones = {"Conv", "Sigmoid", "Mul", "Add", "Sub", "Concat", "DepthToSpace", "Constant", *["Cast"] * half}
    assert {node.op_type for node in model.graph.node} == plain_ones
    assert compare(exported[0], tmp_path / "net.onnx") < (0.01 if half else 1e-5)


def test_versions_that_cannot_be_written(exported, tmp_path, capsys):
    with pytest.raises(DscsrError, match="Expected --opset to be one of 17, 18, 19, 20, but got 16"):
        to_onnx(exported[0], tmp_path / "net.onnx", opset=16)
    torch.save(exported[0].state_dict(), tmp_path / "w.pth")
    assert main(["export", str(tmp_path / "w.pth"), "-o", str(tmp_path / "a.pt"), "--opset", "18"]) == 1
    assert "Expected the format onnx for --opset, but got torchscript" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "w.pth"), "-o", str(tmp_path / "a.onnx"), "--opset", "18"]) == 0


def test_exporting_says_nothing(exported, tmp_path, capfd):
    to_onnx(exported[0], tmp_path / "net.onnx")
    assert capfd.readouterr() == ("", "")
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.onnx"]  # no file of weights beside it


class Windowed(SPAN):
    """With an operation on windows of 4×4 in front."""

    size_multiple = None

    def forward(self, x):
        batch, channels, height, width = x.shape
        windows = x.view(batch, channels, height // 4, 4, width // 4, 4)
        return super().forward((windows - windows.mean((3, 5), keepdim=True)).reshape(x.shape))


@pytest.mark.slow
def test_windows_are_in_the_model_and_said_in_its_metadata(tmp_path):
    from dscsr_model.inference.engines import onnx_engine, torch_engine

    network = Windowed(feature_channels=4, upscale=2).eval()
    to_onnx(network, tmp_path / "net.onnx")
    assert 0 <= compare(network, tmp_path / "net.onnx") < 1e-5
    engine, x = onnx_engine(tmp_path / "net.onnx", device="cpu"), torch.rand(1, 3, 9, 22)
    assert engine.receptive_field.sizes == (4, 4)
    torch.testing.assert_close(engine(x), torch_engine(network, device="cpu")(x))


def test_a_file_that_is_no_model_gets_a_message(exported, tmp_path):
    (tmp_path / "net.onnx").write_bytes(exported[1].read_bytes()[:1000])
    with pytest.raises(DscsrError, match="Expected ONNX Runtime to load the model, but it says"):
        onnx_export.runner(tmp_path / "net.onnx")
    with pytest.raises(DscsrError, match=r"to run the model on an image \(1, 4, 5, 5\), but it says"):
        onnx_export.runner(exported[1])(torch.rand(1, 4, 5, 5))


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DscsrError, match=r"onnx, onnxruntime for ONNX, .*: pip install 'dscsr\[onnx\]'"):
        require("onnx", "onnxruntime")


def test_what_torch_cannot_translate_gets_a_message(tmp_path):
    class Odd(CARN):
        def forward(self, x):
            raise RuntimeError("odd")

    with pytest.raises(DscsrError, match="Expected torch to translate the network to ONNX, but it says"):
        to_onnx(Odd(num_feat=4), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_an_old_torch_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.onnx, "export", lambda model, args: None)
    with pytest.raises(DscsrError, match=r"Expected torch 2\.5 or newer for ONNX, but got 2\."):
        to_onnx(deployable(SPAN(feature_channels=4)), tmp_path / "net.onnx")


def test_quiet_ends(capsys):
    with quiet():
        print("chatter")
        print("chatter", file=sys.stderr)
    print("said")
    assert capsys.readouterr() == ("said\n", "")

"""ONNX files: what is learned of them, and that they do no harm."""

import resource
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from dscsr_arch.errors import DscsrError, SizeError
from dscsr_model.inference.engines import onnx_engine, torch_engine

onnx = pytest.importorskip("onnx", reason="extra: onnx")
runtime = pytest.importorskip("onnxruntime", reason="extra: onnx")


def onnx_model(nodes, shape=("n", 3, "h", "v"), kind="FLOAT", **weights):
    ends = [onnx.helper.make_tensor_value_info(name, getattr(onnx.TensorProto, kind), shape) for name in ("a", "b")]
    ends[1].type.tensor_type.ClearField("shape")
    made = [onnx.helper.make_node(name, *ends_, **attributes) for name, *ends_, attributes in nodes]
    kept = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = onnx.helper.make_graph(made, "graph", ends[:1], ends[1:], kept)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def opened(tmp_path):
    """The engine of a model."""

    def opened(model):
        onnx.save(model, tmp_path / "net.onnx")
        return onnx_engine(tmp_path / "net.onnx", device="cpu", threads=1)

    return opened


def shuffling(kind="FLOAT"):
    """A convolution and a pixel shuffle, in ONNX and in PyTorch."""
    network = nn.Sequential(nn.Conv2d(3, 12, 5, padding=2, bias=False), nn.PixelShuffle(2))
    kernel = network[0].weight.detach().numpy().astype("float16" if kind == "FLOAT16" else "float32")
    nodes = [
        ("Conv", ["a", "w"], ["c"], {"pads": [2, 2, 2, 2]}),
        ("DepthToSpace", ["c"], ["b"], {"blocksize": 2, "mode": "CRD"}),
    ]
    return onnx_model(nodes, kind=kind, w=kernel), network


@pytest.mark.parametrize("kind", ["FLOAT", "FLOAT16"])
def test_as_in_pytorch(opened, kind):
    model, network = shuffling(kind)
    engine, own = opened(model), torch_engine(network, device="cpu")
    x = torch.rand(2, 3, 17, 23)
    assert (engine.scale, engine.channels) == (own.scale, own.channels) == (2, 3)
    assert engine.receptive_field[:2] == own.receptive_field[:2] == (2, True)
    assert engine.receptive_field.bytes_per_pixel >= 4096
    result = engine(x)
    assert result.dtype == torch.float32
    assert (result - own(x)).abs().max() < 2e-3


@pytest.mark.parametrize(
    ("nodes", "found"),
    [
        ([("GlobalAveragePool", ["a"], ["p"], {}), ("Add", ["a", "p"], ["b"], {})], (32, False)),
        ([("Neg", ["w"], ["v"], {}), ("Conv", ["a", "v"], ["b"], {"pads": [2, 2, 2, 2]})], (2, True)),
        ([("MaxPool", ["a"], ["b"], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]})], (1, True)),
    ],
    ids=["everything", "kernels that are computed", "no number among numbers"],
)
def test_how_far_files_look(opened, nodes, found):
    kernel = {"w": torch.rand(3, 3, 5, 5).numpy()} if nodes[0][0] == "Neg" else {}
    assert opened(onnx_model(nodes, **kernel)).receptive_field[:2] == found


@pytest.mark.parametrize(("said", "multiple"), [(None, 8), ("16", 16), ("99999999999", 8)])
def test_a_file_says_its_multiple_or_is_tried(opened, said, multiple, capfd):
    nodes = [
        ("SpaceToDepth", ["a"], ["c"], {"blocksize": 8}),
        ("DepthToSpace", ["c"], ["d"], {"blocksize": 8}),
        ("Mul", ["d", "d"], ["b"], {}),
    ]
    model = onnx_model(nodes)
    onnx.helper.set_model_props(model, {} if said is None else {"size_multiple": said})
    engine, x = opened(model), torch.rand(1, 3, 3, 17)
    assert engine.receptive_field.sizes == (multiple, multiple)
    assert torch.equal(engine(x), x * x)
    assert capfd.readouterr() == ("", "")


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(
        DscsrError, match=r"Expected the packages onnx and onnxruntime, but got no onnxruntime. Run `pip install"
    ):
        onnx_engine(tmp_path / "net.onnx")


@pytest.mark.parametrize("spoil", [lambda _: b"", lambda content: content.replace(b"Conv", b"C\xa9nv")])
def test_broken_files(tmp_path, spoil):
    """ONNX Runtime would print of the second one."""
    file = tmp_path / "broken.onnx"
    file.write_bytes(spoil(shuffling()[0].SerializeToString()))
    with pytest.raises(DscsrError, match=r"broken.onnx: Expected a whole ONNX file, but got one that ONNX Ru"):
        onnx_engine(file, device="cpu")


def test_missing_file(tmp_path):
    with pytest.raises(DscsrError, match=r"none.onnx: Expected an ONNX file, but got none"):
        onnx_engine(tmp_path / "none.onnx", device="cpu")


def test_files_of_another_kind_or_for_one_size(opened):
    copying = [("Identity", ["a"], ["b"], {})]
    with pytest.raises(DscsrError, match=r"but got a: tensor\(int64\) \[1, 4\]; b: tensor\(int64\)"):
        opened(onnx_model(copying, [1, 4], "INT64"))
    with pytest.raises(SizeError, match=r"net.onnx: .* Export it again with dynamic height and width"):
        opened(onnx_model(copying, [1, 3, 64, 64]))


def loop():
    """As long as its condition holds, which is always."""
    kinds = {"i": onnx.TensorProto.INT64, "c": onnx.TensorProto.BOOL, "x": onnx.TensorProto.FLOAT}
    ends = [onnx.helper.make_tensor_value_info(name, kind, None if name == "x" else []) for name, kind in kinds.items()]
    outs = [onnx.helper.make_tensor_value_info(f"{name}2", kinds[name], None) for name in "cx"]
    nodes = [onnx.helper.make_node("Identity", [name], [f"{name}2"]) for name in "cx"]
    return [("Loop", ["", "true", "a"], ["b"], {"body": onnx.helper.make_graph(nodes, "body", ends, outs)})]


def doubling():
    names = pairwise(["a", *map(str, range(39)), "b"])
    return [("Concat", [one] * 2, [two], {"axis": 2}) for one, two in names]


HARMFUL = {
    "endless": (loop, "without branches and loops, which may never end, but got Loop. Export it again by tracing"),
    "scale": (lambda: [("Resize", ["a", "", "scales"], ["b"], {"mode": "nearest"})], "Resize"),
    "channels": (lambda: [("Identity", ["a"], ["b"], {})], "images a whole number of times larger"),
    "doubling": (doubling, "one that takes more|images a whole number of times larger"),
}


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow if k == "doubling" else ()) for k in HARMFUL])
def test_files_that_would_take_everything(opened, kind):
    """No more memory than the file's size here, and little more where it is tried; one message."""
    made, message = HARMFUL[kind]
    values = {"true": True, "scales": np.array([1, 1, 2000, 2000], np.float32)}
    model = onnx_model(made(), ["n", 10**9 if kind == "channels" else 3, "h", "v"], **values)
    before = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    with pytest.raises(DscsrError, match=message):
        opened(model)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before[0] < 100 * 1024  # KiB
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < max(before[1], 2.2 * 2**20)


def test_files_that_take_too_long(opened, monkeypatch):
    monkeypatch.setattr("dscsr_model.inference.rehearsal._PATIENCE", 0)
    with pytest.raises(DscsrError, match=r"net.onnx: Expected .* runs on small images in 8 s and 2 GiB, but got one"):
        opened(shuffling()[0])


def test_onnx_runtime_for_cpus_only(tmp_path):
    if "CUDAExecutionProvider" in runtime.get_available_providers():
        pytest.skip("this ONNX Runtime is for GPUs")
    with pytest.raises(DscsrError, match="Expected ONNX Runtime for GPUs for --device cuda, but got that for CPUs"):
        onnx_engine(tmp_path / "net.onnx", device="cuda")

"""Engines beside the plain network."""

import copy
import random
import resource
from itertools import pairwise

import pytest
import torch
from small_models import Windows
from torch import nn

from dscsr_arch import CARN, SPAN, DSCLoRA
from dscsr_arch.errors import DscsrError, SizeError
from dscsr_arch.sizes import SizeRequirements, padded
from dscsr_arch.span_arch import SPAB
from dscsr_model.inference.engines import find_device, onnx_engine, torch_engine


def randomised(network):
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network.eval()


@pytest.fixture
def span():
    return randomised(SPAN(feature_channels=6, upscale=2, img_range=1.0))


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(
    "build",
    [
        lambda: SPAN(feature_channels=6, upscale=3, img_range=1.0),
        lambda: DSCLoRA(feature_channels=8, upscale=2, img_range=1.0),
        lambda: CARN(num_feat=4, upscale=2, img_range=1.0),
        lambda: SPAN(num_in_ch=1, num_out_ch=1, feature_channels=4, upscale=1, rgb_mean=(0.5,), img_range=1.0),
    ],
    ids=["SPAN", "DSCLoRA", "CARN", "gray"],
)
def test_as_the_plain_network(build, channels_last):
    network = randomised(build())
    engine = torch_engine(network, device="cpu", channels_last=channels_last)
    x = torch.rand(2, engine.channels, 17, 23)
    with torch.no_grad():
        plain = network(x)
    assert engine.scale == network.upscale
    assert plain.std() > 0.01
    # Merged kernels and another memory layout: sums in another order.
    assert (engine(x) - plain).abs().max() < 1e-5 * plain.abs().max()


def test_the_network_stays_as_it_is(span):
    before = copy.deepcopy(span.state_dict())
    for precision in ("fp32", "bf16"):
        torch_engine(span, device="cpu", precision=precision)(torch.rand(1, 3, 8, 8))
    assert before.keys() == span.state_dict().keys()
    assert all(torch.equal(before[name], value) for name, value in span.state_dict().items())
    assert not any(layer.fused for layer in span.layers())
    assert all("forward" not in vars(block) for block in span.blocks())


def test_the_image_stays_as_it_is(span):
    x = torch.rand(1, 3, 8, 8)
    before = x.clone()
    torch_engine(span, device="cpu", channels_last=False)(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.03), ("fp16", 0.004)])
def test_lower_precision(span, precision, tolerance):
    x = torch.rand(1, 3, 16, 16)
    exact = torch_engine(span, device="cpu")(x)
    rounded = torch_engine(span, device="cpu", precision=precision)(x)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < tolerance * exact.abs().max()


def test_the_image_enters_in_float32():
    """In bf16 a bright image would have fewer than 256 levels; weights of 1 show what comes through."""
    network = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.Identity())
    nn.init.dirac_(network[0].weight)
    network[0].weight.data *= 256
    x = torch.full((1, 3, 32, 32), 0.998)
    engine = torch_engine(network, device="cpu", precision="bf16")
    assert engine(x)[0, 0, 0, 0] == torch.tensor(0.998 * 256).bfloat16()


def test_a_block_in_place_is_the_block(span):
    block = copy.deepcopy(span).fuse().block_1.double()
    from dscsr_model.inference.in_place import _forward

    x = torch.randn(2, 6, 9, 11, dtype=torch.float64)
    before = x.clone()
    with torch.no_grad():
        expected, got = SPAB.forward(block, x), _forward(block, x)
    for one, other in zip(expected, got, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", ["cuda:99", "cuda"])
def test_a_gpu_that_is_not_there(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DscsrError, match=rf"Expected a GPU for --device {name}, but PyTorch sees none"):
        find_device(name)


@pytest.mark.parametrize("name", ["gpu", "cpuu", "", "mps", "meta"])
def test_no_such_device(name):
    with pytest.raises(DscsrError, match="Expected a device among auto, cpu, cuda"):
        find_device(name)


def test_no_such_precision(span):
    with pytest.raises(DscsrError, match="Expected a precision among fp32, bf16, fp16, but got 'int8'"):
        torch_engine(span, device="cpu", precision="int8")


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Linear(7, 7), r"a network from images \(1, C, H, W\) to images .* but Linear gives"),
        (nn.Conv2d(3, 8, 3, padding=1), "keeps their channels, but Conv2d makes"),
        (nn.Conv2d(3, 3, 3), r"a whole number of times larger, .* \(1, 3, 62, 126\) of \(1, 3, 64, 128\)"),
    ],
)
def test_other_networks(network, message):
    with pytest.raises(DscsrError, match=message):
        torch_engine(network, device="cpu")


def test_windows_take_images_of_any_size():
    network, x = Windows(12, 3), torch.rand(2, 3, 17, 23)
    engine = torch_engine(network, device="cpu")
    assert (engine.scale, engine.channels, engine.receptive_field.sizes) == (3, 3, (12, 12))
    torch.testing.assert_close(engine(x), padded(network, x, SizeRequirements(12, 12)).detach())


@pytest.mark.parametrize(("said", "multiple"), [(None, 8), ("16", 16), ("99999999999", 8), ("0", 8)])
def test_an_onnx_file_says_its_multiple_or_is_tried(tmp_path, said, multiple, capfd):
    onnx = pytest.importorskip("onnx", reason="extra: onnx")
    nodes = [
        ("SpaceToDepth", ["a"], ["c"], {"blocksize": 8}),
        ("DepthToSpace", ["c"], ["d"], {"blocksize": 8}),
        ("Mul", ["d", "d"], ["b"], {}),
    ]
    model = onnx_model(nodes, ["n", 3, "h", "v"])
    onnx.helper.set_model_props(model, {} if said is None else {"size_multiple": said})
    onnx.save(model, tmp_path / "windows.onnx")
    engine, x = onnx_engine(tmp_path / "windows.onnx", device="cpu", threads=1), torch.rand(1, 3, 3, 17)
    assert engine.receptive_field.sizes == (multiple, multiple)
    assert torch.equal(engine(x), x * x)
    assert capfd.readouterr() == ("", "")


def onnx_model(nodes, shape, kind="FLOAT", weights=()):
    onnx = pytest.importorskip("onnx", reason="extra: onnx")
    pytest.importorskip("onnxruntime", reason="extra: onnx")
    ends = [onnx.helper.make_tensor_value_info(name, getattr(onnx.TensorProto, kind), shape) for name in ("a", "b")]
    made = [onnx.helper.make_node(name, *ends_, **attributes) for name, *ends_, attributes in nodes]
    graph = onnx.helper.make_graph(made, "graph", ends[:1], ends[1:], list(weights))
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


class Picky(nn.Conv2d):
    """Uses its weight for something that takes float32 only."""

    def forward(self, x):
        return torch.baddbmm(self.weight[0, 0, :1, :1][None], self.weight[0, 0, :1, :1][None], torch.zeros(1, 1, 1)) + x


def test_a_network_that_does_not_run_in_bf16():
    network = nn.Sequential(nn.Conv2d(3, 3, 1), Picky(3, 3, 1))
    torch_engine(network, device="cpu")
    with pytest.raises(DscsrError, match=r"Expected Sequential to run in bf16 on cpu, but got: .* Choose --precision"):
        torch_engine(network, device="cpu", precision="bf16")


@pytest.fixture(params=["FLOAT", "FLOAT16"])
def onnx_file(tmp_path, request):
    """A convolution and a pixel shuffle, in ONNX and in PyTorch."""
    onnx = pytest.importorskip("onnx", reason="extra: onnx")
    network = nn.Sequential(nn.Conv2d(3, 12, 5, padding=2, bias=False), nn.PixelShuffle(2))
    kernel = network[0].weight.detach().numpy().astype("float16" if request.param == "FLOAT16" else "float32")
    nodes = [
        ("Conv", ["a", "w"], ["c"], {"pads": [2, 2, 2, 2]}),
        ("DepthToSpace", ["c"], ["b"], {"blocksize": 2, "mode": "CRD"}),
    ]
    model = onnx_model(nodes, ["n", 3, "h", "v"], request.param, [onnx.numpy_helper.from_array(kernel, "w")])
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, tmp_path / "net.onnx")
    return tmp_path / "net.onnx", network


def test_onnx(onnx_file):
    file, network = onnx_file
    engine, own = onnx_engine(file, device="cpu", threads=1), torch_engine(network, device="cpu")
    x = torch.rand(2, 3, 17, 23)
    assert (engine.scale, engine.channels) == (own.scale, own.channels) == (2, 3)
    assert engine.receptive_field[:2] == own.receptive_field[:2] == (2, True)
    assert engine.receptive_field.bytes_per_pixel >= 4096
    result = engine(x)
    assert result.dtype == torch.float32
    assert (result - own(x)).abs().max() < 2e-3


def test_onnx_that_looks_far(tmp_path):
    onnx = pytest.importorskip("onnx", reason="extra: onnx")
    nodes = [("GlobalAveragePool", ["a"], ["p"], {}), ("Add", ["a", "p"], ["b"], {})]
    onnx.save(onnx_model(nodes, ["n", 3, "h", "v"]), tmp_path / "far.onnx")
    assert not onnx_engine(tmp_path / "far.onnx", device="cpu").receptive_field.local


def test_onnx_with_computed_kernels(tmp_path):
    """How far they reach is written nowhere."""
    onnx = pytest.importorskip("onnx", reason="extra: onnx")
    kernel = onnx.numpy_helper.from_array(torch.rand(3, 3, 5, 5).numpy(), "w")
    nodes = [("Neg", ["w"], ["v"], {}), ("Conv", ["a", "v"], ["b"], {"pads": [2, 2, 2, 2]})]
    onnx.save(onnx_model(nodes, ["n", 3, "h", "v"], weights=[kernel]), tmp_path / "computed.onnx")
    assert not onnx_engine(tmp_path / "computed.onnx", device="cpu").receptive_field.local
    nodes[1][-1]["kernel_shape"] = [5, 5]
    onnx.save(onnx_model(nodes, ["n", 3, "h", "v"], weights=[kernel]), tmp_path / "told.onnx")
    assert onnx_engine(tmp_path / "told.onnx", device="cpu").receptive_field[:2] == (2, True)


def test_onnx_without_the_package(onnx_file, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(DscsrError, match=r"onnxruntime is not installed. Run `pip install 'dscsr\[onnx\]'`"):
        onnx_engine(onnx_file[0])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: b"",
        lambda _: b"not onnx at all",
        lambda content: content[:-300],
        lambda content: content.replace(b"Conv", b"C\xa9nv"),  # ONNX Runtime prints of it
    ],
)
def test_broken_onnx(onnx_file, tmp_path, spoil):
    file = tmp_path / "broken.onnx"
    file.write_bytes(spoil(onnx_file[0].read_bytes()))
    with pytest.raises(DscsrError, match=r"Expected a whole ONNX file at .*broken.onnx"):
        onnx_engine(file, device="cpu")


@pytest.mark.slow
def test_damaged_onnx_gives_one_kind_of_error(onnx_file, tmp_path):
    content, refused = onnx_file[0].read_bytes(), 0
    for number in range(60):
        draw = random.Random(number)
        changed = bytearray(content)
        for _ in range(draw.choice([1, 2, 5])):
            at = int(len(content) * draw.random() ** draw.choice([1, 3]))
            changed[at : at + draw.choice([1, 1, 4])] = draw.randbytes(1)
        (tmp_path / "net.onnx").write_bytes(changed)
        try:
            onnx_engine(tmp_path / "net.onnx", device="cpu")
        except DscsrError:
            refused += 1
    assert 0 < refused < 60


def test_missing_onnx(tmp_path):
    with pytest.raises(DscsrError, match=r"Expected an ONNX file at .*none.onnx, but there is none"):
        onnx_engine(tmp_path / "none.onnx", device="cpu")


def test_onnx_of_another_kind(tmp_path):
    onnx = pytest.importorskip("onnx", reason="extra: onnx")
    onnx.save(onnx_model([("Identity", ["a"], ["b"], {})], [1, 4], "INT64"), tmp_path / "i.onnx")
    with pytest.raises(DscsrError, match=r"but got a: tensor\(int64\) \[1, 4\]; b: tensor\(int64\)"):
        onnx_engine(tmp_path / "i.onnx", device="cpu")


def test_onnx_of_one_size(tmp_path):
    onnx = pytest.importorskip("onnx", reason="extra: onnx")
    onnx.save(onnx_model([("Identity", ["a"], ["b"], {})], [1, 3, 64, 64]), tmp_path / "s.onnx")
    with pytest.raises(SizeError, match=r"s.onnx gives: .* Export it again with dynamic height and width"):
        onnx_engine(tmp_path / "s.onnx", device="cpu")


def loop(onnx):
    """As long as its condition holds, which is always."""
    kinds = {"i": onnx.TensorProto.INT64, "c": onnx.TensorProto.BOOL, "x": onnx.TensorProto.FLOAT}
    ends = [onnx.helper.make_tensor_value_info(name, kind, None if name == "x" else []) for name, kind in kinds.items()]
    outs = [onnx.helper.make_tensor_value_info(f"{name}2", kinds[name], None) for name in "cx"]
    nodes = [onnx.helper.make_node("Identity", [name], [f"{name}2"]) for name in "cx"]
    return [("Loop", ["", "true", "a"], ["b"], {"body": onnx.helper.make_graph(nodes, "body", ends, outs)})]


def zeros(onnx):
    """As many as `shape` says, made when the file is opened or at the first run."""
    value = onnx.helper.make_tensor("v", onnx.TensorProto.FLOAT, [1], [0.0])
    return [("ConstantOfShape", ["shape"], ["z"], {"value": value})]


SUM = [("ReduceSum", ["s"], ["r"], {"keepdims": 0}), ("Add", ["a", "r"], ["b"], {})]
HARMFUL = {
    "endless": (
        loop,
        "without branches and loops, which may never end, in .*, but got Loop. Export it again by tracing",
    ),
    "scale": (lambda _: [("Resize", ["a", "", "scales"], ["b"], {"mode": "nearest"})], "Resize"),
    "channels": (lambda _: [("Identity", ["a"], ["b"], {})], "images a whole number of times larger"),
    "constants": (lambda onnx: [*zeros(onnx), ("Identity", ["z"], ["s"], {}), *SUM], "ConstantOfShape"),
    "doubling": (
        lambda _: [
            ("Concat", [one] * 2, [two], {"axis": 2}) for one, two in pairwise(["a", *map(str, range(39)), "b"])
        ],
        "it took more|images a whole number of times larger",
    ),
}


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow if k == "doubling" else ()) for k in HARMFUL])
def test_onnx_that_would_take_everything(tmp_path, kind):
    """No more memory than the file's size here, and little more where it is tried; one message."""
    onnx = pytest.importorskip("onnx", reason="extra: onnx")
    values = {
        "true": torch.tensor(True),
        "scales": torch.tensor([1.0, 1, 2000, 2000]),
        "shape": torch.tensor([200_000] * 2),
    }
    made, message = HARMFUL[kind]
    weights = [onnx.numpy_helper.from_array(value.numpy(), name) for name, value in values.items()]
    model = onnx_model(made(onnx), ["n", 10**9 if kind == "channels" else 3, "h", "v"], weights=weights)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, tmp_path / "net.onnx")
    before = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    with pytest.raises(DscsrError, match=message):
        onnx_engine(tmp_path / "net.onnx", device="cpu")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before[0] < 100 * 1024  # KiB
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < max(before[1], 2.2 * 2**20)


def test_onnx_that_takes_too_long(onnx_file, monkeypatch):
    monkeypatch.setattr("dscsr_model.inference.onnx_file._PATIENCE", 0)
    with pytest.raises(DscsrError, match=r"runs on small images in 8 s and 2 GiB in .*net.onnx, but it took more"):
        onnx_engine(onnx_file[0], device="cpu")


def test_onnx_that_fails_on_larger_images(tmp_path):
    """What is added reaches 100 pixels."""
    onnx = pytest.importorskip("onnx", reason="extra: onnx")
    values = {"add": torch.zeros(1, 3, 100, 100), "axes": torch.tensor([2, 3]), "no": torch.tensor([0, 0])}
    values |= {"two": torch.tensor([2]), "four": torch.tensor([4])}
    nodes = [
        ("Shape", ["a"], ["shape"], {}),
        ("Slice", ["shape", "two", "four"], ["size"], {}),
        ("Slice", ["add", "no", "size", "axes"], ["added"], {}),
        ("Add", ["a", "added"], ["b"], {}),
    ]
    weights = [onnx.numpy_helper.from_array(value.numpy(), name) for name, value in values.items()]
    onnx.save(onnx_model(nodes, ["n", 3, "h", "v"], weights=weights), tmp_path / "net.onnx")
    with pytest.raises(DscsrError, match=r"takes images of any size in .*, but one fails: .* Add node"):
        onnx_engine(tmp_path / "net.onnx", device="cpu")


def test_onnx_runtime_for_cpus_only(onnx_file):
    runtime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in runtime.get_available_providers():
        pytest.skip("this ONNX Runtime is for GPUs")
    with pytest.raises(DscsrError, match="Expected ONNX Runtime for GPUs for --device cuda, but got that for CPUs"):
        onnx_engine(onnx_file[0], device="cuda")

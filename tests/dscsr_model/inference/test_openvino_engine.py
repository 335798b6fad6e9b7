"""OpenVINO beside PyTorch."""

import sys
from importlib.util import find_spec

import pytest
import torch

from dscsr_arch import SPAN, load_model
from dscsr_arch.errors import DscsrError, UnavailableError
from dscsr_arch.quantized_conv import inject
from dscsr_model.cli.backend import write
from dscsr_model.inference.backends import BACKENDS, NAMES
from dscsr_model.inference.engines import torch_engine
from dscsr_model.inference.no_telemetry import import_openvino
from dscsr_model.inference.openvino_engine import openvino_engine
from dscsr_model.inference.tiles import Upscaler
from dscsr_model.training.quantization import calibrate
from dscsr_model.weights import find

pytest.importorskip("onnxruntime", reason="extra: onnx")
if find_spec("openvino") is None:
    pytest.skip("extra: openvino", allow_module_level=True)  # importorskip would let it report its import


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return SPAN(feature_channels=8, upscale=2, img_range=1.0).eval()


@pytest.fixture(scope="module")
def file(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("openvino") / "net.onnx"
    write("onnx", network, path, False)
    return path


def test_as_in_pytorch(network, file):
    """In float32 also where the CPU has bf16; of any size, of one that comes again, and again after others."""
    engine, own = openvino_engine(file, threads=1), torch_engine(network, device="cpu")
    assert (engine.scale, engine.channels) == (own.scale, own.channels) == (2, 3)
    assert engine.receptive_field[:2] == own.receptive_field[:2] == (21, True)
    for size in ((1, 3, 17, 23), (1, 3, 17, 23), (1, 3, 17, 23), (2, 3, 9, 40), (1, 3, 17, 23), (1, 3, 1, 1)):
        x = torch.rand(size)
        expected = own(x)
        assert (engine(x) - expected).abs().max() < 1e-5 * expected.abs().max().clamp(min=1)


def test_what_a_pixel_sees_of_a_network_that_its_two_programs_round_differently(tmp_path):
    network = load_model(find("span_x4"))
    write("onnx", network, tmp_path / "net.onnx", False)
    assert openvino_engine(tmp_path / "net.onnx", threads=1).receptive_field[:2] == (21, True)


def test_results_are_kept_apart(file):
    """The memory of one result is not that of the next."""
    engine = openvino_engine(file, threads=1)
    x = torch.rand(3, 1, 3, 8, 8)
    results = [engine(each) for each in x]
    assert not torch.equal(results[1], results[2])


def test_levels_are_rounded_alike_in_tiles_and_whenever_an_image_comes(tmp_path):
    """Its program for any size rounds otherwise than those for one size."""
    torch.manual_seed(0)
    network = inject(load_model(find("span_x4")).fuse(), "pact", 8).eval()
    calibrate(network, lambda: network(torch.rand(2, 3, 16, 16)))
    write("onnx", network, tmp_path / "net.onnx", False)
    engine = openvino_engine(tmp_path / "net.onnx", threads=1)
    pixels = (torch.rand(50, 40, 3) * 255).byte().numpy()
    whole, again, tiled = (Upscaler(engine, tile)(pixels).astype(int) for tile in (0, 0, 24))
    assert abs(whole - again).max() == abs(whole - tiled).max() == 0


def test_where_memory_ends(file, monkeypatch):
    """OpenVINO says nothing then, and gives what it gave last; or where it stands, and then what happened."""

    def fails(*_):
        raise RuntimeError("Exception from core.cpp:117:\nException from plugin.cpp:54:\ncan't alloc\n\n")

    engine = openvino_engine(file, threads=1)
    for call, message in (lambda *_: torch.zeros(1, 3, 16, 16).numpy(), "not enough memory"), (fails, "can't alloc"):
        monkeypatch.setattr(type(engine.run.__defaults__[0]), "__call__", call)
        with pytest.raises(RuntimeError, match=f"^OpenVINO: {message}$"):
            engine(torch.rand(1, 3, 8, 9))


def test_bf16_when_asked_for(network, file):
    """It is rounded alike whenever an image comes, too."""
    if "BF16" not in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(DscsrError, match="a CPU that computes in bf16"):
            openvino_engine(file, precision="bf16")
        return
    x = torch.rand(1, 3, 16, 16)
    expected = torch_engine(network, device="cpu")(x)
    engine = openvino_engine(file, precision="bf16", threads=1)
    made = engine(x)
    assert 1e-4 < (made - expected).abs().max() / expected.abs().max() < 0.1
    assert torch.equal(engine(x), made)


def test_what_it_cannot_do(file, tmp_path, monkeypatch):
    with pytest.raises(DscsrError, match="a precision among fp32, bf16 for OpenVINO, but got 'fp16'"):
        openvino_engine(file, precision="fp16")
    with pytest.raises(DscsrError, match=r"Expected a GPU for --device cuda|--device cpu for OpenVINO"):
        openvino_engine(file, device="cuda")
    with pytest.raises(DscsrError, match="Expected an ONNX file, but got none"):
        openvino_engine(tmp_path / "none.onnx")


@pytest.mark.parametrize("fault", ["ImportError('libgomp.so.1')", "TypeError('libgomp.so.1\\nas protobuf tells it')"])
@pytest.mark.parametrize("backend", [name for name in NAMES if name != "torch"])
def test_a_package_that_is_broken(backend, fault, tmp_path, monkeypatch):
    """It is there, but a library that it needs is not."""
    package = {"onnx": "onnxruntime"}.get(backend, backend)
    (tmp_path / f"{package}.py").write_text(f"raise {fault}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, package, raising=False)
    with pytest.raises(
        UnavailableError, match=r"but got one whose import fails: libgomp.so.1. Run `pip install 'dscsr\["
    ):
        BACKENDS[backend].require()


def test_without_openvino(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(DscsrError, match=r"OpenVINO, but got no openvino. Run `pip install 'dscsr\[openvino\]'`"):
        openvino_engine(file)

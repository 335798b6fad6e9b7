"""ncnn: the pair of files, what programs look for in it, and what pnnx may do wrong."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dscsr_arch import CARN, EDSR, RCAN, SPAN, SPANF, SPANV2, DSCLoRA
from dscsr_arch.deployable import deployable
from dscsr_arch.errors import DscsrError
from dscsr_model.export.compare import difference, soft_image
from dscsr_model.export.formats import FORMATS
from dscsr_model.export.ncnn import named_for_upscayl, rounded, run_ncnn, to_ncnn, upscayl_scale
from dscsr_model.export.ship import ship
from dscsr_model.inference.engines import torch_engine
from dscsr_model.inference.ncnn_engine import ncnn_engine

pytest.importorskip("pnnx", reason="extra: ncnn")
pytest.importorskip("ncnn", reason="extra: ncnn")


def steady(network):
    """Untrained, its outputs are large; a network of others' values alike is the smaller test."""
    for parameter in network.parameters():
        parameter.data.mul_(0.7)
    return network.eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    network = steady(SPAN(feature_channels=4, upscale=2, rgb_mean=(0.1, 0.2, 0.3)))
    path = tmp_path_factory.mktemp("ncnn") / "net_x2.param"
    return network, path, ship(network, path, FORMATS["ncnn"])


def test_a_pair_of_files_as_other_programs_read_them(exported):
    """Ends by the names that all look for; nothing that chaiNNer's reader refuses (constants, lines of others)."""
    _, path, shipped = exported
    assert sorted(file.name for file in path.parent.iterdir()) == ["net_x2.bin", "net_x2.param"]
    assert shipped.differences["ncnn, computing in float32"].largest < 1e-5
    magic, _, *lines = path.read_text().splitlines()
    layers = [line.split() for line in lines]
    assert magic == "7767517"
    assert layers[0][:5] == ["Input", "data", "0", "1", "data"]
    assert (layers[-1][0], layers[-1][5]) == ("PixelShuffle", "output")
    assert {layer[0] for layer in layers} == {
        *("Input", "BatchNorm", "Convolution", "BinaryOp", "Swish", "Sigmoid", "Split", "Concat", "PixelShuffle")
    }


def test_the_engine_is_the_network(exported):
    """By itself: the scale, the channels, what a pixel sees, and any batch, which stays as it is."""
    network, path, _ = exported
    engine, own = ncnn_engine(path, threads=1), torch_engine(network, device="cpu")
    assert (engine.scale, engine.channels) == (2, 3)
    assert engine.receptive_field[:2] == own.receptive_field[:2]
    x = soft_image((2, 3, 19, 31), torch.Generator().manual_seed(0))
    before = x.clone()
    assert (engine(x) - own(x)).abs().max() < 1e-5
    assert torch.equal(x, before)  # ncnn's first layer here works in place


NETWORKS = {
    "SPAN x1": lambda: SPAN(feature_channels=4, upscale=1, residual=True),
    "gray": lambda: SPAN(1, 1, feature_channels=4, upscale=3),
    "DSCLoRA": lambda: DSCLoRA(feature_channels=4, upscale=2),
    "SPANF": lambda: SPANF(feature_channels=4, upscale=2),
    "SPANV2": lambda: SPANV2(feature_channels=4, upscale=2),
    "CARN": lambda: CARN(num_feat=4, upscale=3),
    "EDSR": lambda: EDSR(num_feat=4, num_block=1, upscale=2),
    "RCAN": lambda: RCAN(num_feat=4, num_group=1, num_block=1, squeeze_factor=2, upscale=2),
}


def test_empty_lines_as_editors_leave_them_and_names_in_any_encoding(exported, tmp_path):
    _, path, _ = exported
    text = "\n" + path.read_text().replace("\nConvolution", "\n \nConvolution").replace("bn_0", "über") + "\n\n"
    (tmp_path / "net.param").write_text(text, "latin-1")
    (tmp_path / "net.bin").write_bytes(path.with_suffix(".bin").read_bytes())
    engines = [ncnn_engine(each, threads=1) for each in (tmp_path / "net.param", path)]
    assert engines[0].receptive_field[:2] == engines[1].receptive_field[:2]


def test_a_network_that_begins_with_pixel_unshuffle(tmp_path):
    layers = nn.PixelUnshuffle(2), nn.Conv2d(12, 48, 3, padding=1), nn.PixelShuffle(4)
    network = nn.Sequential(*layers).eval()
    network.size_multiple = 2
    to_ncnn(network, tmp_path / "net.param")
    engine, x = ncnn_engine(tmp_path / "net.param", threads=1), torch.rand(1, 3, 16, 22)
    assert (engine.scale, engine.channels) == (2, 3)
    assert (engine(x) - network(x)).abs().max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network(name, tmp_path):
    torch.manual_seed(0)
    network = steady(NETWORKS[name]())
    shipped = ship(network, tmp_path / "net.param", FORMATS["ncnn"])
    assert shipped.differences["ncnn, computing in float32"].largest < 1e-5
    assert "MemoryData" not in (tmp_path / "net.param").read_text()
    engine, own = ncnn_engine(tmp_path / "net.param", threads=1), torch_engine(network, device="cpu")
    assert (engine.scale, engine.channels) == (own.scale, own.channels)
    assert engine.receptive_field[:2] == own.receptive_field[:2]


def test_float16_by_error_diffusion():
    """No weight is off by more than a step of its kernel's largest one; their sum is off by far less than rounded."""
    torch.manual_seed(0)
    layer = nn.Conv2d(5, 7, 3)
    layer.weight.data[0] *= 1e-4
    before = layer.weight.detach().clone()
    weight = rounded(layer).weight.detach()
    assert torch.equal(layer.weight, before)
    assert torch.equal(weight, weight.half().float())
    assert (weight[weight != 0].abs() >= 2**-14).all()  # pnnx would lose others
    plain = torch.where(before.abs() < 2**-14, 0, before.half().float())
    steps = (before.abs().amax((2, 3), keepdim=True) * 2**-10).clamp(min=2**-14)
    assert ((weight - before).abs() <= steps).all()
    sums = [(each - before).double().sum((2, 3)).square().mean() for each in (weight, plain)]
    assert sums[0] < sums[1] / 25


def test_float16_halves_the_weights(exported, tmp_path):
    network, path, _ = exported
    to_ncnn(network, tmp_path / "half.param", half=True)
    assert (tmp_path / "half.param").read_text() == path.read_text()
    ratio = (tmp_path / "half.bin").stat().st_size / path.with_suffix(".bin").stat().st_size
    assert 0.5 < ratio < 0.62
    found = difference(rounded(deployable(network)), run_ncnn(tmp_path / "half.param"))
    assert found.largest < 1e-5  # they are the weights, and nothing rounds them again


@pytest.mark.parametrize(
    ("stem", "scale"), [("span_x4", 4), ("4x_span", 4), ("span", 4), ("2xSpan", 2), ("a_x8", 8), ("a_x16", 1)]
)
def test_the_scale_in_a_name(stem, scale):
    assert upscayl_scale(stem) == scale


def test_names_that_tell_the_scale():
    network = SPAN(feature_channels=4, upscale=2)
    assert named_for_upscayl(Path("a/net_g.param"), network) == Path("a/net_g_x2.param")
    assert named_for_upscayl(Path("a/2x.param"), network) == Path("a/2x.param")


def test_neither_file_is_replaced_unasked(exported, tmp_path):
    network, *_ = exported
    (tmp_path / "net.bin").write_bytes(b"another's")
    with pytest.raises(DscsrError, match=r"something new to write, but got .*net\.bin, which exists\. Pass --force"):
        ship(network, tmp_path / "net.param", FORMATS["ncnn"])
    with pytest.raises(DscsrError, match=r"an output beside the source, but got the source itself: .*net\.bin"):
        ship(network, tmp_path / "net.param", FORMATS["ncnn"], force=True, sources=[tmp_path / "net.bin"])
    assert [file.name for file in tmp_path.iterdir()] == ["net.bin"]
    assert (tmp_path / "net.bin").read_bytes() == b"another's"


class Odd(nn.Module):
    """What no layer of ncnn does."""

    size_multiple = 1

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return torch.cumprod(self.conv(x), 1)


def program(tmp_path, line):
    path = tmp_path / "pnnx"
    path.write_text(f"#!{sys.executable}\n{line}")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("import os; os.kill(os.getpid(), 11)", "Expected pnnx to translate the network, but got signal 11 from it"),
        ("print('no'); raise SystemExit(3)", "but got exit code 3 from it, and: no. Nothing is kept. Choose another"),
        (None, r"Expected a network of layers that ncnn has, but got one with .*cumprod"),
        ("no program", r"Expected pnnx, a program, to run, but got .*pnnx'\. Run `pip install --force-reinstall pnnx`"),
    ],
)
def test_what_pnnx_cannot_do_gets_a_message(tmp_path, monkeypatch, capfd, line, message):
    import pnnx

    if line is not None:
        monkeypatch.setattr(pnnx, "EXEC_PATH", program(tmp_path, line))
        if line == "no program":
            Path(pnnx.EXEC_PATH).chmod(0o644)
    with pytest.raises(DscsrError, match=message):
        ship(Odd(), tmp_path / "new" / "net.param", FORMATS["ncnn"])
    assert not (tmp_path / "new").exists()
    assert capfd.readouterr() == ("", "")


def test_without_the_packages(exported, monkeypatch, tmp_path):
    """What is written can be run without what writes."""
    network, path, _ = exported
    for name in ("pnnx", "ncnn"):
        monkeypatch.setitem(sys.modules, name, None)
        if name == "pnnx":
            assert ncnn_engine(path, threads=1).scale == 2
        with pytest.raises(
            DscsrError, match=rf"Expected {name}.*, but got no {name}\. Run `pip install 'dscsr\[ncnn\]'`"
        ):
            to_ncnn(network, tmp_path / "net.param")


def test_the_file_says_what_shapes_cannot_tell(exported):
    from dscsr_model.inference.ncnn_engine import read_metadata

    metadata = read_metadata(exported[1])
    assert (metadata["network"], metadata["scale"], metadata["rgb_mean"]) == ("SPAN", "2", "[0.1, 0.2, 0.3]")
    assert np.isclose(exported[0].mean.flatten().tolist(), [0.1, 0.2, 0.3]).all()

"""8-bit ONNX models: what stays in float32, what they cost, and `dscsr export --int8` as a user runs it."""

import os
import shutil
import sys

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from dscsr_arch import EDSR, RCAN
from dscsr_arch.errors import DscsrError
from dscsr_arch.foreign import find_backbone
from dscsr_arch.metadata import beside
from dscsr_model.cli import main
from dscsr_model.data.lmdb_store import LmdbWriter, encode
from dscsr_model.export import int8
from dscsr_model.export.calibration import read_samples
from dscsr_model.export.onnx import to_onnx
from dscsr_model.inference.engines import onnx_engine, torch_engine

onnx = pytest.importorskip("onnx", reason="extra: onnx")
pytest.importorskip("onnxruntime", reason="extra: onnx")


def photograph(seed, height, width):
    noise = np.random.default_rng(seed).random((height // 8 + 2, width // 8 + 2, 3)).astype("float32")
    return (cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1) * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Folders LQ and GT of six images; the third and the last are held out."""
    root = tmp_path_factory.mktemp("sets")
    for seed in range(6):
        gt = photograph(seed, 48, 64)
        for name, image in {"GT": gt, "LQ": cv2.resize(gt, (32, 24), interpolation=cv2.INTER_AREA)}.items():
            (root / name).mkdir(exist_ok=True)
            cv2.imwrite(str(root / name / f"{seed}.png"), image)
    return root


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return EDSR(num_feat=8, num_block=1, upscale=2, img_range=1.0).eval()


def test_samples(sets, tmp_path):
    samples = read_samples(sets / "LQ", sets / "GT", 2, 3)
    assert (len(samples.learned_from), len(samples.held_out)) == (4, 2)
    held_out = samples.held_out[0]
    expected = cv2.cvtColor(cv2.imread(str(sets / "LQ/2.png")), cv2.COLOR_BGR2RGB)
    assert np.array_equal(held_out.lq, expected)
    assert held_out.gt.shape == (48, 64, 3)
    assert read_samples(sets / "LQ", None, 2, 1).held_out[0].lq.shape == (24, 32, 1)
    for name in ("GT", "LQ"):
        with LmdbWriter(tmp_path / f"{name}.lmdb") as writer:
            for file in sorted((sets / name).iterdir()):
                writer.add([encode(file.stem, cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB))])
    of_lmdb = read_samples(tmp_path / "LQ.lmdb", tmp_path / "GT.lmdb", 2, 3)
    assert np.array_equal(of_lmdb.held_out[0].gt, held_out.gt)
    with pytest.raises(DscsrError, match="GT images 2 times as large as LQ"):
        read_samples(tmp_path / "GT.lmdb", tmp_path / "LQ.lmdb", 2, 3)
    (tmp_path / "one").mkdir()
    shutil.copy(sets / "LQ/0.png", tmp_path / "one")
    with pytest.raises(DscsrError, match="at least two images to calibrate with, but got 1"):
        read_samples(tmp_path / "one", None, 2, 3)


def test_a_file_in_8_bits(network, sets, tmp_path):
    samples = read_samples(sets / "LQ", sets / "GT", 2, 3)
    cost = int8.to_int8(network, tmp_path / "net.onnx", samples, opset=17)
    model = onnx.load(tmp_path / "net.onnx")
    weights = {node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    kinds = [weight.data_type for weight in model.graph.initializer if weight.name in weights and len(weight.dims) == 4]
    assert kinds == [onnx.TensorProto.INT8] * (cost.convolutions - len(cost.kept))
    assert 0 < len(cost.kept) < cost.convolutions == 6
    engine, own = onnx_engine(tmp_path / "net.onnx", device="cpu", threads=1), torch_engine(network, device="cpu")
    x = torch.rand(1, 3, 13, 19)
    difference = (engine(x) - own(x)).abs().max() / own(x).abs().max()
    assert 1e-4 < difference < 0.2
    assert cost.of_float > int8.LEAST_PSNR
    assert cost.in_float > 5
    assert cost.in_int8 == pytest.approx(cost.in_float, abs=1)
    known = {prop.key: prop.value for prop in model.metadata_props}
    assert (known["bits"], known["receptive_field"], known["network"]) == ("8", str(own.receptive_field.radius), "EDSR")
    int8.to_int8(network, tmp_path / "again.onnx", samples, opset=17)
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "net.onnx").read_bytes()


def test_what_stays_in_float32():
    """What costs the image most for its work, while there is room."""
    work = {"a": 10, "b": 60, "c": 10, "d": 20}
    harm = {"a": 1.0, "b": 99.0, "c": 5.0, "d": 6.0}
    assert int8._kept(work, lambda names: harm[names[0]]) == ["a", "c"]
    assert int8._kept(dict.fromkeys(map(str, range(200)), 1), None) == ["0", "199"]


def test_work_counts_the_pixels(tmp_path):
    """A layer behind the enlargement has four times as many; attention has one."""
    network = RCAN(num_feat=8, num_group=1, num_block=1, squeeze_factor=4, upscale=2).eval()
    to_onnx(network, tmp_path / "net.onnx")
    work = int8._work(onnx.load(tmp_path / "net.onnx"), 24)
    first, last = 8 * 3 * 9 * 24**2, 3 * 8 * 9 * 48**2
    assert (work["/conv_first/Conv"], work["/conv_last/Conv"]) == (first, last)
    assert sorted(work.values())[:2] == [2 * 8] * 2
    unshuffling = find_backbone("RRDBNet")(3, 3, scale=2, num_feat=4, num_block=1, num_grow_ch=2).eval()
    to_onnx(unshuffling, tmp_path / "net.onnx")
    work = int8._work(onnx.load(tmp_path / "net.onnx"), 24)
    assert work["/conv_first/Conv"] == 12 * 4 * 9 * 12**2
    assert work["/conv_last/Conv"] == 4 * 3 * 9 * 48**2


def test_useless_in_8_bits(sets, tmp_path, monkeypatch):
    """One whose values need more levels than there are is refused."""
    monkeypatch.setattr(int8, "FLOAT_SHARE", 0)
    spread = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 12, 1), nn.PixelShuffle(2))
    for layer in spread[:3]:
        nn.init.zeros_(layer.bias)
    spread[0].weight.data = torch.diag(torch.tensor([1e4, 1.0, 1.0]))[:, :, None, None]
    spread[1].weight.data = torch.diag(torch.tensor([1e-4, 1.0, 1.0]))[:, :, None, None]
    spread[2].weight.data = torch.eye(3).repeat_interleave(4, 0)[:, :, None, None]
    with pytest.raises(DscsrError, match="8 bits to come to at least 30 dB beside float32"):
        int8.to_int8(spread.eval(), tmp_path / "net.onnx", read_samples(sets / "LQ", None, 2, 3), opset=17)


def test_a_network_that_no_file_can_hold(sets, tmp_path):
    """It does other things for other sizes, which a traced file keeps as those of one."""

    class Sized(nn.Conv2d):
        def forward(self, x):
            return super().forward(x) / float(x.shape[-1])

    with pytest.raises(DscsrError, match="the file, read by ONNX Runtime, to do what the network does"):
        int8.to_int8(Sized(3, 3, 1).eval(), tmp_path / "net.onnx", read_samples(sets / "LQ", None, 1, 3), opset=17)
    assert list(tmp_path.iterdir()) == []


def test_command(network, sets, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save({"params": network.state_dict(), **beside(network)}, "net.pth")
    shutil.copytree(sets / "LQ", "LQ")
    shutil.copytree(sets / "GT", "GT")
    export = ["export", "net.pth", "-o", "shipped/", "--format", "onnx", "--int8"]
    assert main([*export, "--calibrate", "LQ", "GT"]) == 0
    said = capsys.readouterr().out
    assert "shipped/net_int8.onnx" in said
    assert "of 6 convolutions in 8 bits; in float32, because they need it most: " in said
    assert "2 held-out images of LQ: " in said
    assert " dB beside float32; beside GT " in said
    assert main([*export, "--calibrate", "LQ"]) == 1
    assert "exists" in capsys.readouterr().err
    for more, message in {
        (): "--int8 --calibrate LQ [GT], and no --fp16, but got 0 folders",
        ("--calibrate", "LQ", "--fp16"): "and no --fp16, but got --fp16",
        ("--calibrate", "none"): "none",
        (
            "--calibrate",
            "LQ",
            "--format",
            "peft",
        ): "adapters in the precision that they have, but got --fp16, --int8 or --opset",
    }.items():
        assert main([*export, *more, "--force"]) == 1
        assert message in capsys.readouterr().err
    assert main(["export", "net.pth", "-o", "x.pth", "--int8", "--calibrate", "LQ"]) == 1
    assert "the format onnx for --int8, but got pth" in capsys.readouterr().err
    assert os.listdir("shipped") == ["net_int8.onnx"]


def test_without_onnx_it_says_what_to_install(network, sets, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(DscsrError, match=r"pip install 'dscsr\[onnx\]'"):
        int8.to_int8(network, tmp_path / "net.onnx", read_samples(sets / "LQ", None, 2, 3), opset=17)

"""Every (source, format) pair makes the same image, read by the program that the format is for."""

import copy

import pytest
import torch

from dscsr_arch import SPAN, DSCLoRA, load_model
from dscsr_arch.conv_lora import lora_layers, lora_state_dict
from dscsr_arch.cssr_arch import CSSRNet
from dscsr_model.cli import main


def span(folder, channels):
    network = SPAN(feature_channels=channels, upscale=4)
    return folder / "net_g_latest.pth", {"params": network.state_dict()}, [], network


def dsclora(folder):
    network = DSCLoRA(feature_channels=8, upscale=4)
    for layer in lora_layers(network).values():
        torch.nn.init.normal_(layer.lora_B, std=0.05)
    return folder / "net_g_latest.pth", {"params_ema": network.state_dict()}, [], network


def adapters(folder):
    path, _, _, network = dsclora(folder)
    base = copy.deepcopy(network)
    for layer in lora_layers(base).values():
        torch.nn.init.zeros_(layer.lora_B)
    torch.save({"params": base.fuse().state_dict()}, folder / "base.pth")
    return path, {"params": lora_state_dict(network)}, ["--base", str(folder / "base.pth")], network


def student(folder, backbone):
    shared = CSSRNet(backbone, widths=(0.5,)).eval()
    metadata = {"res_scale": 0.3} if backbone["type"] == "EDSR" else {}
    words = [f"{name}={value}" for name, value in metadata.items()]
    options = ["--width", "0.5", *(["--set", *words] if words else [])]
    return folder / "net_g_latest.pth", {"params": shared.state_dict()}, options, shared.student(0.5)


EDSR = {"type": "EDSR", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 16, "num_block": 2, "upscale": 2, "res_scale": 0.3}

SOURCES = {
    "span26": lambda folder: span(folder, 26),
    "span48": lambda folder: span(folder, 48),
    "dsclora": dsclora,
    "adapters": adapters,
    "carn": lambda folder: student(folder, {"type": "CARN", "num_feat": 16, "upscale": 3}),
    "edsr": lambda folder: student(folder, EDSR),
}


def run_onnx(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    return lambda x: torch.from_numpy(session.run(["output"], {"input": x.numpy()})[0])


FORMATS = {
    "pth": ("out.pth", [], load_model),
    "safetensors": ("out.safetensors", [], load_model),
    "safetensors-fp16": ("out.safetensors", ["--fp16"], load_model),
    "spandrel": ("out.pth", ["--format", "spandrel"], None),
    "spandrel-safetensors": ("out.safetensors", ["--format", "spandrel"], None),
    "onnx": ("out.onnx", [], run_onnx),
    "onnx-fp16": ("out.onnx", ["--fp16"], run_onnx),
    "torch-export": ("out.pt2", [], lambda path: torch.export.load(path).module()),
    "torch-export-fp16": ("out.pt2", ["--fp16"], lambda path: torch.export.load(path).module()),
    "torchscript": ("out.pt", [], torch.jit.load),
    "torchscript-fp16": ("out.pt", ["--fp16"], torch.jit.load),
}
QUICK = {
    ("pth", "dsclora"), ("pth", "adapters"), ("safetensors", "span48"), ("safetensors-fp16", "edsr"),
    ("spandrel", "span26"), ("spandrel", "dsclora"), ("spandrel", "edsr"), ("onnx-fp16", "span26"),
    ("torch-export", "span26"), ("torchscript", "carn"), ("torchscript-fp16", "edsr"),
}  # fmt: skip
"""Every format, and every source; every other pair is a slow test. `test_onnx` has float32."""

PAIRS = [
    pytest.param(source, name, marks=() if (name, source) in QUICK else pytest.mark.slow)
    for name in FORMATS
    for source in SOURCES
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("source", "name"), PAIRS)
@torch.no_grad()
def test_every_source_in_every_format(source, name, tmp_path, request, capsys):
    path, content, options, network = SOURCES[source](tmp_path)
    torch.save(content, path)
    file, words, read = FORMATS[name]
    out = tmp_path / file
    assert main(["export", str(path), "-o", str(out), *words, *options]) == 0
    if read is None:
        from dscsr_model.export.spandrel_support import register

        register()
        descriptor = request.getfixturevalue("spandrel").ModelLoader(device="cpu").load_from_file(out)
        assert descriptor.scale == {"carn": 3, "edsr": 2}.get(source, 4)
        run = descriptor.model
    else:
        run = read(out)
    half = name.endswith("fp16")
    for shape in ((1, 3, 19, 14), (3, 3, 1, 2)):  # none of those that export itself looks at
        x = torch.rand(shape)
        wanted = network.eval()(x)
        # float16 has 11 bits; noise is the worst image of all. float32 at outputs of up to 10, untrained.
        scale = wanted.abs().max().clamp(min=1)
        torch.testing.assert_close(run(x) / scale, wanted / scale, rtol=0, atol=1e-2 if half else 2e-5)
    assert {entry.name for entry in tmp_path.iterdir()} <= {path.name, out.name, "base.pth"}
    printed = capsys.readouterr()
    assert all("does not say what its shapes cannot tell" in line for line in printed.err.splitlines())
    assert "largest difference from the source" in printed.out

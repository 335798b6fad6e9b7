"""The file of a network does what the trained one does, and needs nothing but torch of Python 3.9's time."""

import ast
import math
import sys
from pathlib import Path

import pytest
import torch

from dscsr_arch import CARN, EDSR, RCAN, SPAN, SPANF, SPANV2, CSSRNet, DSCLoRA
from dscsr_arch.errors import DscsrError
from dscsr_arch.metadata import describe
from dscsr_model.export.ntire import bare_check
from dscsr_model.export.ntire.single_file import single_file


def randomised(network):
    """Random values everywhere, zeros of ConvLoRA and small biases included; in float64."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=draw))
    return network.double().eval()


def edsr_student():
    backbone = {"type": "EDSR", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 16, "num_block": 2, "res_scale": 0.1}
    return CSSRNet(backbone, widths=(0.5,)).student(0.5)


NETWORKS = {
    "span 26 x4": lambda: SPAN(feature_channels=26),
    "span x1": lambda: SPAN(feature_channels=8, upscale=1),
    "span x8, gray to gray": lambda: SPAN(1, 1, feature_channels=8, upscale=8, rgb_mean=(0.5,)),
    "span without norm": lambda: SPAN(feature_channels=8, norm=False),
    "span without bias": lambda: SPAN(feature_channels=8, bias=False),
    "span of its own range": lambda: SPAN(feature_channels=8, img_range=1.0, rgb_mean=(0.1, 0.2, 1 / 3)),
    "fused span": lambda: SPAN(feature_channels=8).fuse(),
    "dsclora": DSCLoRA,
    "carn x3": lambda: CARN(num_feat=8, upscale=3, final_relu=True),
    "carn x4": lambda: CARN(num_feat=8, img_range=1.0),
    "edsr x3": lambda: EDSR(num_feat=12, num_block=3, upscale=3),
    "edsr x4": lambda: EDSR(num_feat=12, num_block=3, img_range=1.0, rgb_mean=(0.1, 0.2, 0.3)),
    "student of edsr": edsr_student,
    "spanf": SPANF,
    "spanf x2, one block": lambda: SPANF(feature_channels=6, upscale=2, num_blocks=1),
    "spanf of a cut tail, without bias": lambda: SPANF(feature_channels=8, num_blocks=3, tail_channels=5, bias=False),
    "spanv2": SPANV2,
    "spanv2 x3": lambda: SPANV2(feature_channels=6, upscale=3, num_blocks=2),
    "rcan": lambda: RCAN(num_feat=8, num_group=2, num_block=2, squeeze_factor=4, res_scale=0.5),
}


def built(form, name="Mine"):
    """What the text of the file gives, without arguments, with its weights."""
    namespace = {"__name__": "mine"}
    exec(form.text(name, "Words."), namespace)
    network = namespace[name]()
    network.load_state_dict(form.state, strict=True)
    assert type(network).__name__ == name
    return network.eval()


def difference(network, form):
    """Largest one in float64, as part of the largest value, over odd sizes; weights of ``form`` are float32."""
    alone = built(form).double()
    channels = describe(network).arguments["num_in_ch"]
    with torch.no_grad():
        pairs = [(network(x), alone(x)) for x in (torch.rand(2, channels, *s).double() for s in ((7, 12), (19, 5)))]
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)


@pytest.mark.parametrize("name", NETWORKS)
def test_does_what_the_trained_network_does(name):
    """Branches are merged in float64 and rounded once, 2^-24 a weight; the same float32 weights give the same bits."""
    network = randomised(NETWORKS[name]())
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    assert difference(network, single_file(network)) < 1e-6
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    fused = (network.fuse() if hasattr(network, "fuse") else network).float()
    form = single_file(fused)
    assert difference(fused.double(), form) < 1e-12
    assert all(key.endswith(("weight", "bias")) for key in form.state)  # nothing but convolutions


def test_another_network_is_told_apart():
    """What the test above measures is large where it should be."""
    assert difference(randomised(SPAN(feature_channels=8)), single_file(SPAN(feature_channels=8))) > 1e-2


def text_of(network, fold=None):
    return single_file(network, fold).text("Mine", "Words.")


TEXTS = {
    "span": lambda: text_of(SPAN(feature_channels=4), "all"),
    "carn": lambda: text_of(CARN(num_feat=4)),
    "edsr": lambda: text_of(EDSR(num_feat=4, num_block=1)),
    "rcan": lambda: text_of(RCAN(num_feat=4, num_group=1, num_block=1, squeeze_factor=2)),
    "spanf": lambda: text_of(SPANF(feature_channels=4), "exact"),
    "spanv2": lambda: text_of(SPANV2(feature_channels=4)),
    "bare_check": lambda: Path(bare_check.__file__).read_text(encoding="ascii"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_runs_on_python_3_9_and_imports_torch_and_the_standard_library_alone(name):
    tree = ast.parse(TEXTS[name](), feature_version=(3, 9))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    known = {"torch", *sys.stdlib_module_names, *(["fvcore"] if name == "bare_check" else [])}  # if it is there
    assert {module.partition(".")[0] for module in imported} <= known
    if name == "bare_check":  # the others evaluate no annotations
        annotations = [node.annotation for node in ast.walk(tree) if isinstance(node, ast.arg) and node.annotation]
        annotations += [node.returns for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.returns]
        assert not [a for a in annotations for node in ast.walk(a) if isinstance(node, ast.BinOp)]  # X | Y: 3.10
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not [
        node
        for node in calls
        if (ast.unparse(node.func) == "zip" and "strict" in {keyword.arg for keyword in node.keywords})
        or (ast.unparse(node.func) == "isinstance" and isinstance(node.args[1], ast.BinOp))
    ]


def test_reads_as_a_file_of_the_challenge():
    text = text_of(CARN(num_feat=4, upscale=2))
    assert text.startswith(
        '"""Words."""\n\nfrom __future__ import annotations\n\nfrom collections.abc import Sequence\n'
    )
    assert "class Mine(CARN):" in text
    assert "            num_feat=4,\n" in text
    assert not any(word in text for word in ("dscsr", "check", "constructor", "def fuse"))
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("name", ["Fusion", "torch", "nn", "relu", "self", "int", "class", "a-b", "9", "", "a\nb", "Ä"])
def test_refuses_names_that_are_taken_or_none(name):
    with pytest.raises(DscsrError, match=r"Expected the name of a Python class, but got .*Choose another --name"):
        single_file(CARN(num_feat=4)).text(name, "x")


def test_nothing_that_a_file_says_becomes_code():
    form = single_file(CARN(num_feat=4))
    for value in (math.inf, math.nan, object(), print):
        with pytest.raises(DscsrError, match=r"Expected a number for `img_range` of the network, .*Check --set"):
            form._replace(arguments={**form.arguments, "img_range": value}).text("Mine", "x")
    text = form._replace(arguments={**form.arguments, "img_range": "exit()"}).text("Mine", "x")
    assert "exit" not in {ast.unparse(node.func) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)}

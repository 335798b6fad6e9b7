"""The single-file networks do what the trained ones do, and import nothing but torch."""

import ast
from pathlib import Path

import pytest
import torch

from dscsr_arch import CARN, SPAN, CSSRNet, DSCLoRA
from dscsr_arch.cssr_arch import find_backbone
from dscsr_arch.errors import DscsrError
from dscsr_model.export.ntire import bare_check, networks
from dscsr_model.export.ntire.standalone import standalone

FILES = sorted(Path(networks.__path__[0]).glob("*.py"))


def randomised(network):
    """Random values everywhere, zeros of ConvLoRA and small biases included; in float64."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=draw))
    return network.double().eval()


def edsr(**arguments):
    return find_backbone("EDSR")(**{"num_in_ch": 3, "num_out_ch": 3, "num_feat": 12, "num_block": 3, **arguments})


def edsr_student():
    backbone = {"type": "EDSR", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 16, "num_block": 2, "res_scale": 0.1}
    return CSSRNet(backbone, widths=(0.5,)).student(0.5)


NETWORKS = {
    "span 26 x4": lambda: SPAN(feature_channels=26),
    "span 28 x3": lambda: SPAN(feature_channels=28, upscale=3),
    "span 48 x2": lambda: SPAN(feature_channels=48, upscale=2),
    "span x1": lambda: SPAN(feature_channels=8, upscale=1),
    "span x8, gray to gray": lambda: SPAN(1, 1, feature_channels=8, upscale=8, rgb_mean=(0.5,)),
    "span without norm": lambda: SPAN(feature_channels=8, norm=False),
    "span without bias": lambda: SPAN(feature_channels=8, bias=False),
    "span of its own range": lambda: SPAN(feature_channels=8, img_range=1.0, rgb_mean=(0.1, 0.2, 1 / 3)),
    "fused span": lambda: SPAN(feature_channels=8).fuse(),
    "dsclora": DSCLoRA,
    "merged dsclora": lambda: DSCLoRA(feature_channels=10).merge(),
    "carn x2": lambda: CARN(num_feat=8, upscale=2),
    "carn x3": lambda: CARN(num_feat=8, upscale=3, final_relu=True),
    "carn x4": lambda: CARN(num_feat=8, img_range=1.0),
    "edsr x2": lambda: edsr(upscale=2, res_scale=0.1),
    "edsr x3": lambda: edsr(upscale=3),
    "edsr x4": lambda: edsr(img_range=1.0, rgb_mean=(0.1, 0.2, 0.3)),
    "student of edsr": edsr_student,
}


def difference(network, form):
    """Largest one in float64, as part of the largest value, over odd sizes; weights of ``form`` are float32."""
    alone = form.build().double()
    channels = next(network.parameters()).shape[1]
    with torch.no_grad():
        pairs = [(network(x), alone(x)) for x in (torch.rand(2, channels, *s).double() for s in ((7, 12), (19, 5)))]
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)


@pytest.mark.parametrize("name", NETWORKS)
def test_does_what_the_trained_network_does(name):
    """Float32 weights, and those of branches are merged in float64 and rounded once: 2^-24 a weight."""
    network = randomised(NETWORKS[name]())
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    assert difference(network, standalone(network)) < 1e-6
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


@pytest.mark.parametrize("name", NETWORKS)
def test_equals_the_network_that_has_its_weights(name):
    """To the last bits of float64: the same float32 weights in the network of training and in the file's."""
    network = randomised(NETWORKS[name]())
    fused = (network.fuse() if hasattr(network, "fuse") else network).float()
    form = standalone(fused)
    assert difference(fused.double(), form) < 1e-12


def test_another_network_is_told_apart():
    """What the two tests above measure is large where it should be."""
    assert difference(randomised(SPAN(feature_channels=8)), standalone(SPAN(feature_channels=8))) > 1e-2


@pytest.mark.parametrize("form", [standalone(DSCLoRA(feature_channels=8)), standalone(CARN(num_feat=8))])
def test_has_nothing_but_convolutions(form):
    network = form.build()
    assert all(name.endswith(("weight", "bias")) for name in form.state)
    convolutions = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    assert sum(p.numel() for c in convolutions for p in c.parameters()) == sum(t.numel() for t in form.state.values())


@pytest.mark.parametrize("file", [*FILES, Path(bare_check.__file__)], ids=lambda file: file.stem)
def test_runs_on_python_3_9_and_imports_torch_alone(file):
    text = file.read_text(encoding="ascii")  # so that positions are the same in bytes and characters
    tree = ast.parse(text, feature_version=(3, 9))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    allowed = {"torch", "torch.nn"}
    if file.stem == "bare_check":
        allowed |= {"ast", "copy", "importlib.util", "json", "platform", "statistics", "sys", "time", "typing"}
    assert imported <= allowed
    annotations = [node.annotation for node in ast.walk(tree) if isinstance(node, ast.arg) and node.annotation]
    annotations += [node.returns for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.returns]
    assert not [a for a in annotations for node in ast.walk(a) if isinstance(node, ast.BinOp)]  # X | Y came with 3.10
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not [
        node for node in calls if "strict" in {k.arg for k in node.keywords} and ast.unparse(node.func) == "zip"
    ]


def test_other_networks_have_no_file():
    rcan = find_backbone("RCAN")(3, 3, num_feat=8, num_group=1, num_block=1, squeeze_factor=4)
    with pytest.raises(DscsrError, match=r"Expected a network that has a single-file form .*, but got RCAN"):
        standalone(rcan)
    with pytest.raises(DscsrError, match=r"Expected a network that has a single-file form .* but got Conv2d"):
        standalone(torch.nn.Conv2d(3, 3, 3))

"""What ncnn makes of the released networks: on photographs in float32, and what float16 costs on Set5.

With ``-s`` each test prints its row of the table in docs/shipping/export.md.
"""

import pytest
import torch

from dscsr_arch import load_model
from dscsr_model.data.bicubic import downscale
from dscsr_model.data.image_io import read_rgb
from dscsr_model.evaluation.protocol import as_input, evaluate
from dscsr_model.export.ncnn import to_ncnn
from dscsr_model.inference.engines import torch_engine
from dscsr_model.inference.ncnn_engine import ncnn_engine
from dscsr_model.weights import of_scale

pytest.importorskip("pnnx", reason="extra: ncnn")
pytest.importorskip("ncnn", reason="extra: ncnn")

PHOTOGRAPHS = {"101027": (57, 141), "134008": (121, 83), "253016": (150, 199)}
"""Of BSDS400: cropped to sizes that are no multiples of what vectors hold."""


def set5(assets, scale):
    """LR and HR images; LR ones are there for x4, others are made."""
    for path in sorted((assets / "set5/HR").iterdir()):
        hr = read_rgb(path)
        hr = hr[: hr.shape[0] // scale * scale, : hr.shape[1] // scale * scale]
        yield read_rgb(assets / "set5/LRbicx4" / path.name) if scale == 4 else downscale(hr, scale), hr


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["span_ch26_x4", "span_ch28_x4", "dscf_ch26_x4", "spanf_ch32_x4", "pds_ch32_x4", "spanv2_ch32_x4", 2, 3, 4],
)
def test_released(assets, tmp_path, name):
    file = of_scale(name).place if isinstance(name, int) else assets / "weights" / f"{name}_fused.pth"
    network = load_model(file)
    for half in (False, True):
        to_ncnn(network, tmp_path / f"{half}.param", half=half)
    own = torch_engine(network, device="cpu")
    full, half = (ncnn_engine(tmp_path / f"{half}.param") for half in (False, True))
    worst = {}
    for photograph, (height, width) in PHOTOGRAPHS.items():
        x = as_input(read_rgb(assets / f"bsds400/{photograph}.jpg")[:height, :width])
        wanted = own(x)
        worst[photograph] = [(engine(x) - wanted).abs().max().item() for engine in (full, half)]
    psnr = [evaluate(engine, set5(assets, own.scale), own.scale).psnr_y for engine in (own, full, half)]
    differences = ", ".join(f"{one:.1e}" for one, _ in worst.values())
    losses = " | ".join(f"{psnr[0] - each:+.4f}" for each in psnr[1:])
    print(f"\n| `{file.stem}` | {differences} | {max(b for _, b in worst.values()):.1e} | {psnr[0]:.4f} | {losses} |")
    assert max(one for one, _ in worst.values()) <= 1e-4
    assert psnr[0] - psnr[1] <= 1e-3
    assert psnr[0] - psnr[2] <= 0.01
    assert torch.isfinite(torch.tensor(psnr)).all()

import pytest
import torch
from small_models import with_updates

from dscsr_arch import SPAN, DSCLoRA
from dscsr_arch.conv_lora import lora_layers
from dscsr_arch.dsclora_arch import SConvLB
from dscsr_arch.weight_files import read_state_dict, state_dict_diff

SMALL = {"feature_channels": 8, "upscale": 2}
BLOCK_LAYERS = [f"block_{n}.c{m}_r.eval_conv" for n in range(1, 7) for m in range(1, 4)]


@pytest.fixture
def net():
    return with_updates(DSCLoRA(**SMALL).double().eval(), 0.05)  # small: outputs are of the order of 10


def image():
    return torch.rand(1, 3, 7, 5, dtype=torch.float64)


def test_the_layers_and_ranks_are_the_published_ones():
    layers = lora_layers(DSCLoRA())
    assert {name: (layer.rank, layer.alpha) for name, layer in layers.items()} == {
        **dict.fromkeys(BLOCK_LAYERS, (2, 4)), "conv_2.eval_conv": (8, 16), "upsampler.0": (8, 16)
    }  # fmt: skip
    assert layers["upsampler.0"].lora_A.shape == (24, 78)
    assert layers["upsampler.0"].lora_B.shape == (144, 24)
    assert all(type(block) is SConvLB for block in DSCLoRA(**SMALL).blocks())


def test_the_released_weights_are_its_base_and_have_the_published_number_of_parameters(assets):
    state = read_state_dict(assets / "weights" / "dscf_ch26_x4_fused.pth")
    net = DSCLoRA().eval()
    net.load_state_dict(state, strict=True)
    x = torch.rand(1, 3, 9, 7)
    base = SPAN(feature_channels=26).fuse().eval()
    base.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(net(x), base(x))
    assert sum(p.numel() for p in net.fuse().parameters()) == 130_828


@pytest.mark.parametrize("form", ["expanded", "fused", "DSCLoRA"])
def test_it_loads_every_form_strictly(net, form):
    source = with_updates(DSCLoRA(**SMALL).double(), 0.05) if form == "DSCLoRA" else SPAN(**SMALL).double()
    x = image()
    expected = source(x)
    if form == "fused":
        source.fuse()
    assert state_dict_diff(net, source.state_dict()) is None
    net.load_state_dict(source.state_dict(), strict=True)
    torch.testing.assert_close(net(x), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"lora_rank": 3, "lora_alpha": 9}, {BLOCK_LAYERS[0]: (3, 9), "conv_2.eval_conv": (8, 16)}),
        ({"feature_channels": 5}, {BLOCK_LAYERS[0]: (2, 4), "conv_2.eval_conv": (5, 10), "upsampler.0": (5, 10)}),
        ({"upscale": 1}, {"conv_2.eval_conv": (8, 16), "upsampler.0": (3, 6)}),
        ({"lora_ranks": {"conv_1": (1, 2), "conv_cat": [4, 8]}}, {"conv_1.eval_conv": (1, 2), "conv_cat": (4, 8)}),
    ],
)
def test_ranks_follow_the_arguments_and_narrow_layers(arguments, expected):
    layers = {name: (each.rank, each.alpha) for name, each in lora_layers(DSCLoRA(**{**SMALL, **arguments})).items()}
    assert expected.items() <= layers.items()
    assert len(layers) == (2 if "lora_ranks" in arguments else 20)


def test_a_span_does_not_load_its_files_and_lose_the_updates(net):
    state = DSCLoRA(**SMALL, lora_ranks={"block_1": (2, 4)}).state_dict()
    for span in (SPAN(**SMALL), SPAN(**SMALL).fuse()):
        with pytest.raises(RuntimeError, match=r"Unexpected key\(s\).*block_1\.c1_r\.eval_conv\.lora_A"):
            span.load_state_dict(state)

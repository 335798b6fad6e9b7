import copy
import sys

import pytest
import torch

from dscsr_arch import CARN, SPAN, DSCLoRA
from dscsr_arch.conv_lora import inject, lora_layers
from dscsr_arch.cssr_arch import find_backbone
from dscsr_arch.errors import DscsrError, UnavailableError
from dscsr_model.export.spandrel_form import run_spandrel, to_spandrel_form

EDSR = {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 4, "num_block": 2, "upscale": 2}


def networks():
    yield SPAN(feature_channels=6, upscale=2, img_range=1.0)
    yield SPAN(feature_channels=6, upscale=2, img_range=1.0).fuse()
    yield SPAN(feature_channels=6, upscale=2, norm=False, rgb_mean=(0.0,), img_range=1.0)
    yield SPAN(num_in_ch=1, num_out_ch=1, feature_channels=6, upscale=8, norm=False, rgb_mean=(0.0,)).fuse()
    yield inject(SPAN(feature_channels=6, upscale=2), {"upsampler": (2, 4)})
    yield DSCLoRA(feature_channels=6, upscale=2, img_range=20.0)
    yield CARN(num_feat=4, upscale=3, img_range=1.0)
    yield find_backbone("EDSR")(**EDSR, res_scale=0.3, img_range=1.0)


@pytest.mark.parametrize("index", range(8))
@torch.no_grad()
def test_range_and_scale_are_worked_into_the_weights(tmp_path, spandrel, index):
    network = list(networks())[index].eval()
    for layer in lora_layers(network).values():
        torch.nn.init.normal_(layer.lora_B, std=0.1)
    before = copy.deepcopy(network.state_dict())
    form = to_spandrel_form(network)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    x = torch.rand(1, before["conv_1.eval_conv.weight"].shape[1] if index < 6 else 3, 6, 5)
    wanted = network(x)
    scale = float(wanted.abs().max())
    torch.testing.assert_close(form(x), wanted, rtol=0, atol=1e-5 * max(1, scale))  # float32
    torch.save({"params": form.state_dict()}, tmp_path / "w.pth")
    read = run_spandrel(tmp_path / "w.pth", {6: "CARN", 7: "EDSR"}.get(index, "SPAN"))
    torch.testing.assert_close(read(x), wanted, rtol=0, atol=1e-5 * max(1, scale))


def test_a_source_gives_one_file():
    network = SPAN(feature_channels=4, upscale=2).fuse()
    one, two = to_spandrel_form(network).state_dict(), to_spandrel_form(network).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    state = torch.get_rng_state()
    to_spandrel_form(network)
    assert torch.equal(state, torch.get_rng_state())


def test_branches_that_are_there_stay():
    network = SPAN(feature_channels=4, upscale=2)
    form = to_spandrel_form(network).state_dict()
    assert all(torch.equal(tensor, form[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: SPAN(feature_channels=4, rgb_mean=(0.5, 0.5, 0.5)), r"Expected rgb_mean \[0.4488.* got \[0.5, 0.5"),
        (lambda: SPAN(feature_channels=4, bias=False), "SPAN with biases for spandrel, .*, but got bias=False"),
        (lambda: CARN(num_feat=4, final_relu=True), "CARN with final_relu=False for spandrel, .*, but got true"),
        (
            lambda: find_backbone("RCAN")(3, 3, 8, 1, 1, 4),
            "Expected CARN, EDSR, SPAN for spandrel, but got RCAN, whose layers have other names there",
        ),
    ],
)
def test_what_spandrel_cannot_be_told_is_refused(network, message):
    with pytest.raises(DscsrError, match=message):
        to_spandrel_form(network())


def test_stock_spandrel_does_not_know_carn_and_edsr_until_registered(tmp_path, spandrel):
    from dscsr_model.export.spandrel_support import register

    registry = spandrel.ArchRegistry()
    known = [each for each in spandrel.MAIN_REGISTRY if each.architecture.id not in ("CARN", "EDSR")]
    registry.add(*known)
    for network in (CARN(num_feat=4, upscale=2), find_backbone("EDSR")(**EDSR)):
        torch.save({"params": network.state_dict()}, tmp_path / "w.pth")
        with pytest.raises(spandrel.UnsupportedModelError):
            spandrel.ModelLoader(registry=registry).load_from_file(tmp_path / "w.pth")
        extended = registry.copy()
        register(extended)
        register(extended)
        assert len(extended) == len(known) + 2
        descriptor = spandrel.ModelLoader(device="cpu", registry=extended).load_from_file(tmp_path / "w.pth")
        assert (descriptor.architecture.id, descriptor.scale, descriptor.input_channels) == (
            type(network).__name__, 2, 3,
        )  # fmt: skip
        assert descriptor(torch.rand(1, 3, 4, 5)).shape == (1, 3, 8, 10)


def test_what_spandrel_does_not_load_gets_a_message(tmp_path, spandrel):
    torch.save({"a": torch.ones(1)}, tmp_path / "w.pth")
    with pytest.raises(DscsrError, match="Expected spandrel to load the file, but it says"):
        run_spandrel(tmp_path / "w.pth", "SPAN")


def test_without_spandrel_nobody_is_asked(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(UnavailableError, match=r"it is not installed: pip install 'dscsr\[spandrel\]'"):
        run_spandrel(tmp_path / "w.pth", "SPAN")

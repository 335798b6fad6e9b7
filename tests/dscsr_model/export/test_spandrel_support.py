import copy
import sys

import pytest
import torch

from dscsr_arch import CARN, EDSR, RCAN, SPAN, DSCLoRA
from dscsr_arch.conv_lora import inject, lora_layers
from dscsr_arch.errors import DscsrError, UnavailableError
from dscsr_model.export.spandrel_support import register, run_spandrel, to_spandrel_form

NETWORKS = {
    "span": lambda: SPAN(feature_channels=6, upscale=2, img_range=1.0),
    "fused": lambda: SPAN(feature_channels=6, upscale=2, img_range=1.0).fuse(),
    "without norm": lambda: SPAN(feature_channels=6, upscale=2, norm=False, rgb_mean=(0.0, 0.0, 0.0), img_range=1.0),
    "gray": lambda: SPAN(1, 1, feature_channels=6, upscale=8, norm=False, rgb_mean=(0.0,)).fuse(),
    "with LoRA": lambda: inject(SPAN(feature_channels=6, upscale=2), {"upsampler": (2, 4)}),
    "dsclora": lambda: DSCLoRA(feature_channels=6, upscale=2, img_range=20.0),
    "carn": lambda: CARN(num_feat=4, upscale=3, img_range=1.0),
    "edsr": lambda: EDSR(num_feat=4, num_block=2, upscale=2, res_scale=0.3, img_range=1.0),
}


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_range_and_scale_are_worked_into_the_weights(tmp_path, spandrel, name):
    network = NETWORKS[name]().eval()
    for layer in lora_layers(network).values():
        torch.nn.init.normal_(layer.lora_B, std=0.1)
    before = copy.deepcopy(network.state_dict())
    form = to_spandrel_form(network)
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    x = torch.rand(1, 1 if name == "gray" else 3, 6, 5)
    wanted = network(x)
    close = {"rtol": 0, "atol": 1e-5 * max(1, float(wanted.abs().max()))}  # float32
    torch.testing.assert_close(form(x), wanted, **close)
    torch.save({"params": form.state_dict()}, tmp_path / "w.pth")
    torch.testing.assert_close(run_spandrel(tmp_path / "w.pth")(x), wanted, **close)


def test_a_source_gives_one_file():
    network = SPAN(feature_channels=4, upscale=2).fuse()
    state = torch.get_rng_state()
    one, two = to_spandrel_form(network).state_dict(), to_spandrel_form(network).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert torch.equal(state, torch.get_rng_state())


def test_branches_that_are_there_stay():
    network = SPAN(feature_channels=4, upscale=2)
    form = to_spandrel_form(network).state_dict()
    assert all(torch.equal(tensor, form[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: SPAN(feature_channels=4, rgb_mean=(0.5, 0.5, 0.5)), r"Expected rgb_mean 0\.4488.* got 0\.5/0\.5"),
        (lambda: SPAN(feature_channels=4, bias=False), "Expected bias true for spandrel, .*, but got false"),
        (lambda: SPAN(upscale=1, residual=True), "Expected residual false for spandrel, .*, but got true"),
        (lambda: CARN(num_feat=4, final_relu=True), "Expected final_relu false for spandrel, .*, but got true"),
        (
            lambda: RCAN(3, 3, 8, 1, 1, 4),
            "Expected CARN, EDSR, SPAN for spandrel, but got RCAN, which it does not know, or by other names",
        ),
    ],
)
def test_what_spandrel_cannot_be_told_is_refused(network, message):
    with pytest.raises(DscsrError, match=message):
        to_spandrel_form(network())


def test_stock_spandrel_does_not_know_carn_and_edsr_until_registered(tmp_path, spandrel):
    registry = spandrel.ArchRegistry()
    known = [each for each in spandrel.MAIN_REGISTRY if each.architecture.id not in ("CARN", "EDSR")]
    registry.add(*known)
    for network in (CARN(num_feat=4, upscale=2), EDSR(num_feat=4, num_block=2, upscale=2)):
        torch.save({"params": network.state_dict()}, tmp_path / "w.pth")
        with pytest.raises(spandrel.UnsupportedModelError):
            spandrel.ModelLoader(registry=registry).load_from_file(tmp_path / "w.pth")
        extended = registry.copy()
        register(extended)
        register(extended)
        assert len(extended) == len(known) + 2
        descriptor = spandrel.ModelLoader(device="cpu", registry=extended).load_from_file(tmp_path / "w.pth")
        found = (descriptor.architecture.id, descriptor.scale, descriptor.input_channels)
        assert found == (type(network).__name__, 2, 3)
        assert descriptor(torch.rand(1, 3, 4, 5)).shape == (1, 3, 8, 10)


def test_what_spandrel_does_not_load_and_no_spandrel_at_all(tmp_path, spandrel, monkeypatch):
    torch.save({"a": torch.ones(1)}, tmp_path / "w.pth")
    with pytest.raises(DscsrError, match="Expected spandrel to load the file, but got this from it"):
        run_spandrel(tmp_path / "w.pth")
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(UnavailableError, match=r"pip install 'dscsr\[spandrel\]'"):
        run_spandrel(tmp_path / "w.pth")

"""Weights of networks that are not ours, through `load_model`: by a section, by spandrel, or refused."""

import importlib
import sys

import pytest
import small_models
import torch

from dscsr_arch import EDSR, load_model
from dscsr_arch.errors import WeightsError
from dscsr_arch.metadata import Metadata, describe, to_metadata
from dscsr_arch.sizes import SizeRequirements, size_requirements

SWINIR = {name: value for name, value in small_models.SWINIR.items() if name not in ("type", "drop_path_rate")}
COMPACT = {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_conv": 2, "upscale": 2}


@pytest.fixture
def swinir(tmp_path):
    """A file of BasicSR's, and its network."""
    network = importlib.import_module("basicsr.archs.swinir_arch").SwinIR(**SWINIR).eval()
    torch.save({"params": network.state_dict()}, tmp_path / "swinir.pth")
    return network


def test_a_section_says_all(swinir, tmp_path):
    loaded = load_model(tmp_path / "swinir.pth", network={"type": "SwinIR", **SWINIR, "img_range": 2.0})
    assert (type(loaded), loaded.img_range) == (type(swinir), 2.0)
    x = torch.rand(1, 3, 16, 8)
    assert not torch.equal(loaded(x), swinir(x))
    loaded = load_model(tmp_path / "swinir.pth", network={"type": "SwinIR", **SWINIR}, img_range=1.0)
    assert torch.equal(loaded(x), swinir(x))
    name, arguments = describe(loaded)
    assert (name, arguments["embed_dim"], arguments["img_range"]) == ("SwinIR", 8, 1.0)


def test_a_section_of_a_csd_network_gives_the_backbone_or_a_student(tmp_path):
    compact = importlib.import_module("basicsr.archs.srvgg_arch").SRVGGNetCompact
    section = {"type": "CSSRNet", "backbone": {"type": "SRVGGNetCompact", **COMPACT}, "widths": [0.5]}
    for features in (8, 4):
        network = compact(**{**COMPACT, "num_feat": features}).eval()
        torch.save(network.state_dict(), tmp_path / "w.pth")
        x = torch.rand(1, 3, 5, 6)
        assert torch.equal(load_model(tmp_path / "w.pth", network=section)(x), network(x))
    student = load_model(tmp_path / "w.pth", network=section["backbone"] | {"num_feat": 4}, width=0.5)
    assert describe(student).arguments["num_feat"] == 2


def test_a_section_of_another_network_is_refused(swinir, tmp_path):
    with pytest.raises(WeightsError, match=r"swinir.pth: Expected weights of `network_g` .* but got layers"):
        load_model(tmp_path / "swinir.pth", network={"type": "SwinIR", **SWINIR, "embed_dim": 16})


@torch.no_grad()
def test_spandrel_knows_others(swinir, tmp_path, spandrel):
    with pytest.warns(UserWarning, match=r"swinir.pth is taken for SwinIR, .* If that is wrong, give the network sec"):
        loaded = load_model(tmp_path / "swinir.pth")
    assert not loaded.training
    assert size_requirements(loaded) == SizeRequirements(multiple_of=1, minimum=16)
    name, arguments = describe(loaded)
    assert (name, arguments["upscale"], arguments["num_in_ch"]) == ("SwinIR", 2, 3)
    x = torch.rand(1, 3, 16, 24)
    torch.testing.assert_close(loaded(x), swinir(x))  # spandrel's own code of the same network


def test_what_a_file_says_is_not_left_out(swinir, tmp_path, spandrel, recwarn):
    for img_range in (1.0, 255.0):
        metadata = to_metadata(Metadata("SwinIR", {**SWINIR, "img_range": img_range}))
        torch.save({"params": swinir.state_dict(), "metadata": metadata}, tmp_path / "w.pth")
        if img_range == 1:
            load_model(tmp_path / "w.pth")
            assert not [warning for warning in recwarn if "taken for" in str(warning.message)]
        else:
            with pytest.raises(WeightsError, match=r"as spandrel builds SwinIR .*img_range 1.*, but got img_range 255"):
                load_model(tmp_path / "w.pth")


def test_where_nobody_knows_them_it_says_who_was_asked(swinir, file, tmp_path, spandrel, monkeypatch):
    with pytest.raises(WeightsError, match=r"network \(CARN, .* layers such as fc.weight; spandrel does not know them"):
        load_model(file({"fc.weight": torch.ones(2)}, "fc.pth"))
    with pytest.raises(WeightsError, match=r"no arguments for SwinIR, which spandrel builds .* but got img_range"):
        load_model(tmp_path / "swinir.pth", img_range=255)
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(WeightsError, match=r"spandrel is not installed: pip install 'dscsr\[spandrel\]'.*-opt FILE"):
        load_model(tmp_path / "swinir.pth")


def test_ours_ask_nobody(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "spandrel", None)
    monkeypatch.setitem(sys.modules, "basicsr.archs", None)
    assert type(load_model(file(EDSR(num_feat=4, num_block=1).state_dict()))) is EDSR

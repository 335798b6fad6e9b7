"""Every file that a training writes says what its shapes cannot tell: alone, it gives the network that was trained.

Of LoRA: test_dsclora_model.py.
"""

import json
import warnings

import pytest
import small_models
import torch
from safetensors.torch import save_file
from small_models import batch, build, train

from dscsr_arch import SPAN, load_model
from dscsr_arch.checkpoint import read_pickle, save_state_dict
from dscsr_arch.errors import DscsrWarning, WeightsError
from dscsr_arch.metadata import beside

MEAN = {"img_range": 1.0, "rgb_mean": [0.1, 0.2, 0.3]}
SPAN_OWN = {**small_models.SPAN, **MEAN}
EDSR_OWN = {**small_models.EDSR, "res_scale": 0.37, "img_range": 2.0}
NETWORKS = {
    "range and mean": SPAN_OWN,
    "no norm": {**small_models.SPAN, "norm": False},
    "res_scale": EDSR_OWN,
    "final_relu": {"type": "CARN", "num_feat": 4, "upscale": 2, "final_relu": True},
}


@pytest.fixture(autouse=True)
def _nothing_is_assumed():
    with warnings.catch_warnings():
        warnings.simplefilter("error", DscsrWarning)
        yield


def trained(root, network, model_type="EfficientSRModel", **changes):
    """The model after two steps, saved as iteration 2."""
    model = train(build(small_models.options(root, model_type, network_g=network, **changes)), range(1, 3))
    model.save(0, 2)
    return model, root / "models"


def assert_same(loaded, network, **arguments):
    x = batch(9)["lq"]
    with torch.no_grad():
        expected = network(x, **arguments)
        assert float((loaded(x) - expected).abs().max()) <= 1e-6 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("name", NETWORKS)
def test_whole_networks(tmp_path, name):
    model, models = trained(tmp_path, NETWORKS[name])
    assert_same(load_model(models / "net_g_2.pth"), model.net_g_ema)
    assert_same(load_model(models / "net_g_2.pth", param_key="params"), model.net_g.eval())


def test_networks_of_ours_under_models_of_others(tmp_path):
    """BasicSR's SRModel: its files have one entry more, and none for networks that are not ours."""
    stock, models = trained(tmp_path, SPAN_OWN, "SRModel")
    assert_same(load_model(models / "net_g_2.pth"), stock.net_g_ema)
    assert list(torch.load(models / "net_g_2.pth", weights_only=True)) == ["params", "params_ema", "metadata"]
    start = {"path:pretrain_network_g": str(models / "net_g_2.pth")}
    with pytest.raises(WeightsError, match=r"net_g_2.pth does not fit SPAN:\ntrained with img_range: 1, not 255"):
        trained(tmp_path, {**SPAN_OWN, "img_range": 255.0}, "SRModel", **start)
    trained(tmp_path, small_models.EDSR, "SRModel")
    assert list(torch.load(models / "net_g_2.pth", weights_only=True)) == ["params", "params_ema"]


def test_students_and_the_network_that_holds_them(tmp_path):
    network = {"type": "CSSRNet", "backbone": EDSR_OWN, "widths": [0.5, 0.25]}
    model, models = trained(
        tmp_path, network, "CSDModel", **{"train:teacher_opt": {"type": "L1Loss", "output_of": "teacher"}}
    )
    assert_same(load_model(models / "net_g_2.pth"), model.net_g_ema, width=1.0)
    for width in (0.5, 0.25):
        assert_same(load_model(models / "net_g_2.pth", width=width), model.net_g_ema, width=width)
        assert_same(load_model(models / f"student_w{width}_2.pth"), model.net_g_ema, width=width)


@pytest.mark.parametrize("kind", ["plain", "LoRA", "CSD"])
def test_files_prefer_what_scored_better_in_the_validation_that_followed(tmp_path, kind, monkeypatch):
    """Also `latest`, where the end of the training is validated after it was saved; `best` is the better one's."""
    torch.manual_seed(1)
    save_state_dict({"params": SPAN(feature_channels=8, upscale=2).state_dict()}, tmp_path / "base.pth")
    network, model_type = dict(SPAN_OWN), "EfficientSRModel"
    if kind == "LoRA":
        network["lora"] = {"layers": {"block_*": [2, 4]}}
    elif kind == "CSD":
        network, model_type = {"type": "CSSRNet", "backbone": network, "widths": [0.5]}, "CSDModel"
    model, models = trained(tmp_path, network, model_type, **{"path:pretrain_network_g": str(tmp_path / "base.pth")})
    model.save(-1, -1)
    beside_it = {"plain": "net_g", "LoRA": "fused_g", "CSD": "student_w0.5"}[kind]
    width = {"width": 0.5} if kind == "CSD" else {}
    names = [f"{beside_it}_{label}.pth" for label in ("2", "latest")]
    loader, ending = small_models.pair_loader(tmp_path), "_w0.5" if kind == "CSD" else ""
    for plain, preferred in ((30.0, model.net_g), (20.0, model.net_g_ema)):
        scores = {f"psnr{ending}": plain, f"psnr{ending}_ema": 25.0}
        monkeypatch.setattr("dscsr_model.models.validating_sr_model.mean_scores", lambda _, found=scores: found)
        model.best.validated_at.clear()
        model.validation(loader, 3, None)
        for name in names:
            assert_same(load_model(models / name), preferred.eval(), **width)
        assert_same(load_model(models / "net_g_2.pth", **width), preferred, **width)
        if plain == 30:
            assert_same(load_model(models / f"{beside_it}_best.pth"), model.net_g, **width)
    assert model.best.decided["metric"] == f"psnr{ending}"


def test_adapters_and_a_base_that_say_otherwise(tmp_path):
    _, models = trained(tmp_path / "base", {**SPAN_OWN, "img_range": 255.0})
    base = models / "net_g_2.pth"
    network = {**SPAN_OWN, "lora": {"layers": {"block_*": [2, 4]}}}
    start = {"path:pretrain_network_g": str(base)}
    with pytest.raises(WeightsError, match=r"net_g_2.pth does not fit SPAN:\ntrained with img_range: 255, not 1"):
        trained(tmp_path, network, **start)  # whichever script starts it, with the option check or without
    model, models = trained(tmp_path, network, **start, **{"path:strict_load_g": False})
    with pytest.raises(WeightsError, match=r"a base with img_range 1, as the adapters of .* on, but got 255. Name"):
        load_model(models / "lora_g_2.pth", base=base)
    for given in ({"img_range": 1.0}, {"network": model.opt["network_g"]}):
        with pytest.warns(DscsrWarning, match=r"net_g_2.pth says img_range 255; taken, as given: img_range 1\."):
            loaded = load_model(models / "lora_g_2.pth", base=base, param_key="params", **given)
        assert_same(loaded, model.net_g_ema)


def test_adapters_know_the_weights_that_they_were_trained_on(tmp_path):
    """By `param_key_g` that is `params`, while of a base the averaged weights are preferred."""
    torch.manual_seed(1)
    network = SPAN(feature_channels=8, upscale=2)
    frozen = network.state_dict()
    average = {name: tensor * (1 + 0.01 * torch.randn_like(tensor)) for name, tensor in frozen.items()}
    save_state_dict({"params_ema": average, "params": frozen, **beside(network)}, tmp_path / "base.pth")
    save_state_dict({"params": average, **beside(network)}, tmp_path / "other.pth")
    metadata = beside(network)["metadata"]
    save_file(
        {name: tensor.half() for name, tensor in network.fuse().state_dict().items()},
        tmp_path / "half.safetensors",
        metadata,
    )
    lora = {"network_g": {**small_models.SPAN, "lora": {"layers": {"block_*": [2, 4]}}}}
    model, models = trained(tmp_path, lora["network_g"], **{"path:pretrain_network_g": str(tmp_path / "base.pth")})
    adapters = models / "lora_g_2.pth"
    assert_same(load_model(adapters, base=tmp_path / "base.pth"), model.net_g_ema)
    load_model(adapters, base=tmp_path / "half.safetensors")  # known again, though fused and rounded
    with pytest.raises(WeightsError, match=r"other\.pth: Expected the base that .*lora_g_2\.pth were .* got other"):
        load_model(adapters, base=tmp_path / "other.pth")
    with pytest.warns(
        DscsrWarning, match=r"`params_ema` of .*base.pth are not the weights .* trained on; taken, as given"
    ):
        load_model(adapters, base=tmp_path / "base.pth", param_key="params_ema")
    mute = read_pickle(adapters)
    mute["metadata"]["base"] = json.dumps([float("nan"), *[0.5] * 7])  # as good as nothing
    save_state_dict(mute, tmp_path / "mute.pth")
    with pytest.warns(
        DscsrWarning, match=r"does not say which weights .* taken: params_ema. If .* param_key: params\."
    ):
        load_model(tmp_path / "mute.pth", base=tmp_path / "base.pth")


def test_a_network_that_load_model_does_not_know_is_named(tmp_path):
    network = {"type": "MSRResNet", "num_feat": 4, "num_block": 1, "upscale": 2}
    _, models = trained(tmp_path, network)
    metadata = read_pickle(models / "net_g_2.pth")["metadata"]
    arguments = {"num_in_ch": 3, "num_out_ch": 3, **{name: value for name, value in network.items() if name != "type"}}
    assert (metadata["network"], json.loads(metadata["arguments"])) == ("MSRResNet", arguments)
    with pytest.raises(WeightsError, match=r"layers such as conv_first.*, of a network 'MSRResNet' as the file says"):
        load_model(models / "net_g_2.pth")
    shared = {"type": "CSSRNet", "backbone": network, "widths": [0.5]}
    _, models = trained(tmp_path / "csd", shared, "CSDModel")
    metadata = read_pickle(models / "student_w0.5_2.pth")["metadata"]
    assert json.loads(metadata["arguments"]) == {**arguments, "num_feat": 2}

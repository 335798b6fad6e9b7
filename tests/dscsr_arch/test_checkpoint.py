import copy
import os
import pickle

import cv2
import numpy as np
import pytest
import torch

from dscsr_arch import CARN, SPAN, DSCLoRA, load_model
from dscsr_arch.checkpoint import mismatch, read_state_dict, save_state_dict
from dscsr_arch.conv_lora import inject, load_lora_state_dict, lora_layers, lora_state_dict
from dscsr_arch.cssr_arch import find_backbone
from dscsr_arch.errors import WeightsError


@pytest.fixture
def net():
    return SPAN(feature_channels=8, upscale=2).eval()


def same(network, other):
    x = torch.rand(1, 3, 5, 6)
    with torch.no_grad():
        # float32, outputs of the order of 10 before training
        torch.testing.assert_close(network(x), other(x), rtol=0, atol=1e-4)


DIALECTS = {
    "raw": lambda state: state,
    "params": lambda state: {"params": state},
    "params_ema": lambda state: {"params_ema": state},
    "model_state_dict": lambda state: {"model_state_dict": state, "epoch": 3},
    "compiled": lambda state: {"params": {f"_orig_mod.{name}": tensor for name, tensor in state.items()}},
    "module": lambda state: {"params": {f"module.{name}": tensor for name, tensor in state.items()}},
}


@pytest.mark.parametrize("form", ["expanded", "fused"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_load_model_reads_every_dialect(net, tmp_path, dialect, form):
    saved = copy.deepcopy(net).fuse() if form == "fused" else net
    torch.save(DIALECTS[dialect](saved.state_dict()), tmp_path / "w.pth")
    loaded = load_model(tmp_path / "w.pth")
    assert isinstance(loaded, SPAN)
    assert not loaded.training
    assert (loaded.upscale, loaded.conv_1.fused) == (2, form == "fused")
    same(loaded, net)


@pytest.mark.parametrize("form", ["expanded", "fused"])
def test_load_model_reads_safetensors(net, tmp_path, form):
    from safetensors.torch import save_file

    saved = copy.deepcopy(net).fuse() if form == "fused" else net
    save_file(saved.state_dict(), tmp_path / "w.safetensors")
    same(load_model(tmp_path / "w.safetensors"), net)


@pytest.mark.parametrize(
    "arguments",
    [
        {"upscale": 1},
        {"upscale": 3, "bias": False},
        {"upscale": 8, "feature_channels": 5},
        {"num_in_ch": 1, "num_out_ch": 1, "rgb_mean": (0.44,), "norm": False},
        {"num_in_ch": 1, "num_out_ch": 3, "upscale": 4, "norm": False},
        {"norm": False},
    ],
)
@pytest.mark.parametrize("form", ["expanded", "fused"])
def test_shapes_tell_the_arguments(tmp_path, arguments, form):
    source = SPAN(**{"feature_channels": 6, **arguments}).eval()
    if form == "fused":
        source.fuse()
    torch.save(source.state_dict(), tmp_path / "w.pth")
    overrides = {key: arguments[key] for key in ("rgb_mean",) if key in arguments}
    if arguments.get("num_in_ch") != arguments.get("num_out_ch"):
        overrides["num_out_ch"] = arguments["num_out_ch"]  # 48 = 3·4² could be 1 channel at no scale known
    loaded = load_model(tmp_path / "w.pth", **overrides)
    x = torch.rand(1, arguments.get("num_in_ch", 3), 4, 5)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), source(x), rtol=0, atol=1e-4)


def test_the_averaged_weights_are_preferred_and_param_key_chooses(net, tmp_path):
    other = SPAN(feature_channels=8, upscale=2)
    torch.save({"params": other.state_dict(), "params_ema": net.state_dict()}, tmp_path / "w.pth")
    same(load_model(tmp_path / "w.pth"), net)
    same(load_model(tmp_path / "w.pth", param_key="params"), other)


def test_overrides_reach_what_shapes_cannot_tell(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "w.pth")
    assert load_model(tmp_path / "w.pth", img_range=1.0).img_range == 1.0
    with pytest.warns(UserWarning, match="no `no_norm` marker"):
        assert load_model(tmp_path / "w.pth", norm=False).norm is False


def test_a_fused_file_can_be_trained_on(net, tmp_path):
    torch.save({"params": copy.deepcopy(net).fuse().state_dict()}, tmp_path / "w.pth")
    trainable = SPAN(feature_channels=8, upscale=2)
    trainable.load_state_dict(read_state_dict(tmp_path / "w.pth"), strict=True)
    assert sum(parameter.numel() for parameter in trainable.parameters()) > 4 * sum(
        parameter.numel() for parameter in load_model(tmp_path / "w.pth").parameters()
    )
    same(trainable, net)


@pytest.mark.parametrize(
    ("name", "psnr_y"),
    [("span_ch26_x4_fused", 31.7389), ("span_ch28_x4_fused", 31.7459), ("dscf_ch26_x4_fused", 31.7467)],
)
def test_released_weights_reach_their_psnr_on_set5(assets, name, psnr_y):
    network = load_model(assets / "weights" / f"{name}.pth")
    values = []
    for path in sorted((assets / "set5" / "LRbicx4").iterdir()):
        lq = torch.from_numpy(cv2.imread(str(path))[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            sr = network(lq)[0].clamp(0, 1).mul(255).round().permute(1, 2, 0).double().numpy()
        gt = cv2.imread(str(assets / "set5" / "HR" / path.name))[: sr.shape[0], : sr.shape[1], ::-1].astype(float)
        difference = ((sr - gt) @ np.array([65.481, 128.553, 24.966]) / 255)[4:-4, 4:-4]  # BT.601 luma
        values.append(10 * np.log10(255**2 / np.square(difference).mean()))
    assert len(values) == 5
    assert np.mean(values) == pytest.approx(psnr_y, abs=5e-4)


def student(**arguments):
    network = DSCLoRA(feature_channels=8, upscale=2, **arguments).eval()
    for layer in lora_layers(network).values():
        torch.nn.init.normal_(layer.lora_B, std=0.05)
    return network


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("ranks", [None, {"block_2": (3, 5.5), "conv_cat": (1, 1)}], ids=["default", "own"])
def test_load_model_finds_ranks_and_alphas_of_a_dsclora_file(tmp_path, ranks, suffix):
    from safetensors.torch import save_file

    saved, path = student(lora_ranks=ranks), tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save({"params": saved.state_dict()}, path)
    else:
        save_file(saved.state_dict(), path)
    loaded = load_model(path)
    assert type(loaded) is DSCLoRA
    settings = [{name: (each.rank, each.alpha) for name, each in lora_layers(net).items()} for net in (loaded, saved)]
    assert settings[0] == settings[1]
    same(loaded, saved)
    torch.save(saved.fuse().state_dict(), path.with_suffix(".pth"))
    fused = load_model(path.with_suffix(".pth"))
    assert type(fused) is SPAN
    same(fused, saved)


def test_adapters_alone_need_their_base(net, tmp_path):
    torch.save({"params": net.state_dict()}, tmp_path / "base.pth")
    saved = student()
    saved.load_state_dict(net.state_dict())
    for layer in lora_layers(saved).values():
        torch.nn.init.normal_(layer.lora_B, std=0.05)
    torch.save({"params": lora_state_dict(saved)}, tmp_path / "lora.pth")
    with pytest.raises(WeightsError, match=r"lora\.pth, but got LoRA adapters alone: their base is missing. .* base=…"):
        load_model(tmp_path / "lora.pth")
    loaded = load_model(tmp_path / "lora.pth", base=tmp_path / "base.pth")
    same(loaded, saved)
    same(loaded.fuse(), saved)
    with pytest.raises(WeightsError, match=r"adapters alone in .*base\.pth, since a base is given, but got a whole"):
        load_model(tmp_path / "base.pth", base=tmp_path / "base.pth")
    torch.save(SPAN(feature_channels=6, upscale=2).state_dict(), tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"adapters of .*lora\.pth do not fit the network of .*: Expected .* fit a"):
        load_model(tmp_path / "lora.pth", base=tmp_path / "other.pth")


@pytest.mark.parametrize("kind", ["DSCLoRA", "CARN", "EDSR"])
def test_adapters_are_not_added_to_those_of_a_base_that_has_lora_itself(tmp_path, kind):
    """A training leaves both beside each other: adapters, and the whole network that has them too."""
    if kind == "DSCLoRA":
        saved = student()
    else:
        network = CARN(num_feat=4, upscale=2) if kind == "CARN" else find_backbone("EDSR")(3, 3, 4, 1, 2)
        saved = inject(network, {"*": (1, 2)}).eval()
        for layer in lora_layers(saved).values():
            torch.nn.init.normal_(layer.lora_B, std=0.05)
    torch.save({"params": lora_state_dict(saved)}, tmp_path / "lora.pth")
    torch.save({"params": saved.state_dict()}, tmp_path / "net.pth")
    same(load_model(tmp_path / "lora.pth", base=tmp_path / "net.pth"), saved)


def test_param_key_chooses_the_weights_of_the_base_of_adapters(net, tmp_path):
    saved = student()
    torch.save({"params": lora_state_dict(saved)}, tmp_path / "lora.pth")
    average = {name: tensor + 0.1 for name, tensor in net.state_dict().items()}
    torch.save({"params": net.state_dict(), "params_ema": average}, tmp_path / "base.pth")
    for key, base in (("params", net.state_dict()), ("params_ema", average), (None, average)):
        expected = student()
        expected.load_state_dict(base)
        load_lora_state_dict(expected, lora_state_dict(saved))
        same(load_model(tmp_path / "lora.pth", base=tmp_path / "base.pth", param_key=key), expected)


def test_a_dsclora_file_whose_entries_do_not_belong_together_is_refused(tmp_path):
    state = student().state_dict()
    del state["conv_2.eval_conv.lora_alpha"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"Expected .* of layer 'conv_2.eval_conv', but got lora_A, lora_B alone"):
        load_model(tmp_path / "w.pth")


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def write_bomb(path):
    path.write_bytes(pickle.dumps({"params": Bomb()}, protocol=2))  # torch's; others are warned of


def write_zipped_bomb(path):
    torch.save({"params": Bomb()}, path)


def write_truncated(path):
    torch.save(SPAN(feature_channels=8).state_dict(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_scalars(path):
    torch.save({name: torch.zeros(()) for name in SPAN(feature_channels=2).state_dict()}, path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "Expected a weight file at .*, but got none"),
        (lambda path: path.mkdir(), "Expected a weight file at .*, but got a folder"),
        (lambda path: path.write_bytes(b""), "Expected a whole weight file"),
        (lambda path: path.write_bytes(b"broken"), "Expected a whole weight file .* truncated or of another kind"),
        (lambda path: path.write_text("<html>404</html>"), "Expected a whole weight file .* another kind"),
        (write_truncated, "Expected a whole weight file .* truncated"),
        (write_bomb, r"an object of Python \('posix.mkdir'\), which is never loaded"),
        (write_zipped_bomb, r"an object of Python \('posix.mkdir'\), which is never loaded"),
        (lambda path: torch.save([1, 2], path), "Expected a state dict .* but got an object of type list"),
        (lambda path: torch.save({}, path), "but got an empty mapping"),
        (lambda path: torch.save({"epoch": 1, "iter": 5}, path), "but got a mapping with the keys epoch, iter"),
        (write_scalars, "Expected weights of SPAN in shapes that it has"),
        (
            lambda path: torch.save({"fc.weight": torch.ones(2)}, path),
            r"Expected weights of a known network \(CARN, DSCLoRA, EDSR",
        ),
    ],
)
def test_files_that_are_no_weights_get_one_message_and_run_no_code(tmp_path, monkeypatch, write, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.pth"
    write(path)
    with pytest.raises(WeightsError, match=message):
        load_model(path)
    assert not (tmp_path / "exploded").exists()


def test_a_truncated_safetensors_file_gets_the_message(net, tmp_path):
    from safetensors.torch import save

    (tmp_path / "w.safetensors").write_bytes(save(net.fuse().state_dict())[:5000])
    with pytest.raises(WeightsError, match="Expected a whole weight file"):
        load_model(tmp_path / "w.safetensors")


def test_a_missing_param_key_lists_those_that_are_there(net, tmp_path):
    torch.save({"params": net.state_dict()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"weights under the key 'params_ema' .* but got the keys 'params'"):
        read_state_dict(tmp_path / "w.pth", "params_ema")
    torch.save(net.state_dict(), tmp_path / "raw.pth")
    with pytest.raises(WeightsError, match=r"but got unwrapped weights \(param_key: ~\)"):
        read_state_dict(tmp_path / "raw.pth", "params")


def test_weights_of_another_scale_than_any_are_refused(net, tmp_path):
    state = net.fuse().state_dict()
    state["upsampler.0.weight"] = state["upsampler.0.weight"][:7]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"Expected num_out_ch·upscale² .* but got 7"):
        load_model(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"feature_channels": 6}, r"does not fit SPAN\(.*\):\n  differently shaped: conv_1"),
        ({"widht": 6}, "Expected overrides among num_in_ch, .* but got widht"),
        ({"upscale": 4}, r"upscale among \[4\], but got 12"),
        ({"upscale": 0}, "Expected `upscale` to be"),
        ({"upscale": "a"}, "Expected `upscale` to be"),
        ({"num_out_ch": None}, "Expected `num_out_ch` to be"),
        ({"rgb_mean": (0.5,)}, "Expected `rgb_mean`"),
    ],
)
def test_overrides_that_do_not_fit_are_refused(net, tmp_path, overrides, message):
    torch.save(net.state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=message):
        load_model(tmp_path / "w.pth", **overrides)


def test_mismatch_names_layers_and_leaves_the_network_alone(net):
    before = copy.deepcopy(net.state_dict())
    assert mismatch(net, net.state_dict()) is None
    assert mismatch(net, copy.deepcopy(net).fuse().state_dict()) is None
    wider = SPAN(feature_channels=9, upscale=2).state_dict()
    assert "conv_cat.weight: expected (8, 32, 1, 1), but the file has (9, 36, 1, 1)" in mismatch(
        net, {"conv_cat.weight": wider["conv_cat.weight"]}
    )
    state = {name: tensor for name, tensor in before.items() if name != "conv_cat.bias"}
    assert mismatch(net, {**state, "extra": torch.ones(1)}) == (
        "  missing in the file: conv_cat.bias\n  unexpected in the file: extra"
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_mismatch_works_on_the_meta_device(net):
    with torch.device("meta"):
        shapes_only = SPAN(feature_channels=8, upscale=2)
    assert mismatch(shapes_only, net.state_dict()) is None
    assert mismatch(shapes_only, net.fuse().state_dict()) is None
    assert "differently shaped" in mismatch(shapes_only, SPAN(feature_channels=9, upscale=2).state_dict())


def test_save_replaces_whole_files_only(net, tmp_path):
    path = tmp_path / "w.pth"
    save_state_dict({"params": net.state_dict()}, path)
    good = path.read_bytes()
    with pytest.raises((pickle.PicklingError, AttributeError)):
        save_state_dict({"params": net.state_dict(), "bad": lambda: 0}, path)
    assert path.read_bytes() == good
    assert [file.name for file in tmp_path.iterdir()] == ["w.pth"]
    same(load_model(path), net)

"""Faults of weight files and training states that the option check finds before training starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import option_files
import pytest
import torch
from option_files import changed

import dscsr_model
from dscsr_arch import SPAN, DSCLoRA
from dscsr_arch.conv_lora import lora_state_dict
from dscsr_arch.metadata import beside
from dscsr_model.host.options.check import Fault

KEY = "path: pretrain_network_g"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return option_files.make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    dscsr_model.register()
    from basicsr.archs.edsr_arch import EDSR

    return EDSR(3, 3, num_feat=8, num_block=1, upscale=4).state_dict()


@pytest.fixture
def check(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def run(changes: dict[str, Any], **arguments: Any) -> Fault | None:
        """The one fault of training options with these changes, or None."""
        options = changed(option_files.training_options(data), changes)
        file = option_files.write_options(tmp_path / "options.yml", options)
        faults = option_files.faults_of(file, is_train=True, **arguments)
        assert len(faults) <= 1, "\n".join(map(str, faults))
        return faults[0] if faults else None

    return run


def assert_fault(fault: Fault | None, key: str, *words: str) -> None:
    assert fault is not None
    assert fault.key == key
    for word in words:
        assert word in str(fault), str(fault)


def pretrained(name: str, **path: Any) -> dict[str, Any]:
    return {"path": {"pretrain_network_g": name, **path}}


def test_weights_that_fit(check, weights):
    torch.save({"params": weights, "params_ema": weights}, "net.pth")
    assert check(pretrained("net.pth")) is None
    assert check(pretrained("net.pth", param_key_g="params_ema")) is None
    torch.save({"params": {f"module.{name}": value for name, value in weights.items()}}, "module.pth")
    assert check(pretrained("module.pth", param_key_g="params_ema")) is None  # BasicSR then takes params


def test_a_missing_file(check):
    assert_fault(check(pretrained("no.pth")), KEY, "'no.pth', which does not exist", str(Path.cwd()))
    Path("folder.pth").mkdir()
    assert_fault(check(pretrained("folder.pth")), KEY, "which is a folder")


def test_a_truncated_file(check, weights):
    torch.save({"params": weights}, "net.pth")
    whole = Path("net.pth").read_bytes()
    Path("net.pth").write_bytes(whole[: len(whole) // 2])
    assert_fault(check(pretrained("net.pth")), KEY, "truncated")


def test_files_that_are_no_state_dict(check):
    Path("text.pth").write_text("no weights")
    assert_fault(check(pretrained("text.pth")), KEY, "text.pth")
    torch.save([1, 2], "list.pth")
    assert_fault(check(pretrained("list.pth")), KEY, "a state dict")
    torch.save({"epoch": 1, "iter": 2, "optimizers": [], "schedulers": []}, "some.state")
    assert_fault(check(pretrained("some.state")), KEY, "not a training state")


def test_weights_of_another_network_name_the_layers(check, weights):
    torch.save({"params": weights}, "net.pth")
    fault = check({**pretrained("net.pth"), "network_g:num_feat": 16})
    assert_fault(fault, KEY, "weights of this EDSR", "conv_first.weight", "(16, 3, 3, 3)", "(8, 3, 3, 3)")
    fault = check({**pretrained("net.pth"), "network_g:num_block": 2})
    assert_fault(fault, KEY, "missing in the file", "body.1.conv1.weight")
    fault = check({**pretrained("net.pth"), "network_g": {"type": "SPAN", "upscale": 4, "feature_channels": 8}})
    assert_fault(fault, KEY, "weights of this SPAN", "conv_1")
    assert check({**pretrained("net.pth", strict_load_g=False), "network_g:num_feat": 16}) is None


def test_weights_that_were_trained_with_another_range(check):
    """Shapes fit; the file says what they do not show, and so do the options, defaults too."""
    network = {"type": "SPAN", "upscale": 4, "feature_channels": 4, "img_range": 1.0}
    trained = SPAN(feature_channels=4, upscale=4, img_range=1.0)
    torch.save({"params": trained.state_dict(), **beside(trained)}, "net.pth")
    assert check({**pretrained("net.pth"), "network_g": network}) is None
    del network["img_range"]
    fault = check({**pretrained("net.pth"), "network_g": network})
    assert_fault(
        fault, KEY, "trained as `network_g` says", "'net.pth', trained with img_range: 1, not 255", "strict_load"
    )
    assert check({**pretrained("net.pth", strict_load_g=False), "network_g": network}) is None
    models, states = (Path("experiments/tiny", name) for name in ("models", "training_states"))
    models.mkdir(parents=True), states.mkdir()
    Path("net.pth").rename(models / "net_g_7.pth")
    state = {"epoch": 0, "iter": 7, "optimizers": [], "schedulers": []}
    torch.save(state, states / "7.state")
    fault = check({"network_g": network}, auto_resume=True)
    assert_fault(fault, "path: resume_state", "net_g_7.pth', trained with img_range: 1, not 255")
    torch.save({"params": lora_state_dict(DSCLoRA(feature_channels=4)), **beside(trained)}, "lora.pth")
    changes = {"model_type": "EfficientSRModel", "network_g": {**network, "lora": {"weights": "lora.pth"}}}
    torch.save({"params": SPAN(feature_channels=4, upscale=4).state_dict()}, "base.pth")
    fault = check({**pretrained("base.pth"), **changes})
    assert_fault(fault, "network_g: lora: weights", "'lora.pth', trained with img_range: 1, not 255")


def test_keys_that_are_not_in_the_file(check, weights):
    torch.save({"params_ema": weights}, "net.pth")
    fault = check(pretrained("net.pth"))
    assert_fault(
        fault, "path: param_key_g", "`params`, while the file has `params_ema`", "Write `param_key_g: params_ema`"
    )
    assert_fault(check(pretrained("net.pth", param_key_g=None)), "path: param_key_g", "wraps its weights")


def test_unwrapped_weights(check, weights):
    torch.save(weights, "bare.pth")
    assert_fault(check(pretrained("bare.pth")), "path: param_key_g", "unwrapped", "Write `param_key_g: ~`")
    fault = check(pretrained("bare.pth", param_key_g=None))
    assert_fault(fault, KEY, "`ema_decay` averages weights", "`ema_decay: 0`")
    assert check({**pretrained("bare.pth", param_key_g=None), "train:ema_decay": 0}) is None


@pytest.mark.parametrize("name", ["net.safetensors", "NET.SAFETENSORS"])
def test_stock_basicsr_reads_no_safetensors(check, weights, name):
    from safetensors.torch import save_file

    save_file({layer: value.contiguous() for layer, value in weights.items()}, name)
    assert_fault(check(pretrained(name)), KEY, "a .pth file", "torch.save")


def test_a_fused_file_fits_a_trainable_span(check):
    torch.save({"params": SPAN(feature_channels=8, upscale=4).fuse().state_dict()}, "fused.pth")
    span = {"network_g": {"type": "SPAN", "upscale": 4, "feature_channels": 8}}
    assert check({**pretrained("fused.pth"), **span}) is None


def test_the_check_draws_no_random_numbers(check, weights):
    torch.save({"params": weights}, "net.pth")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert check({**pretrained("net.pth")}) is None
    assert torch.equal(torch.get_rng_state(), before)


STATE = {"epoch": 0, "iter": 5, "optimizers": [], "schedulers": []}


def test_states_to_resume_from(check, weights):
    assert_fault(check({"path:resume_state": "5.state"}), "path: resume_state", "which does not exist", "--auto_resume")
    Path("5.state").write_bytes(b"broken")
    assert_fault(check({"path:resume_state": "5.state"}), "path: resume_state", "truncated or of another kind")
    torch.save({**STATE, "extra": Path("x")}, "5.state")
    assert_fault(check({"path:resume_state": "5.state"}), "path: resume_state", "an object of Python")
    torch.save({"params": {}}, "5.state")
    assert_fault(check({"path:resume_state": "5.state"}), "path: resume_state", "a training state (with `epoch`")
    torch.save(STATE, "5.state")
    fault = check({"path:resume_state": "5.state"})
    assert_fault(fault, "path: resume_state", "no 'experiments/tiny/models/net_g_5.pth'")
    Path("experiments/tiny/models").mkdir(parents=True)
    torch.save({"params": weights}, "experiments/tiny/models/net_g_5.pth")
    assert check({"path:resume_state": "5.state", "path:pretrain_network_g": "ignored-by-basicsr.pth"}) is None


def test_auto_resume_takes_the_weights_of_the_run(check, weights):
    assert_fault(check(pretrained("no.pth"), auto_resume=True), KEY, "does not exist")
    for folder in ("models", "training_states"):
        Path("experiments/tiny", folder).mkdir(parents=True)
    torch.save(STATE, "experiments/tiny/training_states/5.state")
    fault = check(pretrained("no.pth"), auto_resume=True)
    assert_fault(fault, "path: resume_state", "Expected a whole checkpoint", "has a training state but no network")
    torch.save({"params": weights}, "experiments/tiny/models/net_g_5.pth")
    assert check(pretrained("no.pth"), auto_resume=True) is None
    Path("experiments/tiny/training_states/9.state").write_bytes(b"broken")
    assert check(pretrained("no.pth"), auto_resume=True) is None  # the loop passes it over and takes 5


def test_resumed_weights_of_another_network(check, weights):
    for folder in ("models", "training_states"):
        Path("experiments/tiny", folder).mkdir(parents=True)
    torch.save(STATE, "experiments/tiny/training_states/5.state")
    torch.save({"params": dict(list(weights.items())[1:])}, "experiments/tiny/models/net_g_5.pth")
    fault = check({}, auto_resume=True)
    assert_fault(
        fault, "path: resume_state", "net_g_5.pth' of another network", "missing in the file", "another `name`"
    )


def test_our_models_read_every_wrapping_also_with_an_average(check, weights):
    from safetensors.torch import save_file

    torch.save(weights, "bare.pth")
    save_file({name: value.contiguous() for name, value in weights.items()}, "net.safetensors")
    ours = {"model_type": "EfficientSRModel"}
    assert check(ours | pretrained("bare.pth", param_key_g=None)) is None
    assert check(ours | pretrained("bare.pth", param_key_g="params")) is None
    assert check(ours | pretrained("net.safetensors")) is None
    assert check(pretrained("bare.pth", param_key_g=None)) is not None  # BasicSR's own stops at params_ema

"""Weight files and training states: do they open, fit the network, and have what BasicSR looks for."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dscsr_arch import SPAN, DSCLoRA
from dscsr_arch.conv_lora import lora_state_dict
from dscsr_arch.metadata import beside
from dscsr_model.weights import Card

KEY, STATE_KEY = "path: pretrain_network_g", "path: resume_state"
STATE = {"epoch": 0, "iter": 5, "optimizers": [], "schedulers": []}


@pytest.fixture
def weights(data) -> dict[str, torch.Tensor]:
    return torch.load(data / "edsr.pth")["params"]


def pretrained(name: str, **path: Any) -> dict[str, Any]:
    return {"path": {"pretrain_network_g": name, **path}}


def span(**arguments: Any) -> dict[str, Any]:
    return {"type": "SPAN", "upscale": 4, "feature_channels": 4, **arguments}


def run_folders() -> tuple[Path, Path]:
    """models and training_states of the run."""
    folders = Path("experiments/tiny/models"), Path("experiments/tiny/training_states")
    for folder in folders:
        folder.mkdir(parents=True)
    return folders


def test_weights_that_fit(check_all, weights):
    torch.save({"params": weights, "params_ema": weights}, "net.pth")
    torch.save({"params": {f"module.{name}": value for name, value in weights.items()}}, "module.pth")
    torch.save({"params": SPAN(feature_channels=4, upscale=4).fuse().state_dict()}, "fused.pth")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    check_all(pretrained("net.pth"), {})
    check_all(pretrained("net.pth", param_key_g="params_ema"), {})
    check_all(pretrained("module.pth", param_key_g="params_ema"), {})  # BasicSR then takes params
    check_all({**pretrained("fused.pth"), "network_g": span()}, {})
    check_all({**pretrained("net.pth", strict_load_g=False), "network_g:num_feat": 16}, {})
    assert torch.equal(torch.get_rng_state(), before)


def test_files_that_are_no_weights(check_all, weights):
    torch.save({"params": weights}, "net.pth")
    Path("half.pth").write_bytes(Path("net.pth").read_bytes()[:2000])
    Path("folder.pth").mkdir()
    Path("text.pth").write_text("no weights")
    torch.save([1, 2], "list.pth")
    torch.save(STATE, "some.state")
    save_file({layer: value.contiguous() for layer, value in weights.items()}, "NET.SAFETENSORS")
    for name, text in {
        "no.pth": f"'no.pth', which does not exist. Correct the path (taken from {Path.cwd()})",
        "folder.pth": "which is a folder",
        "half.pth": "truncated",
        "text.pth": "text.pth",
        "list.pth": "a state dict",
        "some.state": "not a training state",
        "NET.SAFETENSORS": "a .pth file, which BasicSR reads",
    }.items():
        check_all(pretrained(name), {KEY: text})


def test_names_of_weights(check_all, monkeypatch):
    """Those that come with dscsr and downloaded ones are files; others are told with the key that has them."""
    Path("here.pth").symlink_to("base.pth")
    torch.save({"params": SPAN(feature_channels=8, upscale=4).state_dict()}, "base.pth")
    rows = {name: Card(name, {"file": "any.pth", "source": "https://there"}) for name in ("here", "away_x4")}
    monkeypatch.setattr("dscsr_model.weights.public", lambda: rows)
    monkeypatch.setenv("DSCSR_WEIGHTS", ".")
    check_all({**pretrained("here"), "teacher": {"weights": ["here", "@teacher.pth"]}}, {}, "DistillationModel")
    check_all({**pretrained("here"), "network_g": span(feature_channels=8)}, {}, is_train=False)
    lora = span(feature_channels=8, lora={"weights": "none_x4"})
    told = {
        KEY: "Expected the file of the public weights `away_x4` at "
        "away_x4.pth, but got none. Download it from https://there",
        "teacher: weights: hare": "Expected a weight file, or a name of weights, but got `hare`, which is neither. Did "
        "you mean `here`?",
        "network_g: lora: weights": "Names are",
    }
    named = {**pretrained("away_x4"), "teacher": {"weights": ["here", "hare"]}, "network_g": lora}
    check_all(named, told, "DistillationModel")


def test_weights_of_another_network_name_the_layers(check_all, weights):
    torch.save({"params": weights}, "net.pth")
    for network, text in {
        "num_feat": "weights of this EDSR, but got 'net.pth', whose layers differ",
        "num_block": "missing in the file: body.1.conv1.weight",
    }.items():
        check_all({**pretrained("net.pth"), f"network_g:{network}": 2}, {KEY: text})
    check_all({**pretrained("net.pth"), "network_g": span()}, {KEY: "weights of this SPAN"})


def test_weights_that_were_trained_with_another_range(check_all):
    """Shapes fit; the file says what they do not show, and so do the options, defaults too."""
    trained, unlike = SPAN(feature_channels=4, upscale=4, img_range=1.0), "trained with img_range: 1, not 255"
    torch.save({"params": trained.state_dict(), **beside(trained)}, "net.pth")
    check_all({**pretrained("net.pth"), "network_g": span(img_range=1.0)}, {})
    check_all({**pretrained("net.pth"), "network_g": span()}, {KEY: f"'net.pth', {unlike}. Give `network_g`"})
    check_all({**pretrained("net.pth", strict_load_g=False), "network_g": span()}, {})
    models, states = run_folders()
    Path("net.pth").rename(models / "net_g_5.pth")
    torch.save(STATE, states / "5.state")
    check_all({"network_g": span()}, {STATE_KEY: f"net_g_5.pth', {unlike}"}, auto_resume=True)
    torch.save({"params": lora_state_dict(DSCLoRA(feature_channels=4)), **beside(trained)}, "lora.pth")
    torch.save({"params": SPAN(feature_channels=4, upscale=4).state_dict()}, "base.pth")
    adapted = {**pretrained("base.pth"), "network_g": span(lora={"weights": "lora.pth"})}
    check_all(adapted, {"network_g: lora: weights": f"'lora.pth', {unlike}"}, "EfficientSRModel")


def test_keys_of_the_file(check_all, weights):
    """SRModel takes what BasicSR does; our models read every wrapping, also with an average."""
    torch.save({"params_ema": weights}, "ema.pth")
    torch.save(weights, "raw.pth")
    save_file({layer: value.contiguous() for layer, value in weights.items()}, "net.safetensors")
    key, wrapped = "path: param_key_g", "`params`, while the file has `params_ema`. Write `param_key_g: params_ema`"
    check_all(pretrained("ema.pth"), {key: wrapped})
    check_all(pretrained("ema.pth", param_key_g=None), {key: "wraps its weights in `params_ema`"})
    check_all(pretrained("raw.pth"), {key: "its weights unwrapped. Write `param_key_g: ~`"})
    raw = pretrained("raw.pth", param_key_g=None)
    check_all(raw, {KEY: "`ema_decay` averages weights. Wrap it: torch.save"})
    check_all({**raw, "train:ema_decay": 0}, {})
    for changes in (raw, pretrained("raw.pth", param_key_g="params"), pretrained("net.safetensors")):
        check_all(changes, {}, "EfficientSRModel")


def test_states_to_resume_from(check_all, weights):
    resume = {"path:resume_state": "5.state"}
    check_all(resume, {STATE_KEY: "which does not exist. Correct the path, write `~` to start anew, or use --auto"})
    for content, text in {
        "broken": "truncated or of another kind",
        "object": "an object of Python",
        "none": "a training state (with `epoch`",
        "alone": "no 'experiments/tiny/models/net_g_5.pth'",
    }.items():
        contents = {"object": {**STATE, "extra": Path("x")}, "none": {"params": {}}, "alone": STATE}
        torch.save(contents.get(content), "5.state")
        if content == "broken":
            Path("5.state").write_bytes(b"broken")
        check_all(resume, {STATE_KEY: text})
    models, _ = run_folders()
    torch.save({"params": weights}, models / "net_g_5.pth")
    check_all({**resume, "path:pretrain_network_g": "ignored-by-basicsr.pth"}, {})


def test_auto_resume_takes_the_weights_of_the_run(check_all, weights):
    gone = pretrained("no.pth")
    check_all(gone, {KEY: "does not exist"}, auto_resume=True)
    models, states = run_folders()
    torch.save(STATE, states / "5.state")
    text = "Expected a whole checkpoint, but got none in"
    check_all(gone, {STATE_KEY: text}, auto_resume=True)
    torch.save({"params": dict(list(weights.items())[1:])}, models / "net_g_5.pth")
    check_all(gone, {STATE_KEY: "net_g_5.pth' of another network:"}, auto_resume=True)
    torch.save({"params": weights}, models / "net_g_5.pth")
    check_all(gone, {}, auto_resume=True)
    (states / "9.state").write_bytes(b"broken")
    check_all(gone, {}, auto_resume=True)  # the loop passes it over and takes 5

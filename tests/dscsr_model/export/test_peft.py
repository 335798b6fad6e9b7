"""Adapters for PEFT, through the command line; where it is installed, it reads what we write, and we what it writes."""

import json

import pytest
import small_models
import torch
from safetensors.torch import load_file
from small_models import with_updates

from dscsr_arch import conv_lora, load_model
from dscsr_arch.errors import UnavailableError
from dscsr_arch.foreign import find_backbone, import_extra
from dscsr_model.cli import main
from dscsr_model.training.lora import lora_files

SECTION = {**small_models.SWINIR, "img_size": 8}


@pytest.fixture
def swinir(tmp_path, monkeypatch):
    """A base, and adapters of its attention and of convolutions, with an option file that says what they are of."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network = find_backbone("SwinIR")(**{name: value for name, value in SECTION.items() if name != "type"}).eval()
    torch.save({"params": network.state_dict()}, "base.pth")
    (tmp_path / "options.yml").write_text(json.dumps({"network_g": SECTION}))
    return network


def adapt(network, dora=False):
    conv_lora.inject(network, {"*.attn.*": (2, 4), "conv_first": (1, 3), "upsample": (2, 5)}, dora=dora)
    torch.save(lora_files(with_updates(network, 0.2))["lora"], "lora.pth")
    return network


WORDS = ["--base", "base.pth", "-opt", "options.yml"]


@pytest.mark.parametrize("dora", [False, True], ids=["LoRA", "DoRA"])
def test_adapters_become_a_folder_of_peft(swinir, tmp_path, capsys, dora):
    x = torch.rand(1, 3, 16, 8)
    with torch.no_grad():
        expected = adapt(swinir, dora)(x)
    assert main(["export", "lora.pth", "-o", "adapter", "--format", "peft", *WORDS]) == 0
    out = capsys.readouterr().out
    assert "read by dscsr:" in out
    assert "PEFT itself was not asked: peft is not installed: pip install" in out or "read by PEFT:" in out
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
    }
    names = load_file("adapter/adapter_model.safetensors")
    assert any(name.endswith(".lora_magnitude_vector") for name in names) == dora
    read = load_model("adapter/adapter_model.safetensors", base="base.pth", network=SECTION)
    with torch.no_grad():
        torch.testing.assert_close(read(x), expected, rtol=0, atol=1e-5)
    assert main(["export", "lora.pth", "-o", "adapter", "--format", "peft", *WORDS]) == 1
    assert main(["export", "base.pth", "-o", "other", "--format", "peft", *WORDS[2:]]) == 1
    assert "Expected a network with LoRA for PEFT, but got one without" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
@pytest.mark.parametrize("dora", [False, True], ids=["LoRA", "DoRA"])
def test_peft_itself_makes_the_same_images(swinir, tmp_path, dora):
    """Of ours and of its own adapters."""
    try:
        peft = import_extra("peft")
    except UnavailableError as error:
        pytest.skip(str(error))
    base, x = load_model("base.pth", network=SECTION), torch.rand(1, 3, 16, 8)
    with torch.no_grad():
        plain, expected = base(x), adapt(swinir, dora)(x)
        assert main(["export", "lora.pth", "-o", "adapter", "--format", "peft", *WORDS]) == 0
        torch.testing.assert_close(
            peft.PeftModel.from_pretrained(base, "adapter").eval()(x), expected, rtol=0, atol=1e-5
        )
    config = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=["qkv", "conv_first"], rank_pattern={"qkv": 2}, use_dora=dora
    )
    theirs = peft.get_peft_model(load_model("base.pth", network=SECTION), config).eval()
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            torch.nn.init.uniform_(parameter, 0.1, 0.3)
    theirs.save_pretrained("theirs")
    ours = load_model("theirs/adapter_model.safetensors", base="base.pth", network=SECTION)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)
        assert (theirs(x) - plain).abs().max() > 1e-2

"""LoRA without a section, and the warning of another base; what is saved of it is in `test_dsclora_model`."""

import torch

from dscsr_arch import SPAN
from dscsr_model.training import lora


def test_adapters_of_another_base_are_told(tmp_path):
    network = lora.inject_lora(SPAN(feature_channels=4, upscale=2), {"layers": {"block_*": [1, 2]}})
    torch.save(lora.lora_files(network)["lora"], tmp_path / "lora.pth")
    section, told = {"weights": tmp_path / "lora.pth"}, []
    lora.start_from(network, section, told.append)
    assert told == []
    lora.start_from(SPAN(feature_channels=4, upscale=2).fuse(), section, told.append)
    assert "trained on other weights than those of `path: pretrain_network_g`: another file, or" in told[0]

"""LoRA as an option file puts it into a network, and the parts that are saved of one."""

import torch

from dscsr_arch import SPAN, conv_lora
from dscsr_model.training import lora


def test_without_a_section_or_lora_nothing_happens():
    network = SPAN(feature_channels=4, upscale=2)
    assert lora.put(network, None) is network
    assert not any(layer.fused for layer in network.layers())
    assert lora.parts(network) == {}
    lora.freeze_statistics(network)
    assert network.training


def test_parts_are_the_network_and_leave_it_as_it_is():
    network = lora.put(SPAN(feature_channels=4, upscale=2), {"layers": {"block_*": [1, 2]}})
    for layer in conv_lora.lora_layers(network).values():
        torch.nn.init.normal_(layer.lora_B, std=0.1)
    before, x = network(torch.ones(1, 3, 6, 5)), torch.ones(1, 3, 6, 5)
    parts = lora.parts(network)
    assert list(parts) == list(lora.KINDS)
    assert len(conv_lora.lora_layers(network)) == 18
    fused = SPAN(feature_channels=4, upscale=2).fuse()
    fused.load_state_dict(parts["fused"]["params"])
    torch.testing.assert_close(fused(x), before)
    again = conv_lora.load_lora_state_dict(
        conv_lora.fuse(SPAN(feature_channels=4, upscale=2).fuse()), parts["lora"]["params"]
    )
    assert all(torch.equal(parts["lora"]["params"][name], again.state_dict()[name]) for name in parts["lora"]["params"])


def test_adapters_of_another_base_are_told(tmp_path):
    network = lora.put(SPAN(feature_channels=4, upscale=2), {"layers": {"block_*": [1, 2]}})
    torch.save(lora.parts(network)["lora"], tmp_path / "lora.pth")
    section, told = {"weights": tmp_path / "lora.pth"}, []
    lora.start_from(network, section, told.append)
    assert told == []
    lora.start_from(SPAN(feature_channels=4, upscale=2).fuse(), section, told.append)
    assert "trained on other weights than those of `path: pretrain_network_g`: another file, or" in told[0]

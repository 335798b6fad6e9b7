"""What is kept of validations, and the modes of networks that are validated."""

import pytest

from dscsr_arch import CSSRNet
from dscsr_model.training.validation import evaluating, mean_scores


def test_means_do_not_depend_on_who_computed_what():
    shares = [{"psnr": 0.1 * index**2, "ssim": -float(index)} for index in range(5)]
    means = mean_scores(dict(enumerate(shares)))
    assert means == {"psnr": pytest.approx(0.1 * (1 + 4 + 9 + 16) / 5), "ssim": -2.0}
    assert mean_scores({index: shares[index] for index in (3, 0, 4, 2, 1)}) == means
    assert mean_scores({0: {"niqe": 3.0}, 1: {"niqe": "too small"}}) == {"niqe": "too small"}
    assert mean_scores({}) == {}


def test_afterwards_every_module_is_in_its_mode_and_so_is_what_follows_the_network():
    network = CSSRNet({"type": "SPAN", "feature_channels": 4, "upscale": 2}, [0.5]).train()
    network.backbone.block_2.eval()
    before = [module.training for module in network.modules()]
    with evaluating(network):
        assert not any(module.training for module in network.modules())
        assert not network._skeletons[0.5].training
    assert [module.training for module in network.modules()] == before
    assert network._skeletons[0.5].training

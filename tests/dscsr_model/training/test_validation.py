"""What is kept of validations, and the modes of networks that are validated."""

import pytest

from dscsr_arch import CSSRNet
from dscsr_model.training.validation import BestResults, evaluating

HIGHER, LOWER = {"psnr": "higher", "niqe": "higher"}, {"psnr": "higher", "niqe": "lower"}


@pytest.mark.parametrize(
    ("better", "deciding", "winner"), [(HIGHER, "psnr", 5), (HIGHER, "niqe", 10), (LOWER, "niqe", 5)]
)
def test_the_best_by_the_deciding_metric_in_the_first_set_that_has_it(better, deciding, winner):
    best = BestResults(better, deciding, ["Lone", "Set", "Other"])
    found = []
    for iteration, psnr, niqe in ((5, 30.0, 1.0), (10, 29.0, 2.0), (15, 30.0, 1.0), (20, float("nan"), 1.5)):
        for dataset, scores in (("Lone", {}), ("Set", {"psnr": psnr, "niqe": niqe}), ("Other", {"psnr": 40.0})):
            best.update(dataset, scores, iteration)
            found += [best.of(dataset, iteration)] if best.of(dataset, iteration) else []
    assert (found[-1]["dataset"], found[-1]["metric"], found[-1]["iter"]) == ("Set", deciding, winner)


def test_the_better_of_two_networks_is_preferred_and_a_tie_changes_nothing():
    best, loss = (BestResults({"psnr": way}, "psnr", ["Set"], ("", "_ema")) for way in ("higher", "lower"))
    found, nan = [], float("nan")
    for iteration, (plain, average) in enumerate([(1, 1), (3, 2), (2, 2), (1, 2.5), (4, nan), (1, 2)]):
        for one in (best, loss):
            one.update("Set", {"psnr": float(plain), "psnr_ema": float(average)}, iteration)
            one.update("Other", {"psnr": 1.0 - iteration % 2, "psnr_ema": 0.5}, iteration)  # which does not decide
        found.append((best.preferred, loss.preferred, best.decided["metric"], best.decided["iter"]))
    assert found == [
        ("_ema", "_ema", "psnr", 0), ("", "_ema", "psnr", 1), ("", "_ema", "psnr", 1), ("_ema", "", "psnr", 1),
        ("", "", "psnr", 4), ("_ema", "", "psnr", 4),
    ]  # fmt: skip
    again = BestResults({"psnr": "lower"}, "psnr", ["Set"], ("", "_ema"))
    again.load_state(loss.state(), None)
    assert again.preferred == loss.preferred


def test_metrics_and_their_directions_may_change_before_a_resume():
    before = BestResults(HIGHER, "psnr", ["Set"])
    before.update("Set", {"psnr": 30.0, "niqe": 5.0}, 5)
    after = BestResults(LOWER | {"ssim": "higher"}, "psnr", ["Set"])
    later = {"dataset": "Set", "metric": "psnr", "better": "higher", "val": 31.0, "iter": 8}
    after.load_state(before.state(), later)
    after.update("Set", {"psnr": 29.0, "niqe": 6.0, "ssim": 0.9}, 10)
    assert {name: (one["val"], one["iter"]) for name, one in after.records["Set"].items()} == {
        "psnr": (31.0, 8), "niqe": (6.0, 10), "ssim": (0.9, 10)
    }  # fmt: skip


def test_afterwards_every_module_is_in_its_mode_and_so_is_what_follows_the_network():
    network = CSSRNet({"type": "SPAN", "feature_channels": 4, "upscale": 2}, [0.5]).train()
    network.backbone.block_2.eval()
    before = [module.training for module in network.modules()]
    with evaluating(network):
        assert not any(module.training for module in network.modules())
        assert not network._skeletons[0.5].training
    assert [module.training for module in network.modules()] == before
    assert network._skeletons[0.5].training

"""Sharing the images, scoring them beside the network, and never holding many."""

import threading
import time

import numpy as np
import pytest
import torch

from dscsr_arch import CSSRNet
from dscsr_model.training import validation
from dscsr_model.training.validation import evaluating, validate


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        return {"lq": torch.full((1, 1, 1), float(index)), "lq_path": f"{index}.png"}


def super_resolve(batch):
    assert batch["lq"].shape == (1, 1, 1, 1)
    return {"": batch["lq"].numpy()}, None


def finish(images, gt, lq_path):
    value = float(images[""].item())
    assert lq_path == f"{value:.0f}.png"
    time.sleep(0.01 * (5 - value))  # the first ones are scored last
    return {"psnr": 0.1 * value**2, "ssim": -value}


@pytest.mark.parametrize("world_size", [3, 7])
def test_the_result_does_not_depend_on_the_number_of_ranks(monkeypatch, world_size):
    """Every rank's share, gathered by hand; bit-equal to one process."""
    alone = validate(Numbers(), super_resolve, finish)
    assert alone == {"psnr": pytest.approx(0.1 * (1 + 4 + 9 + 16) / 5), "ssim": -2.0}
    shares = []
    monkeypatch.setattr(validation, "gathered", lambda mine: shares.append(mine[1]) or [mine])
    for rank in range(world_size):
        validate(Numbers(), super_resolve, finish, rank=rank, world_size=world_size)
    assert sorted(index for share in shares for index in share) == [0, 1, 2, 3, 4]
    monkeypatch.setattr(validation, "gathered", lambda mine: [(0, share) for share in reversed(shares)])
    assert validate(Numbers(), super_resolve, finish) == alone


def test_all_ranks_stop_when_one_of_them_is_asked_to(monkeypatch):
    monkeypatch.setattr(validation, "gathered", lambda mine: [mine, (15, {})])
    with pytest.raises(SystemExit) as stopped:
        validate(Numbers(), super_resolve, finish)
    assert stopped.value.code == 143


def test_images_wait_in_a_short_queue_and_are_scored_in_other_threads():
    waiting, most, threads = 0, 0, set()
    lock = threading.Lock()

    class Many(Numbers):
        def __len__(self):
            return 20

    def count_up(batch):
        nonlocal waiting, most
        with lock:
            waiting += 1
            most = max(most, waiting)
        return {"": np.zeros(1)}, None

    def slow_finish(images, gt, lq_path):
        nonlocal waiting
        time.sleep(0.01)
        with lock:
            waiting -= 1
            threads.add(threading.get_ident())
        return {}

    assert validate(Many(), count_up, slow_finish) == {}
    assert 2 <= most <= validation._WAITING + 2
    assert threading.get_ident() not in threads


def test_a_fault_of_a_image_or_of_its_scoring_stops_the_validation():
    class Broken(Numbers):
        def __getitem__(self, index):
            raise OSError("broken.png")

    with pytest.raises(OSError, match=r"broken\.png"):
        validate(Broken(), super_resolve, finish)

    def no_score(images, gt, lq_path):
        raise ZeroDivisionError("no pixels left")

    with pytest.raises(ZeroDivisionError, match="no pixels left"):
        validate(Numbers(), super_resolve, no_score)


def test_no_images_no_scores():
    class Empty(Numbers):
        def __len__(self):
            return 0

    assert validate(Empty(), super_resolve, finish) == {}


def test_afterwards_every_module_is_in_its_mode_and_so_is_what_follows_the_network():
    network = CSSRNet({"type": "SPAN", "feature_channels": 4, "upscale": 2}, [0.5]).train()
    network.backbone.block_2.eval()
    before = [module.training for module in network.modules()]
    with evaluating(network):
        assert not any(module.training for module in network.modules())
        assert not network._skeletons[0.5].training
    assert [module.training for module in network.modules()] == before
    assert network._skeletons[0.5].training

"""The fastest of engines, among those that give the same image."""

import time
from dataclasses import replace

import pytest
import torch

from dscsr_arch import SPAN
from dscsr_arch.errors import DscsrError
from dscsr_model.inference.engines import torch_engine
from dscsr_model.profiling import fastest as module
from dscsr_model.profiling.fastest import fastest

IMAGE = torch.rand(1, 3, 20, 30)


@pytest.fixture
def engine(monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.01)
    return torch_engine(SPAN(feature_channels=4, upscale=2, img_range=1.0), device="cpu")


def fails(*_):
    raise RuntimeError("no such instruction")


def later(seconds, run):
    return lambda x: (time.sleep(seconds), run(x))[1]


def test_the_fastest_of_those_that_do_the_same(engine):
    builders = {
        "broken": fails,
        "slow": lambda: replace(engine, run=later(0.3, engine.run)),
        "quick": lambda: engine,
        "wrong": lambda: replace(engine, run=lambda x: engine.run(x) + 1e-3),
        "fails later": lambda: replace(engine, run=fails),
    }
    found = fastest(builders, IMAGE)
    assert (found.name, found.engine) == ("quick", engine)
    assert list(found.milliseconds) == ["quick", "slow"]
    assert found.milliseconds["slow"] > 300
    assert found.size == (20, 30)
    assert found.faults == {
        "broken": "RuntimeError: no such instruction",
        "wrong": "its image differs by 1.0e-03 of a range of 1",
        "fails later": "RuntimeError: no such instruction",
    }


def test_between_levels_single_pixels_may_differ(engine):
    def one_pixel(x):
        y = engine.run(x)
        y[0, 0, 0, 0] += 0.05
        return y

    builders = {"it": lambda: engine, "other": lambda: replace(engine, run=one_pixel)}
    assert list(fastest(builders, IMAGE).faults) == ["other"]
    assert not fastest(builders, IMAGE, levels=True).faults


@pytest.mark.parametrize(("most", "size"), [(1e9, (120, 300)), (0, (30, 76))])
def test_of_a_large_image_a_part_is_measured(engine, monkeypatch, most, size):
    monkeypatch.setattr(module, "_MOST_MS", most)
    assert fastest({"it": lambda: engine}, torch.rand(1, 3, 120, 300)).size == size


def test_none_runs():
    with pytest.raises(DscsrError, match="a backend that runs this network, but got none: a: RuntimeError: no such"):
        fastest({"a": fails}, IMAGE)

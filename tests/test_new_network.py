"""A network in one file of its own, ``*_arch.py`` with an `Architecture`, is known everywhere."""

import sys
from pathlib import Path

import option_files
import pytest
import torch
import training_runs

import dscsr_arch
import dscsr_model
from dscsr_arch import CSSRNet, load_model
from dscsr_arch.architecture import architectures
from dscsr_arch.checkpoint import save_state_dict
from dscsr_arch.deployable import deployable
from dscsr_arch.metadata import describe
from dscsr_model.cli import main
from dscsr_model.export.ntire import kit as kits
from dscsr_model.host import registration
from dscsr_model.host.patches import installed

TOY = '''
import torch
from torch import nn
from torch.nn import functional as F

from dscsr_arch.architecture import Architecture
from dscsr_arch.constructor import COUNT, NUMBER, constructor


class Toy(nn.Module):
    """Two convolutions and a pixel shuffle."""

    size_multiple = 1

    @constructor(channels=COUNT, upscale=COUNT, slope=NUMBER)
    def __init__(self, num_in_ch: int = 3, channels: int = 8, upscale: int = 4, slope: float = 0.1) -> None:
        super().__init__()
        self.slope = slope
        self.first = nn.Conv2d(num_in_ch, channels, 3, padding=1)
        self.last = nn.Conv2d(channels, num_in_ch * upscale**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(upscale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map an image."""
        return self.shuffle(self.last(F.leaky_relu(self.first(x), self.slope)))


def _arguments(state_dict, _):
    channels, num_in_ch = state_dict["first.weight"].shape[:2]
    upscale = round((state_dict["last.weight"].shape[0] / num_in_ch) ** 0.5)
    return {"num_in_ch": num_in_ch, "channels": channels, "upscale": upscale}


ARCHITECTURE = Architecture(
    network=Toy,
    recognise=lambda state_dict: {"first.weight", "first.bias", "last.weight", "last.bias"} == state_dict.keys(),
    arguments=_arguments,
    not_in_shapes=("slope",),
    width_arguments=("channels",),
    single_file=(Toy,),
)
'''


@pytest.fixture
def toy(tmp_path):
    """The class, in a file beside those of the package."""
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "toy_arch.py").write_text(TOY)
    dscsr_arch.__path__.append(str(folder))
    begin_anew()
    yield architectures()["Toy"].network
    dscsr_arch.__path__.remove(str(folder))
    del sys.modules["dscsr_arch.toy_arch"]
    begin_anew()


def begin_anew():
    architectures.cache_clear()
    installed.undo()
    dscsr_model.register()


def test_it_is_registered_trained_loaded_narrowed_exported_and_submitted(toy, tmp_path, capsys):
    assert registration.registered_names()["Toy"] == "Toy"
    network = {"type": "Toy", "slope": 0.25, "upscale": 4}
    training_runs.write_options(
        tmp_path, network_g=network, **{"train:total_iter": 2, "datasets:val": option_files.REMOVED}
    )
    training_runs.pipeline(tmp_path)
    weights = Path(training_runs.experiment(tmp_path), "models/net_g_latest.pth")

    loaded = load_model(weights)
    assert type(loaded) is toy
    assert describe(loaded) == ("Toy", {"num_in_ch": 3, "channels": 8, "upscale": 4, "slope": 0.25})

    shared = CSSRNet({**network, "channels": 8}, (0.5,))
    shared.load_state_dict(loaded.state_dict())
    save_state_dict({"params": shared.state_dict()}, tmp_path / "shared.pth")
    student = load_model(tmp_path / "shared.pth", width=0.5, slope=0.25)
    x = torch.rand(1, 3, 5, 6)
    assert torch.equal(student(x), shared(x, width=0.5))
    assert student.first.out_channels == 4
    assert torch.equal(deployable(loaded)(x), loaded(x))

    assert main(["export", str(weights), "-o", f"{tmp_path}/toy.onnx"]) == 0
    assert "Toy, " in capsys.readouterr().out
    kits.make(loaded, kits.Kit(7, "Mine", tmp_path / "kit", seconds=0), lambda items, *_: items)
    assert "class Mine(Toy)" in (tmp_path / "kit/models/team07_Mine.py").read_text()

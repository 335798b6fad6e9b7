"""Where VGG-19's weights are looked for."""

from pathlib import Path

import pytest

from dscsr_arch.errors import DscsrError
from dscsr_model.losses.vgg_weights import FILE, find_vgg_weights, places


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """A working directory and a cache without the file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


def test_random_needs_no_file():
    assert find_vgg_weights("random") is None


@pytest.mark.parametrize("number", [0, 1])
def test_imagenet_is_torchvisions_file_in_either_place(number):
    file = places()[number] / FILE
    file.parent.mkdir(parents=True)
    file.touch()
    assert find_vgg_weights("imagenet") == file


def test_the_second_place_is_the_cache_of_torch_hub(nowhere, monkeypatch):
    import torch

    assert places()[1] == Path(torch.hub.get_dir(), "checkpoints")
    for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert places()[1] == Path(torch.hub.get_dir(), "checkpoints")
    monkeypatch.setenv("XDG_CACHE_HOME", str(nowhere))
    assert places()[1] == Path(torch.hub.get_dir(), "checkpoints")


def test_a_missing_file_is_named_with_its_source_and_its_places(nowhere):
    with pytest.raises(DscsrError) as error:
        find_vgg_weights("imagenet")
    message = str(error.value)
    assert message.startswith("Expected 'experiments/pretrained_models/vgg19-dcbb9e9d.pth' or ")
    assert str(nowhere / "torch" / "hub" / "checkpoints" / FILE) in message
    assert "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth" in message
    assert "`vgg_weights: <path>`" in message


def test_a_path(nowhere):
    with pytest.raises(DscsrError, match=r"but got 'no\.pth', which does not exist\. Fetch .*dcbb9e9d\.pth"):
        find_vgg_weights("no.pth")
    with pytest.raises(DscsrError, match="which is a folder"):
        find_vgg_weights(str(nowhere))
    (nowhere / "my.pth").touch()
    assert find_vgg_weights("my.pth") == Path("my.pth")


@pytest.mark.parametrize("value", [None, "", 3])
def test_what_is_no_path_at_all(value):
    with pytest.raises(DscsrError, match="Expected `vgg_weights` to be imagenet, random or a path, but got"):
        find_vgg_weights(value)

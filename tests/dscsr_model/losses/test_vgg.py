"""VGG-19 built by hand against torchvision's, and where its weights are looked for."""

import pytest
import torch

from dscsr_arch.errors import DscsrError
from dscsr_model.losses.vgg import FILE, LAYERS, VGG19Features, find_vgg_weights, places

MEAN, STD = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def random_vgg() -> VGG19Features:
    return VGG19Features("random")


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A working directory and a cache without the file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


@torch.no_grad()
def test_a_file_of_torchvision_gives_torchvisions_features(tmp_path):
    from dscsr_model.host.compat import patch_imports

    patch_imports()
    from torchvision.models.vgg import cfgs, make_layers

    theirs = make_layers(cfgs["E"])[:30]
    classifier = {"classifier.0.weight": torch.zeros(2, 2)}
    named = {f"features.{name}": weight for name, weight in theirs.state_dict().items()}
    torch.save({**named, "features.34.weight": torch.zeros(1), **classifier}, tmp_path / "vgg.pth")
    images = torch.rand(2, 3, 35, 21)
    x = (images - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    expected = []
    for index, layer in enumerate(theirs):
        x = layer(x)
        if index in (1, 6, 11, 20, 29):  # ReLUs 1, 3, 5, 9 and 13
            expected.append(x.clone())
    found = VGG19Features(str(tmp_path / "vgg.pth"))(images)
    assert len(found) == len(LAYERS) == 5
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_random_weights_are_the_same_every_time_and_leave_the_generator_alone(random_vgg):
    state = torch.get_rng_state()
    again = VGG19Features("random")
    assert torch.equal(torch.get_rng_state(), state)
    images = torch.rand(1, 3, 32, 32)
    features = random_vgg(images)
    assert all(torch.equal(a, b) for a, b in zip(again(images), features, strict=True))
    assert all(0.1 < feature.std() < 10 for feature in features)  # neither fading nor growing with depth


def test_it_is_frozen_and_lets_gradients_through(random_vgg):
    assert not any(parameter.requires_grad for parameter in random_vgg.parameters())
    images = torch.rand(1, 3, 16, 16, requires_grad=True)
    random_vgg(images)[-1].sum().backward()
    assert images.grad.abs().sum() > 0
    assert not random_vgg.training


def test_the_official_range(random_vgg):
    official = VGG19Features("random", imagenet_norm=False, input_range=255)
    images = torch.rand(1, 3, 16, 16)
    first = torch.relu(official.features[0](images * 255))
    torch.testing.assert_close(official(images)[0], first)
    assert (random_vgg(images)[0] - first).abs().max() > 1


def test_gray_is_three_equal_channels_and_autocast_changes_nothing(random_vgg):
    gray = torch.rand(1, 1, 16, 16)
    expected = random_vgg(gray.repeat(1, 3, 1, 1))[4]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(random_vgg(gray)[4], expected)


@pytest.mark.parametrize("shape", [(1, 3, 15, 16), (1, 2, 16, 16), (3, 16, 16)])
def test_images_it_cannot_take(random_vgg, shape):
    with pytest.raises(ValueError, match=r"Expected RGB or gray images .* of at least 16×16 pixels, but got"):
        random_vgg(torch.rand(shape))


@pytest.mark.parametrize("number", [0, 1])
def test_imagenet_is_torchvisions_file_in_either_place(nowhere, number):
    file = places()[number] / FILE
    file.parent.mkdir(parents=True)
    file.touch()
    assert find_vgg_weights("imagenet") == file


@pytest.mark.parametrize(
    ("value", "message"),
    [(".", "which is a folder"), (None, "Expected `vgg_weights` to be imagenet, random or a path, but got None")],
)
def test_what_is_no_file(nowhere, value, message):
    with pytest.raises(DscsrError, match=message):
        find_vgg_weights(value)

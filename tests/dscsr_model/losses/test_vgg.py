"""VGG-19 built by hand against torchvision's."""

import pytest
import torch

from dscsr_arch.errors import DscsrError, WeightsError
from dscsr_model.losses.vgg import LAYERS, VGG19Features

MEAN, STD = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def random_vgg() -> VGG19Features:
    return VGG19Features("random")


@pytest.fixture(scope="module")
def theirs():
    """The layers of torchvision's VGG-19 up to relu5_1, with random weights."""
    from dscsr_model.host.compat import patch_imports

    patch_imports()
    from torchvision.models.vgg import cfgs, make_layers

    return make_layers(cfgs["E"])[:30]


@torch.no_grad()
def test_a_file_of_torchvision_gives_torchvisions_features(theirs, tmp_path):
    classifier = {"classifier.0.weight": torch.zeros(2, 2)}
    named = {f"features.{name}": weight for name, weight in theirs.state_dict().items()}
    torch.save({**named, "features.34.weight": torch.zeros(1), **classifier}, tmp_path / "vgg.pth")
    ours = VGG19Features(str(tmp_path / "vgg.pth"))
    images = torch.rand(2, 3, 35, 21)
    x = (images - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    expected = []
    for index, layer in enumerate(theirs):
        x = layer(x)
        if index in (1, 6, 11, 20, 29):  # ReLUs 1, 3, 5, 9 and 13
            expected.append(x.clone())
    found = ours(images)
    assert len(found) == len(LAYERS) == 5
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    torch.save(theirs.state_dict(), tmp_path / "bare.pth")
    assert torch.equal(VGG19Features(str(tmp_path / "bare.pth"))(images)[4], found[4])


def test_random_weights_are_the_same_every_time_and_leave_the_generator_alone(random_vgg):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    again = VGG19Features("random")
    assert torch.equal(torch.rand(2), expected)
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


def test_autocast_changes_nothing(random_vgg):
    images = torch.rand(1, 3, 16, 16)
    expected = random_vgg(images)[4]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(random_vgg(images)[4], expected)


def test_gray_is_three_equal_channels(random_vgg):
    gray = torch.rand(1, 1, 16, 16)
    assert torch.equal(random_vgg(gray)[4], random_vgg(gray.repeat(1, 3, 1, 1))[4])


@pytest.mark.parametrize("shape", [(1, 3, 15, 16), (1, 2, 16, 16), (3, 16, 16)])
def test_images_it_cannot_take(random_vgg, shape):
    with pytest.raises(
        ValueError, match=r"Expected RGB or gray images \(B, 3 or 1, H, W\) of at least 16×16 pixels, but got"
    ):
        random_vgg(torch.rand(shape))


@pytest.mark.parametrize("value", [0, -1.0, float("inf"), "1", True])
def test_a_wrong_range(value):
    with pytest.raises(ValueError, match="Expected `input_range` to be a number above 0, but got"):
        VGG19Features("random", imagenet_norm=False, input_range=value)


def test_a_range_beside_the_norm():
    with pytest.raises(ValueError, match="Expected `input_range` to be 1 beside `imagenet_norm: true`, but got 255"):
        VGG19Features("random", input_range=255)


def test_files_that_are_not_there_or_of_another_network(tmp_path):
    with pytest.raises(DscsrError, match="which does not exist"):
        VGG19Features(str(tmp_path / "no.pth"))
    torch.save({"features.0.weight": torch.rand(64, 3, 3, 3), "features.1.weight": torch.rand(64)}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"(?s)Expected weights of VGG-19 .*x\.pth', whose layers.*2\.weight"):
        VGG19Features(str(tmp_path / "x.pth"))
    torch.save({"features.0.weight": torch.rand(8, 3, 3, 3)}, tmp_path / "y.pth")
    with pytest.raises(WeightsError, match=r"(?s)0\.weight: expected \(64, 3, 3, 3\), but the file has \(8, 3, 3, 3\)"):
        VGG19Features(str(tmp_path / "y.pth"))

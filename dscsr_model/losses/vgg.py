"""VGG-19 up to relu5_1, as a measure of how alike two images look (Simonyan and Zisserman, arXiv 1409.1556).

Built by hand, with the names of torchvision's layers, so that its file loads and torchvision is not imported. Nothing
is ever downloaded.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.hub
from torch import Tensor, nn

from dscsr_arch.checkpoint import read_state_dict
from dscsr_arch.errors import DscsrError, WeightsError
from dscsr_arch.no_autocast import no_autocast
from dscsr_arch.weight_files import state_dict_diff

LAYERS = {"relu1_1": 1, "relu2_1": 6, "relu3_1": 11, "relu4_1": 20, "relu5_1": 29}
"""What features are taken of, and where that is among torchvision's layers."""
_POOL = 0
_CHANNELS = (64, 64, _POOL, 128, 128, _POOL, *[256] * 4, _POOL, *[512] * 4, _POOL, 512)
SMALLEST = 16  # pixels; four poolings make one of them

FILE = "vgg19-dcbb9e9d.pth"
_REMEDY = (
    f"Fetch torchvision's weights of VGG-19 from https://download.pytorch.org/models/{FILE} (548 MB; nothing is "
    "downloaded unasked) and put them there, or write `vgg_weights: <path>`; `features: teacher` needs no such file."
)


class VGG19Features(nn.Module):
    """Features of images at relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1; frozen.

    Args:
        weights: ``imagenet`` (torchvision's file, see `find_vgg_weights`), the path of one, or ``random``: drawn
            once and for all, the same in every process.
        imagenet_norm: Subtract ImageNet's mean of each colour and divide by its deviation.
        input_range: What images in [0, 1] are multiplied by instead; the official code of CSD has 255.

    Raises:
        DscsrError: No such file.
        WeightsError: The file is damaged, or of another network.
        ValueError: An ``input_range`` that is not above 0, or beside ``imagenet_norm``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: str = "imagenet", *, imagenet_norm: bool = True, input_range: float = 1.0) -> None:
        super().__init__()
        _check_input_range(imagenet_norm, input_range)
        file = find_vgg_weights(weights)
        self.imagenet_norm = imagenet_norm
        self.input_range = float(input_range)
        self.features = _on_meta().to_empty(device="cpu")
        if file is None:
            _start_randomly(self.features)
        else:
            self.features.load_state_dict(_read_weights(file))
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # convolutions are faster so

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features of images in [0, 1], in the dtype of the weights, under autocast too.

        Args:
            images: (B, 3, H, W) RGB, or (B, 1, H, W) gray, which is taken as three equal channels.

        Returns:
            Five maps (B, C, H', W'): C = 64, 128, 256, 512, 512; each half as high and wide as the one before.

        Raises:
            ValueError: Images of another shape, or too small.
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3) or min(images.shape[2:]) < SMALLEST:
            raise ValueError(
                f"Expected RGB or gray images (B, 3 or 1, H, W) of at least {SMALLEST}×{SMALLEST} pixels, "
                f"but got {tuple(images.shape)}. Take larger patches (`gt_size`)."
            )
        with no_autocast(images.device):
            images = images.to(self.mean.dtype).expand(-1, 3, -1, -1)
            x = (images - self.mean) / self.std if self.imagenet_norm else images * self.input_range
            x = x.contiguous(memory_format=torch.channels_last)
            found = []
            for index, layer in enumerate(self.features):
                x = layer(x)
                if index in LAYERS.values():
                    found.append(x)
        return found


def _check_input_range(imagenet_norm: bool, input_range: float) -> None:
    if isinstance(input_range, bool) or not isinstance(input_range, (int, float)) or not 0 < input_range < math.inf:
        raise ValueError(f"Expected `input_range` to be a number above 0, but got {input_range!r}.")
    if imagenet_norm and input_range != 1:
        raise ValueError(
            f"Expected `input_range` to be 1 beside `imagenet_norm: true`, but got {input_range}. Its mean and "
            "deviation are those of images in [0, 1]: remove one of the two."
        )


def find_vgg_weights(vgg_weights: str) -> Path | None:
    """The file that an option ``vgg_weights`` means: torchvision's in one of `places`, none (``random``), or a path.

    A `DscsrError`, if there is no such file, says where to get it and where to put it.
    """
    if vgg_weights == "random":
        return None
    if not isinstance(vgg_weights, str) or not vgg_weights:
        raise DscsrError("`vgg_weights` to be imagenet, random or a path", repr(vgg_weights), "Correct it.")
    if vgg_weights == "imagenet":
        files = [folder / FILE for folder in places()]
        if found := [file for file in files if file.is_file()]:
            return found[0]
        expected = " or ".join(f"'{file}'" for file in files)
        raise DscsrError(f"{expected} for `vgg_weights: imagenet`", "no such file", _REMEDY)
    file = Path(vgg_weights).expanduser()
    if not file.is_file():
        fault = "is a folder" if file.is_dir() else "does not exist"
        raise DscsrError("weights of VGG-19", f"'{file}', which {fault}", _REMEDY)
    return file


def places() -> tuple[Path, ...]:
    """Folders of torchvision's file: BasicSR's, below the working directory, and the cache of torch.hub."""
    return Path("experiments", "pretrained_models"), Path(torch.hub.get_dir(), "checkpoints")


def _read_weights(file: Path) -> dict[str, Tensor]:
    """Weights of the layers up to relu5_1, named as in ``VGG19Features.features``, out of torchvision's file."""
    given = {name.removeprefix("features."): tensor for name, tensor in read_state_dict(file).items()}
    network = _on_meta()
    state = {name: given[name] for name in network.state_dict() if name in given}
    if fault := state_dict_diff(network, state):
        expected = "weights of VGG-19 as torchvision names them"
        raise WeightsError(expected, f"'{file}', whose layers differ:\n{fault}", f"Take torchvision's {FILE}.")
    return state


def _on_meta() -> nn.Sequential:
    """The layers, without memory for their weights."""
    layers: list[nn.Module] = []
    channels = 3
    for width in _CHANNELS:
        if width == _POOL:
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1, device="meta"), nn.ReLU(inplace=True)]
            channels = width
    return nn.Sequential(*layers)


@torch.no_grad()
def _start_randomly(network: nn.Sequential) -> None:
    """He's initialization, which keeps the size of what passes through; it leaves the global generator as it is."""
    generator = torch.Generator().manual_seed(0)
    for layer in network:
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            layer.weight.normal_(0, math.sqrt(2 / layer.weight[0].numel()), generator=generator)
            layer.bias.zero_()

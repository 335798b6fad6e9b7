"""SPANV2: SPAN with a learned guidance instead of its attention, winner of the NTIRE 2026 efficient SR challenge.

Code of the authors: https://github.com/Amazingren/NTIRE2026_ESR, team 22. Formulas and names were read from their
released code and files.

Different from the original:

- Released files are fused; here it also trains, as SPAN does, through merged kernels (of gain 2, as in the original's
  training), and released files are unfused. A merged kernel is called ``c1.eval_conv``, theirs ``c1.conv``.
- The guidance is three operations of PyTorch instead of one CUDA kernel.
- The first block never has a guidance; the original gives it one if it is as wide as the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dscsr_arch.architecture import Architecture, StateDict
from dscsr_arch.constructor import check_residual, constructor
from dscsr_arch.conv3xc import Conv3XC, Kernel, merge_layers
from dscsr_arch.reparameterized import Reparameterized, in_form_of
from dscsr_arch.span_arch import MERGED_ALONE
from dscsr_arch.spanf_arch import IMAGE_KINDS, conv_near, image_arguments
from dscsr_arch.spanv2_plain import PlainSPABV2, PlainSPANV2


class SPABV2(nn.Module):
    """Block with a learned guidance.

    Formula: ``f3 = c3(ReLU(c2(ReLU(c1(x)))))``, result ``(x + f3) · guidance_map_conv(f3)``; in a block from
    ``in_channels``, which has no guidance, ``ReLU(f3)``.
    """

    def __init__(self, channels: int, in_channels: int | None = None) -> None:
        super().__init__()
        self.c1 = Conv3XC(in_channels or channels, channels, bias=False)
        self.c2 = Conv3XC(channels, channels, bias=False)
        self.c3 = Conv3XC(channels, channels, bias=False)
        self.guidance_map_conv = nn.Conv2d(channels, channels, 1) if in_channels is None else None

    def forward(self, x: Tensor, kernels: Sequence[Kernel | None] = MERGED_ALONE) -> Tensor:
        """Map (B, channels or in_channels, H, W) to (B, channels, H, W).

        ``kernels`` are those of its layers in their order, if they were merged with others'.
        """
        f1 = F.relu(self.c1(x, kernels[0]))
        f2 = F.relu(self.c2(f1, kernels[1]))
        f3 = self.c3(f2, kernels[2])
        return F.relu(f3) if self.guidance_map_conv is None else (x + f3) * self.guidance_map_conv(f3)


class SPANV2(Reparameterized):
    """SPANV2, from an image (B, num_in_ch, H, W) to (B, num_out_ch, H·upscale, W·upscale), RGB in [0, 1].

    Formula, with ``near`` the image's pixels, each copied upscale² times by a 3x3 convolution that may learn better:
    ``pointwise_conv(depthwise_conv([near, block_n]))``, pixel shuffle. Only guidances have biases.

    Args:
        num_in_ch: Channels of the input.
        num_out_ch: Channels of the output.
        feature_channels: Width of the blocks.
        upscale: One of 1, 2, 3, 4, 8.
        num_blocks: How many blocks there are, the first, without guidance, too.
        residual: Add the image to the output, whatever ``conv_near`` has become; with ``upscale`` 1 only.

    Raises:
        ValueError: An argument is out of range, or there is no image of the output's size and channels to add.
    """

    released: ClassVar[tuple[tuple[str, str], ...]] = ((r"^(block_\d+\.c[123])\.conv\.(?!\d)", r"\1.eval_conv."),)

    @constructor(**IMAGE_KINDS)
    def __init__(
        self,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        feature_channels: int = 32,
        upscale: int = 4,
        num_blocks: int = 5,
        residual: bool = False,
    ) -> None:
        super().__init__()
        check_residual(residual, (num_in_ch, num_out_ch), upscale)
        self.residual = residual
        self.upscale, self.num_blocks = upscale, num_blocks
        self.block_1 = SPABV2(feature_channels, num_in_ch)
        for index in range(2, num_blocks + 1):
            self.add_module(f"block_{index}", SPABV2(feature_channels))
        self.conv_near = conv_near(num_in_ch, upscale)
        joined = num_in_ch * upscale**2 + feature_channels
        self.depthwise_conv = nn.Conv2d(joined, joined, 3, padding=1, groups=joined, bias=False)
        self.pointwise_conv = nn.Conv2d(joined, num_out_ch * upscale**2, 1, bias=False)
        self.depth_to_space = nn.PixelShuffle(upscale)

    def forward(self, x: Tensor) -> Tensor:
        """Super-resolve ``x`` (B, num_in_ch, H, W); see the class for range and shape."""
        kernels, feature = merge_layers(self.layers()), x
        for index in range(self.num_blocks):
            feature = getattr(self, f"block_{index + 1}")(feature, kernels[3 * index : 3 * index + 3])
        joined = torch.cat([self.conv_near(x), feature], dim=1)
        out = self.depth_to_space(self.pointwise_conv(self.depthwise_conv(joined)))
        return x + out if self.residual else out


def _recognise(state_dict: StateDict) -> bool:
    needed = {"conv_near.weight", "depthwise_conv.weight", "pointwise_conv.weight"}
    return needed <= state_dict.keys() and any(
        f"block_1.c1.{layer}.weight" in state_dict for layer in ("sk", "eval_conv")
    )


def _arguments(state_dict: StateDict, _: Mapping[str, Any]) -> dict[str, Any]:
    return image_arguments(state_dict, "block_1.c1", "pointwise_conv")


ARCHITECTURE = Architecture(
    network=SPANV2,
    recognise=_recognise,
    arguments=_arguments,
    not_in_shapes=("residual",),
    width_arguments=("feature_channels",),
    prepare=in_form_of,
    single_file=(PlainSPABV2, PlainSPANV2),
)

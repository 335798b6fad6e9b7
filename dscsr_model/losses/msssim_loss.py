"""MSSSIMLoss: 1 − MS-SSIM (Wang, Simoncelli and Bovik, 2003), by the library pytorch-msssim."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dscsr_arch.errors import SizeError, UnavailableError
from dscsr_arch.no_autocast import no_autocast
from dscsr_model.losses.functional.arguments import REDUCTIONS, check_choice, check_images

_SCALES = 5


class MSSSIMLoss(nn.Module):
    """1 − MS-SSIM of two images in [0, 1]: five scales with the paper's weights, per channel.

    Needs pytorch-msssim (``pip install "dscsr[losses]"``). Where a scale is worse than no likeness at all it counts as
    none, and gives no gradient: let another loss stand beside it, as is usual (L1 with 0.16, MS-SSIM with 0.84, Zhao et
    al., arXiv 1511.08861).

    Args:
        loss_weight: Factor of the loss.
        window: Side of the Gaussian window, odd; patches must be larger than 16·(window − 1) pixels: 161 for 11.
        reduction: ``mean`` or ``sum`` over the images of a batch.

    Raises:
        ValueError: A ``window`` that is no odd number from 3, or an unknown ``reduction``.
        UnavailableError: The library is not installed.
    """

    def __init__(self, loss_weight: float = 1.0, window: int = 11, reduction: str = "mean") -> None:
        super().__init__()
        check_choice("reduction", reduction, REDUCTIONS)
        if isinstance(window, bool) or not isinstance(window, int) or window < 3 or window % 2 == 0:
            raise ValueError(f"Expected `window` to be an odd number of at least 3, but got {window!r}.")
        try:
            from pytorch_msssim import ms_ssim
        except ImportError as error:
            remedy = "Run `pip install 'dscsr[losses]'`."
            raise UnavailableError("the package pytorch-msssim for MSSSIMLoss", f"no {error.name}", remedy) from error
        self._ms_ssim = ms_ssim
        self.loss_weight = loss_weight
        self.window = window
        self.reduction = reduction

    @property
    def smallest(self) -> int:
        """The smallest side of an image, in pixels: its coarsest scale must hold a window."""
        return (self.window - 1) * 2 ** (_SCALES - 1) + 1

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Compare two images (B, C, H, W) in [0, 1]; a scalar, in float32 or float64, under autocast too.

        Raises:
            ValueError: They are of different shapes.
            SizeError: They are too small.
        """
        check_images(output, target)
        if min(output.shape[2:]) < self.smallest:
            height, width = output.shape[2:]
            smallest = f"{self.smallest}×{self.smallest} pixels"
            words = f"images of at least {smallest} for MS-SSIM with `window: {self.window}`"
            raise SizeError(words, f"{height}×{width}", "Take larger patches, or a smaller window.")
        with no_autocast(output.device):
            dtype = torch.promote_types(torch.promote_types(output.dtype, target.dtype), torch.float32)
            images = output.to(dtype), target.to(dtype)
            unlike = 1 - self._ms_ssim(*images, data_range=1.0, size_average=False, win_size=self.window)
        return self.loss_weight * (unlike.mean() if self.reduction == "mean" else unlike.sum())

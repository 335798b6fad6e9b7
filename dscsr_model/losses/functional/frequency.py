"""Frequencies: how far two images are apart in each wave that they are made of."""

from __future__ import annotations

import torch
from torch import Tensor

from dscsr_arch.no_autocast import no_autocast
from dscsr_model.losses.functional.arguments import REDUCTIONS, check_choice, check_images

NORMS = ("backward", "ortho")


def frequency_loss(output: Tensor, target: Tensor, *, norm: str = "backward", reduction: str = "mean") -> Tensor:
    r"""L1 distance of the Fourier transforms of two images, a complex number counted as two real ones.

    .. math:: L = \frac{1}{2 B C H (\lfloor W/2 \rfloor + 1)} \sum |\operatorname{Re} D| + |\operatorname{Im} D|,
        \quad D = \operatorname{rfft2}(\text{output} - \text{target})

    over the half of the waves that real images have for themselves. The transform is linear, so that one, of the
    difference, takes the place of two. As in MIMO-UNet (arXiv 2108.05054) and the many that took it from there.

    Args:
        output: (B, C, H, W), floating point, of any size and range.
        target: The same shape.
        norm: ``backward`` leaves a wave as large as the sum that it is, as publications do: their weights, 0.05 to 0.1
            beside L1, fit, and the loss grows with the patch: noise of the deviation σ has about 0.56·σ·√(H·W).
            ``ortho`` divides by √(H·W): the same weight means the same for patches of any size.
        reduction: ``mean`` (the formula) or ``sum``.

    Returns:
        A scalar in float32, or in float64 if an input is; the computation is in that dtype, under autocast too.

    Raises:
        ValueError: Other shapes, ``norm`` or ``reduction``.

    Example:
        >>> output, target = torch.rand(2, 3, 17, 24, requires_grad=True), torch.rand(2, 3, 17, 24)
        >>> frequency_loss(output, target).backward()
        >>> output.grad.shape
        torch.Size([2, 3, 17, 24])
    """
    check_choice("norm", norm, NORMS)
    check_choice("reduction", reduction, REDUCTIONS)
    check_images(output, target)
    with no_autocast(output.device):
        dtype = torch.promote_types(torch.promote_types(output.dtype, target.dtype), torch.float32)
        distance = torch.view_as_real(torch.fft.rfft2(output.to(dtype) - target.to(dtype), norm=norm)).abs()
        return distance.mean() if reduction == "mean" else distance.sum()

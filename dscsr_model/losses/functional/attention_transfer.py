"""Attention transfer: where two networks are active, compared whatever their widths are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dscsr_arch.no_autocast import no_autocast
from dscsr_model.losses.functional.arguments import check_choice, check_features

DISTANCES = ("squared", "norm")


def attention_transfer_loss(student: Tensor, teacher: Tensor, *, power: float = 2, distance: str = "squared") -> Tensor:
    r"""Distance of two feature maps by how strongly they answer at each position.

    .. math:: L = \frac{1}{B} \sum_b \|\hat s_b - \hat t_b\|_2^2, \quad s_{bi} = \sum_c |S_{bci}|^p

    over positions i, where a hat divides a map by its length (by 1e-12 if that is longer). From attention transfer
    (arXiv 1612.03928), activation-based; its formula has the ``norm`` without the square, its authors' code the square.
    The value lies between 0 and 2 (the norm: 1.41) for features of any size.

    Args:
        student: (B, C_s, H, W), floating point, any range.
        teacher: (B, C_t, H, W); C_t may differ.
        power: p, at least 1; the larger, the more the strongest positions count.
        distance: ``squared`` or ``norm``.

    Returns:
        A scalar in float32, or in float64 if an input is; the computation is in that dtype, under autocast too.

    Raises:
        ValueError: Shapes that do not belong together, a ``power`` below 1 or an unknown ``distance``.

    Example:
        >>> student, teacher = torch.rand(2, 26, 16, 16, requires_grad=True), torch.rand(2, 48, 16, 16)
        >>> attention_transfer_loss(student, teacher).backward()
        >>> student.grad.shape
        torch.Size([2, 26, 16, 16])
    """
    check_attention_arguments(power, distance)
    check_features(student, teacher)
    with no_autocast(student.device):
        dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
        ours, theirs = (F.normalize(each.to(dtype).abs().pow(power).sum(1).flatten(1)) for each in (student, teacher))
        if distance == "squared":
            return (ours - theirs).square().sum(1).mean()
        return torch.linalg.vector_norm(ours - theirs, dim=1).mean()


def check_attention_arguments(power: float, distance: str) -> None:
    """Raise a ValueError for a ``power`` or ``distance`` that `attention_transfer_loss` does not know."""
    check_choice("distance", distance, DISTANCES)
    if isinstance(power, bool) or not isinstance(power, (int, float)) or not 1 <= power < float("inf"):
        raise ValueError(f"Expected `power` to be a number of at least 1, but got {power!r}.")

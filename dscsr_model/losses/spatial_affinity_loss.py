"""SpatialAffinityLoss: what DSCLoRA (arXiv 2504.11271) calls L_AD, for one layer."""

from __future__ import annotations

from torch import Tensor, nn

from dscsr_model.losses.functional.spatial_affinity import check_affinity_arguments, spatial_affinity_loss


class SpatialAffinityLoss(nn.Module):
    """Distance of two feature maps by their affinities between positions; see `functional.spatial_affinity_loss`.

    Args:
        loss_weight: Factor of the loss.
        normalize: Compare directions of the feature vectors only.
        reduction: ``mean`` or ``sum``.
        pool: Side of the squares averaged before; 1 for none.

    Raises:
        ValueError: An unknown ``reduction``, or a ``pool`` that is no whole number of at least 1.
    """

    def __init__(
        self, loss_weight: float = 1.0, normalize: bool = True, reduction: str = "mean", pool: int = 1
    ) -> None:
        super().__init__()
        check_affinity_arguments(reduction, pool)
        self.loss_weight = loss_weight
        self.normalize = normalize
        self.reduction = reduction
        self.pool = pool

    def forward(self, student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
        """Compare (B, C_s, H, W) with (B, C_t, H, W); a scalar, in float32 or float64."""
        return self.loss_weight * spatial_affinity_loss(
            student_feature, teacher_feature, normalize=self.normalize, reduction=self.reduction, pool=self.pool
        )

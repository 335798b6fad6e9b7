"""FrequencyLoss: the distance of two images wave by wave."""

from __future__ import annotations

from torch import Tensor, nn

from dscsr_model.losses.functional.arguments import REDUCTIONS, check_choice
from dscsr_model.losses.functional.frequency import NORMS, frequency_loss


class FrequencyLoss(nn.Module):
    """L1 between the real Fourier transforms of two images; see `functional.frequency_loss`.

    Args:
        loss_weight: Factor of the loss; 0.05 to 0.1 is usual beside an L1Loss of weight 1.
        norm: ``backward``, as publications have it, or ``ortho``, which is the same for patches of any size.
        reduction: ``mean`` or ``sum``.

    Raises:
        ValueError: An unknown ``norm`` or ``reduction``.
    """

    def __init__(self, loss_weight: float = 1.0, norm: str = "backward", reduction: str = "mean") -> None:
        super().__init__()
        check_choice("norm", norm, NORMS)
        check_choice("reduction", reduction, REDUCTIONS)
        self.loss_weight = loss_weight
        self.norm = norm
        self.reduction = reduction

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Compare two images (B, C, H, W); a scalar, in float32 or float64."""
        return self.loss_weight * frequency_loss(output, target, norm=self.norm, reduction=self.reduction)

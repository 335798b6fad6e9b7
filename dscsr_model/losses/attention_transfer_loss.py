"""AttentionTransferLoss: what attention transfer (arXiv 1612.03928) compares, for one layer."""

from __future__ import annotations

from torch import Tensor, nn

from dscsr_model.losses.functional.attention_transfer import attention_transfer_loss, check_attention_arguments


class AttentionTransferLoss(nn.Module):
    """Distance of two feature maps by where they are active; see `functional.attention_transfer_loss`.

    Args:
        loss_weight: Factor of the loss.
        power: Of the magnitudes that are summed over the channels, at least 1.
        distance: ``squared`` or ``norm``.

    Raises:
        ValueError: A ``power`` below 1, or an unknown ``distance``.
    """

    def __init__(self, loss_weight: float = 1.0, power: float = 2, distance: str = "squared") -> None:
        super().__init__()
        check_attention_arguments(power, distance)
        self.loss_weight = loss_weight
        self.power = power
        self.distance = distance

    def forward(self, student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
        """Compare (B, C_s, H, W) with (B, C_t, H, W); a scalar, in float32 or float64."""
        return self.loss_weight * attention_transfer_loss(
            student_feature, teacher_feature, power=self.power, distance=self.distance
        )

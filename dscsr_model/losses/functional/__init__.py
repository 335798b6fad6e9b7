"""The maths of the losses: pure functions of tensors; no registry, no network, no option."""

from dscsr_model.losses.functional.attention_transfer import attention_transfer_loss
from dscsr_model.losses.functional.contrastive import contrastive_loss
from dscsr_model.losses.functional.frequency import frequency_loss
from dscsr_model.losses.functional.spatial_affinity import spatial_affinity_loss

__all__ = ["attention_transfer_loss", "contrastive_loss", "frequency_loss", "spatial_affinity_loss"]

"""DSCLoRAModel: the training of DSCLoRA, arXiv 2504.11271, for any network with LoRA."""

from __future__ import annotations

from basicsr.utils import get_root_logger

from dscsr_arch.conv_lora import lora_layers
from dscsr_arch.words import many
from dscsr_model.models.distillation_model import DistillationModel


class DSCLoRAModel(DistillationModel):
    """Trains the LoRA of a network on a frozen base, with a teacher.

    The network is ``type: DSCLoRA``, or any other with a section ``lora:``; its base is ``path: pretrain_network_g``
    (of SPAN expanded, fused, or DSCLoRA itself). The paper's three losses are three sections of ``train:``::

        pixel_opt: {type: MSELoss, loss_weight: 1.0}
        teacher_opt: {type: L1Loss, loss_weight: 1.0, target: teacher}
        affinity_opt: {type: SpatialAffinityLoss, loss_weight: 1.0, layers: [block_1, …, block_6]}

    Beside ``net_g_*.pth`` lie ``lora_g_*.pth`` (adapters) and ``fused_g_*.pth`` (the plain network), both from the
    better weights, the plain or the averaged ones.
    """

    def init_training_settings(self) -> None:
        """Also say what is trained."""
        layers = lora_layers(self.get_bare_model(self.net_g))
        get_root_logger().info(f"LoRA in {many(len(layers), 'layer')}: {', '.join(layers)}.")
        super().init_training_settings()

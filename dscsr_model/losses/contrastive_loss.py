"""ContrastiveLoss: L_C of contrastive self-distillation (CSD, arXiv 2105.11683)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dscsr_model.losses.functional.arguments import check_choice
from dscsr_model.losses.functional.contrastive import DISTANCES, LAYER_WEIGHTS, contrastive_loss
from dscsr_model.losses.vgg import LAYERS, VGG19Features

FEATURES = ("vgg19", "teacher")


class ContrastiveLoss(nn.Module):
    """Pulls features of the student's images to the teacher's, and away from enlarged LR images of the batch.

    The maths is `functional.contrastive_loss`. Different from the official code: images are normalised for VGG as
    it was trained (``imagenet_norm: false, input_range: 255`` is the official way), teacher and negatives never
    carry a graph, and `draw_negatives` takes them at random from the batch.

    Args:
        loss_weight: Factor of the loss; the paper has 200.
        num_negatives: K, how many LR images of the batch every sample meets.
        exclude_self: Leave a sample and its own LR image out.
        layer_weights: c_i, one per layer. None: the paper's for VGG-19, 1 for each layer of the teacher.
        features: ``vgg19``, or ``teacher``: then the model takes features of the teacher's and calls `compare`.
        vgg_weights: ``imagenet``, a path, or ``random``; see `find_vgg_weights`. Nothing is downloaded.
        imagenet_norm: Normalise colours as VGG-19 was trained.
        input_range: What images are multiplied by without ``imagenet_norm``.
        distance: ``l1`` or ``cosine``.

    Raises:
        ValueError: A value that does not exist or does not fit another one.
        DscsrError: There is no file of VGG-19's weights.
        WeightsError: The file is damaged, or of another network.
    """

    def __init__(
        self,
        loss_weight: float = 1.0,
        num_negatives: int = 10,
        exclude_self: bool = False,
        layer_weights: Sequence[float] | None = None,
        features: str = "vgg19",
        vgg_weights: str = "imagenet",
        imagenet_norm: bool = True,
        input_range: float = 1.0,
        distance: str = "l1",
    ) -> None:
        super().__init__()
        check_choice("distance", distance, DISTANCES)
        check_choice("features", features, FEATURES)
        if isinstance(num_negatives, bool) or not isinstance(num_negatives, int) or num_negatives < 1:
            raise ValueError(f"Expected `num_negatives` to be a whole number of at least 1, but got {num_negatives!r}.")
        if layer_weights is not None:
            _check_layer_weights(layer_weights, features)
        elif features == "vgg19":
            layer_weights = LAYER_WEIGHTS
        self.loss_weight = loss_weight
        self.num_negatives = num_negatives
        self.exclude_self = exclude_self
        self.layer_weights = layer_weights
        self.distance = distance
        self.vgg: VGG19Features | None = None
        if features == "vgg19":
            self.vgg = VGG19Features(vgg_weights, imagenet_norm=imagenet_norm, input_range=input_range)

    def forward(
        self, student: Tensor, teacher: Tensor, negatives: Tensor, sources: Sequence[int] | None = None
    ) -> Tensor:
        """Compare images (B, 3, H, W) of student and teacher and negatives (K, 3, H, W) in [0, 1], RGB, by VGG-19.

        ``sources`` and what is raised are those of `compare`; without VGG-19 (``features: teacher``) a ValueError is.
        """
        if self.vgg is None:
            raise ValueError(
                "Expected `features: vgg19` to compare images, but got `features: teacher`. Call `compare` instead."
            )
        with torch.no_grad():
            of_teacher, of_negatives = self.vgg(teacher), self.vgg(negatives)
        return self.compare(self.vgg(student), of_teacher, of_negatives, sources)

    def compare(
        self,
        student: Sequence[Tensor],
        teacher: Sequence[Tensor],
        negatives: Sequence[Tensor],
        sources: Sequence[int] | None = None,
    ) -> Tensor:
        """Compare features that are there already, layer by layer; see `functional.contrastive_loss`.

        Args:
            student: (B, …) per layer; it alone gets a gradient.
            teacher: (B, …) per layer.
            negatives: (K, …) per layer, of images that `draw_negatives` gives.
            sources: The sample that each negative was made from; needed for ``exclude_self``, unused without.

        Returns:
            A scalar; the layers are weighted and so is the whole.

        Raises:
            ValueError: No ``sources`` though they are needed, or what `functional.contrastive_loss` says.
        """
        if self.exclude_self and sources is None:
            raise ValueError("Expected `sources` of the negatives, as `exclude_self: true`, but got None.")
        return self.loss_weight * contrastive_loss(
            student,
            teacher,
            negatives,
            layer_weights=(1.0,) * len(student) if self.layer_weights is None else self.layer_weights,
            sources=sources if self.exclude_self else None,
            distance=self.distance,
        )

    @torch.no_grad()
    def draw_negatives(self, lq: Tensor, size: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Choose LR images of the batch ``lq`` (B, C, h, w), by the global generator, and enlarge them.

        Returns:
            (K, C, *size), bicubic and not clipped, and the K different indices of the images in ``lq``.

        Raises:
            ValueError: Fewer images than negatives.
        """
        if len(lq) < self.num_negatives:
            raise ValueError(
                f"Expected a batch of at least {self.num_negatives} (`num_negatives`), but got {len(lq)}. "
                "Take a larger batch on each GPU, fewer `accumulate_steps`, or fewer negatives."
            )
        sources = torch.randperm(len(lq))[: self.num_negatives].tolist()
        chosen = torch.stack([lq[index] for index in sources])  # lq[sources] would wait for a GPU
        enlarged = F.interpolate(chosen, size=tuple(size), mode="bicubic", align_corners=False)
        return enlarged, sources


def _check_layer_weights(layer_weights: Sequence[float], features: str) -> None:
    numbers = isinstance(layer_weights, (list, tuple)) and all(
        isinstance(weight, (int, float)) and math.isfinite(weight) for weight in layer_weights
    )
    if not numbers:
        raise ValueError(f"Expected `layer_weights` to be a list of numbers, but got {layer_weights!r}.")
    if features == "vgg19" and len(layer_weights) != len(LAYERS):
        raise ValueError(
            f"Expected {len(LAYERS)} `layer_weights`, for {', '.join(LAYERS)}, but got {len(layer_weights)}."
        )

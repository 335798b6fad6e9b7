"""The contrast of a step of CSD: all students beside one teacher and the same negatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def contrastive_terms(
    loss: Any,
    features: Callable[[Tensor], list[Tensor]],
    students: Mapping[float, Tensor],
    teacher: Tensor,
    lq: Tensor,
) -> dict[float, Tensor]:
    """The contrastive loss of each student; features of teacher and negatives are computed once for all of them.

    Args:
        loss: A ContrastiveLoss.
        features: Maps images to feature maps, one per layer.
        students: Width to output (B, C, H, W) in [0, 1].
        teacher: (B, C, H, W), without a graph.
        lq: (B, C, h, w), of which the negatives are made.

    Returns:
        Width to scalar.
    """
    negatives, sources = loss.draw_negatives(lq, teacher.shape[-2:])
    with torch.no_grad():
        known = features(torch.cat((teacher, negatives.to(teacher.dtype))))
    batch = len(teacher)
    positive, negative = [layer[:batch] for layer in known], [layer[batch:] for layer in known]
    return {width: loss.compare(features(output), positive, negative, sources) for width, output in students.items()}

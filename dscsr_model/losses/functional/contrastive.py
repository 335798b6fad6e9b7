"""Contrast: features of the student near those of the teacher, and far from those of negatives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dscsr_arch.no_autocast import no_autocast
from dscsr_model.losses.functional.arguments import check_choice
from dscsr_model.losses.functional.one_pass import attach_gradients

DISTANCES = ("l1", "cosine")
LAYER_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)  # of VGG-19's relu1_1 … relu5_1
_EPS = 1e-7  # of the original, against a division by zero
# Elements compared at a time: on a CPU about what its cache holds (4 MiB in float32; with fewer, threads would wait for
# each other on a busy machine), elsewhere what fills the device.
_ELEMENTS_ON_CPU, _ELEMENTS_ELSEWHERE = 2**20, 2**25


def contrastive_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    negatives: Sequence[Tensor],
    *,
    layer_weights: Sequence[float] = LAYER_WEIGHTS,
    sources: Sequence[int] | None = None,
    distance: str = "l1",
) -> Tensor:
    r"""Contrastive loss of CSD (arXiv 2105.11683) between features φ_i of one or several layers i.

    .. math:: L = \sum_i c_i \frac{d(\phi_i(t), \phi_i(s))}{\sum_k d(\phi_i(n_k), \phi_i(s)) + 10^{-7}}

    Every sample meets its teacher and all K negatives. The distance d of two batches is the mean over the samples,
    of the mean absolute difference (``l1``, as published) or of one minus the cosine of the angle between the whole
    feature maps (``cosine``; not that of the official code, which compares along the batch and can become negative).

    The pairs of samples and negatives are never put beside each other: |s − n_k| and its sign are added up one
    negative at a time, value and gradient in one pass. Memory: O(B·C·H·W).

    Args:
        student: Features of each layer, (B, …), floating point, any range.
        teacher: The same layers of the teacher, same shapes. They get no gradient.
        negatives: The same layers of the negatives, (K, …); K need not be B. They get no gradient.
        layer_weights: c_i, one per layer.
        sources: For each negative, the index of the sample that it was made from: this pair is left out, and the
            negative's distance is the mean over the other samples. None compares all.
        distance: ``l1`` or ``cosine``.

    Returns:
        A scalar in float32, or in float64 if the student's features are; the computation is in that dtype, under
        autocast too. It can be differentiated once, with respect to ``student``.

    Raises:
        ValueError: Shapes or numbers that do not belong together, or an unknown ``distance``.

    Example:
        >>> student, teacher, negatives = ([torch.rand(n, 8, 4, 4)] for n in (2, 2, 10))
        >>> contrastive_loss(student, teacher, negatives, layer_weights=[1.0]).shape
        torch.Size([])
    """
    check_choice("distance", distance, DISTANCES)
    _check_layers(student, teacher, negatives, layer_weights, sources)
    compare = _l1_ratio if distance == "l1" else _cosine_ratio
    terms = []
    with no_autocast(student[0].device):
        for weight, features in zip(layer_weights, zip(student, teacher, negatives, strict=True), strict=True):
            terms.append(weight * compare(*_rows(*features), sources))
        return torch.stack(terms).sum()


def _check_layers(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    negatives: Sequence[Tensor],
    layer_weights: Sequence[float],
    sources: Sequence[int] | None,
) -> None:
    counts = {len(student), len(teacher), len(negatives), len(layer_weights)}
    if len(counts) > 1 or not student:
        raise ValueError(
            "Expected the same layers of student, teacher and negatives and a weight for each, but got "
            f"{len(student)}, {len(teacher)}, {len(negatives)} layers and {len(layer_weights)} `layer_weights`."
        )
    for index, (s, t, n) in enumerate(zip(student, teacher, negatives, strict=True)):
        if s.shape != t.shape or s.shape[1:] != n.shape[1:] or 0 in s.shape or 0 in n.shape or s.ndim < 2:
            raise ValueError(
                f"Expected features (B, …) of student and teacher and (K, …) of the negatives, but got {tuple(s.shape)}"
                f", {tuple(t.shape)} and {tuple(n.shape)} in layer {index}. Give images of one size."
            )
    if sources is not None and len(student[0]) == 1:
        raise ValueError(
            "Expected another sample beside the one that a negative was made from, but got a batch of one. "
            "Take a larger batch, or compare all (`exclude_self: false`)."
        )


def _rows(student: Tensor, teacher: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features of one layer, flattened: (B, D), (B, D) and (K, D), with columns in any order that all three share."""
    dtype = torch.promote_types(student.dtype, torch.float32)
    features = [student.to(dtype), teacher.detach().to(dtype), negatives.detach().to(dtype)]
    if student.ndim == 4 and not student.is_contiguous():  # channels_last is flattened as it lies in memory
        features = [feature.permute(0, 2, 3, 1) for feature in features]
    student, teacher, negatives = (feature.flatten(1) for feature in features)
    return student, teacher, negatives


def _l1_ratio(student: Tensor, teacher: Tensor, negatives: Tensor, sources: Sequence[int] | None) -> Tensor:
    """``mean|t − s| / (Σ_k mean|n_k − s| + eps)``, differentiable for s."""
    wanted = torch.is_grad_enabled() and student.requires_grad
    with torch.no_grad():
        towards = student - teacher
        near = towards.abs().mean()
        far, away = _sum_of_distances(student, negatives, sources, wanted)
        value, gradient = near / (far + _EPS), None
        if away is not None:
            # d(near/far) = dnear/far − near/far² · dfar
            gradient = towards.sign_().div_(towards.numel()).sub_(away.mul_(value)).div_(far + _EPS)
    return attach_gradients(value, (student,), (gradient,), "ContrastiveLoss")


def _sum_of_distances(
    student: Tensor, negatives: Tensor, sources: Sequence[int] | None, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """``Σ_k mean|s − n_k|`` and, if wanted, its gradient, one negative and a few columns at a time."""
    samples, elements = len(student), student.numel()
    # A negative that skips a sample has one sample less to take the mean over.
    share = 1 / elements if sources is None else samples / max(samples - 1, 1) / elements
    width = max(1, (_ELEMENTS_ON_CPU if student.is_cpu else _ELEMENTS_ELSEWHERE) // samples)
    pieces = student.split(width, dim=1)
    room = pieces[0].numel()
    differences, magnitudes = student.new_empty(room), student.new_empty(room)
    sums = student.new_empty(len(pieces), len(negatives))
    away = torch.zeros_like(student) if wanted else None
    for index, piece in enumerate(pieces):
        columns = slice(index * width, index * width + piece.shape[1])
        difference, magnitude = (flat[: piece.numel()].view(piece.shape) for flat in (differences, magnitudes))
        for k, negative in enumerate(negatives[:, columns]):
            torch.sub(piece, negative, out=difference)
            if sources is not None:
                difference[sources[k]] = 0
            torch.sum(torch.abs(difference, out=magnitude), (0, 1), out=sums[index, k])
            if away is not None:
                away[:, columns].add_(difference.sign_(), alpha=share)
    return sums.sum() * share, away


def _cosine_ratio(student: Tensor, teacher: Tensor, negatives: Tensor, sources: Sequence[int] | None) -> Tensor:
    """The ratio of cosine distances; one matrix product has those to all negatives."""
    student, teacher, negatives = (F.normalize(rows, dim=1) for rows in (student, teacher, negatives))
    near = 1 - (student * teacher).sum(1).mean()
    distances = 1 - student @ negatives.T
    met = torch.ones_like(distances)
    for k, source in enumerate(sources or ()):
        met[source, k] = 0
    return near / (((distances * met).sum(0) / met.sum(0)).sum() + _EPS)

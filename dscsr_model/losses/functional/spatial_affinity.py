"""Spatial affinity: how alike a network finds any two of its positions, compared between two networks."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from dscsr_arch.no_autocast import no_autocast
from dscsr_model.losses.functional.arguments import REDUCTIONS, check_features
from dscsr_model.losses.functional.one_pass import attach_gradients

# Rows of the affinity matrices computed at a time. Fewer make thin, slow products; more, blocks beyond the cache.
_BLOCK = 512
# Elements of one tile: on a CPU about what its cache holds (4 MiB in float32; many small tiles would be as fast, but
# their threads would wait for each other on a busy machine), elsewhere what fills the device (128 MiB).
_TILE_ON_CPU, _TILE_ELSEWHERE = 2**20, 2**25


def spatial_affinity_loss(
    student: Tensor, teacher: Tensor, *, normalize: bool = True, reduction: str = "mean", pool: int = 1
) -> Tensor:
    r"""Distance of two feature maps by how alike each of them finds any two of its positions.

    .. math:: L = \frac{1}{B N^2} \sum_{b,i,j} |\hat s_{bi} \cdot \hat s_{bj} - \hat t_{bi} \cdot \hat t_{bj}|

    over all N = H·W positions i and j, where a hat divides by the length of the vector over the channels (by
    1e-12 if that is longer, as `torch.nn.functional.normalize` does). From DSCLoRA (arXiv 2504.11271), L_AD of one
    layer; the idea is FAKD's (ICIP 2020).

    The N×N matrices never exist. They are computed tile by tile, on and above the diagonal only, since they are
    symmetric; of each tile of differences D the value takes Σ|D| and the gradient F·sign(D), in one pass.
    Memory: O(B·C·N) and one tile of at most 512 × N per sample.

    Args:
        student: (B, C_s, H, W), floating point, any range.
        teacher: (B, C_t, H, W); C_t may differ. It gets a gradient too if it requires one.
        normalize: Compare directions only; False compares products of the features as they are.
        reduction: ``mean`` (the formula) or ``sum``.
        pool: Side of the squares averaged before; 1 for none. Rows and columns left over are not used.

    Returns:
        A scalar in float32, or in float64 if an input is; the computation is in that dtype, under autocast too. It
        can be differentiated once.

    Raises:
        ValueError: Shapes that do not belong together, too small ones for ``pool``, or an unknown ``reduction``.

    Example:
        >>> student, teacher = torch.rand(2, 26, 16, 16, requires_grad=True), torch.rand(2, 48, 16, 16)
        >>> spatial_affinity_loss(student, teacher).backward()
        >>> student.grad.shape
        torch.Size([2, 26, 16, 16])
    """
    check_affinity_arguments(reduction, pool)
    _check_affinity_inputs(student, teacher, pool)
    with no_autocast(student.device):
        dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
        total = _affinity_distance(*(_positions(each.to(dtype), normalize, pool) for each in (student, teacher)))
        pairs = len(student) * (student.shape[2] // pool * (student.shape[3] // pool)) ** 2
        return total if reduction == "sum" else total / pairs


def check_affinity_arguments(reduction: str, pool: int) -> None:
    """Raise a ValueError for a ``reduction`` or ``pool`` that `spatial_affinity_loss` does not know."""
    if reduction not in REDUCTIONS:
        raise ValueError(
            f"Expected `reduction` to be one of {REDUCTIONS}, but got {reduction!r}. "
            "(`none` would be the N×N matrices that are never made.)"
        )
    if isinstance(pool, bool) or not isinstance(pool, int) or pool < 1:
        raise ValueError(f"Expected `pool` to be a whole number of at least 1, but got {pool!r}.")


def _check_affinity_inputs(student: Tensor, teacher: Tensor, pool: int) -> None:
    check_features(student, teacher)
    if min(student.shape[2:]) < pool:
        shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise ValueError(f"Expected features of at least {pool}×{pool} (`pool`), but got {shapes}. Pool less.")


def _positions(feature: Tensor, normalize: bool, pool: int) -> Tensor:
    """A vector per position: (B, C, N)."""
    vectors = (F.avg_pool2d(feature, pool) if pool > 1 else feature).flatten(2)
    return F.normalize(vectors, dim=1) if normalize else vectors


def _affinity_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Σ|SᵀS − TᵀT| over all samples and pairs of positions, differentiable."""
    wanted = [torch.is_grad_enabled() and vectors.requires_grad for vectors in (student, teacher)]
    channels = student.shape[1], teacher.shape[1]
    # One product gives the difference of both: [S; T]ᵀ [S; −T] = SᵀS − TᵀT. Its gradient is 2 [S; −T] sign(D).
    with torch.no_grad():
        left, right = torch.cat((student, teacher), 1), torch.cat((student, -teacher), 1)
        first = 0 if wanted[0] else channels[0]
        last = sum(channels) if wanted[1] else channels[0]
        value, gradient = _tiled_distance(left, right, right[:, first:last])
    gradients: list[Tensor | None] = [None, None]
    if wanted[0]:
        gradients[0] = gradient[:, : channels[0]]
    if wanted[1]:
        gradients[1] = gradient[:, -channels[1] :]
    return attach_gradients(value, (student, teacher), gradients, "SpatialAffinityLoss")


def _tiled_distance(left: Tensor, right: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Σ|D| and 2·F·sign(D) for the symmetric D = LᵀR, given L, R (B, C, N) and F (B, C', N); C' may be 0."""
    gradient = torch.zeros_like(factor)
    batch, _, positions = left.shape
    tiles = list(_tiles(batch, positions, left.is_cpu))
    # All memory is taken once. Small tensors made between large ones that come and go would leave the allocator of a
    # CPU with holes too small for the next large one: gigabytes of them.
    sums = left.new_empty(len(tiles))
    shapes = [[part.stop - part.start for part in tile] for tile in tiles]
    room = max(map(math.prod, shapes))
    differences, magnitudes = left.new_empty(room), left.new_empty(room)
    for index, (samples, rows, columns) in enumerate(tiles):
        elements = math.prod(shapes[index])
        signs = differences[:elements].view(shapes[index])
        torch.bmm(left[samples, :, rows].mT, right[samples, :, columns], out=signs)
        torch.sum(torch.abs(signs.view(-1), out=magnitudes[:elements]), 0, out=sums[index])
        diagonal = rows == columns
        if not diagonal:
            sums[index] *= 2
        if factor.shape[1]:
            signs.sign_()
            gradient[samples, :, columns].baddbmm_(factor[samples, :, rows], signs)
            if not diagonal:
                gradient[samples, :, rows].baddbmm_(factor[samples, :, columns], signs.mT)
    return sums.sum(), gradient.mul_(2)


def _tiles(batch: int, positions: int, on_cpu: bool) -> Iterator[tuple[slice, slice, slice]]:
    """Samples, rows and columns of tiles that cover the upper half; on the diagonal, rows == columns."""
    elements = _TILE_ON_CPU if on_cpu else _TILE_ELSEWHERE
    block = min(_BLOCK, positions)
    group = min(batch, max(1, elements // (block * positions)))
    width = min(positions, max(block, elements // (block * group)))
    for sample in range(0, batch, group):
        samples = slice(sample, min(sample + group, batch))
        for row in range(0, positions, block):
            rows = slice(row, min(row + block, positions))
            yield samples, rows, rows
            for column in range(rows.stop, positions, width):
                yield samples, rows, slice(column, min(column + width, positions))

"""Geometry of voxel lattices: flat indices, coarse lattices, interpolation and dilation on them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
import torch.nn.functional as F

Shape = tuple[int, int, int]
Axes = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

_ROWS_AT_ONCE = 32


def to_points(flat: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Voxel indices `[N, 3]` (int64) of the flat, row-major indices `[N]` into a volume of `shape` (H, W, D)."""
    _, width, depth = shape
    row = flat // depth
    return torch.stack((row // width, row % width, flat % depth), dim=-1)


def to_flat(points: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Flat, row-major indices `[N]` of the voxel indices `[N, 3]` into a volume of `shape` (H, W, D)."""
    _, width, depth = shape
    return (points[:, 0] * width + points[:, 1]) * depth + points[:, 2]


def neighbour_offsets(shape: Sequence[int]) -> list[int]:
    """Differences of flat index between a voxel and its 26 neighbours, in a volume of `shape` (H, W, D)."""
    _, width, depth = shape
    steps = product((-1, 0, 1), repeat=3)
    return [(i * width + j) * depth + k for i, j, k in steps if (i, j, k) != (0, 0, 0)]


def coarse_axis(size: int, step: int, device: torch.device) -> torch.Tensor:
    """Every `step`-th index of an axis and its last one, so that no part of the volume lies beyond the lattice."""
    indices = torch.arange(0, size, step, device=device)
    last = indices.new_tensor([size - 1])
    return indices if int(indices[-1]) == size - 1 else torch.cat((indices, last))


def halved_axis(axis: torch.Tensor) -> torch.Tensor:
    """The indices of a lattice axis and those half-way between them: ascending, each once."""
    return torch.unique(torch.cat((axis, (axis[:-1] + axis[1:]) // 2)))


def flat_of_lattice(axes: Axes, mask: torch.Tensor | None, shape: Sequence[int]) -> torch.Tensor:
    """Flat voxel indices `[N]` of the lattice points where `mask` (a Boolean per lattice point; None: all) is set."""
    _, width, depth = shape
    rows, columns, slices = axes
    flat = (rows[:, None, None] * width + columns[:, None]) * depth + slices
    return flat.flatten() if mask is None else flat[mask]


def interpolate_axis(values: torch.Tensor, axis: int, positions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Linear interpolation along one axis, constant beyond its ends.

    Args:
        values: samples, any shape.
        axis: the axis of `values` to resample.
        positions: where the samples lie `[S]`, ascending.
        targets: where values are wanted `[T]`, in the same units.

    Returns:
        `values` with T instead of S entries along `axis`.
    """
    positions, targets = positions.to(torch.float32), targets.to(torch.float32)
    if len(positions) == 1:
        return values.index_select(axis, torch.zeros_like(targets, dtype=torch.int64))
    upper = torch.searchsorted(positions, targets).clamp_(1, len(positions) - 1)
    lower = upper - 1
    weight = ((targets - positions[lower]) / (positions[upper] - positions[lower])).clamp_(0, 1)
    weight = weight.view([-1 if a == axis % values.ndim else 1 for a in range(values.ndim)])
    return torch.lerp(values.index_select(axis, lower), values.index_select(axis, upper), weight)


def fill_from_lattice(out: torch.Tensor, margin: torch.Tensor, axes: Axes) -> None:
    """Sets `out` `[R, H, W, D]` to 1 where the trilinear interpolation of `margin` is positive, elsewhere to 0.

    Args:
        out: the volume to fill.
        margin: signed values at the lattice points `[R, h, w, d]`, positive inside.
        axes: voxel indices of the lattice along H, W and D.
    """
    _, height, width, depth = out.shape
    # Row by row, the rows first: the other axes grow the data most, and no float copy of the whole volume is made.
    for rows in torch.arange(height, device=margin.device).split(_ROWS_AT_ONCE):
        part = interpolate_axis(margin, 1, axes[0], rows)
        for axis, size in ((2, width), (3, depth)):
            part = interpolate_axis(part, axis, axes[axis - 1], torch.arange(size, device=margin.device))
        start = int(rows[0])
        out[:, start : start + len(rows)] = part > 0


def sample_segmentation(segmentation: torch.Tensor, axes: Axes, shape: Sequence[int]) -> torch.Tensor:
    """Values of a coarse segmentation, trilinearly resized to the image, at the points of a lattice.

    A segmentation finer than the lattice is max pooled first, so that no small object falls between two points.

    Args:
        segmentation: probabilities `[R, h, w, d]` that span the same space as the image.
        axes: voxel indices of the lattice along H, W and D.
        shape: size of the image (H, W, D).

    Returns:
        Probabilities at the lattice points, `[R, len(axes[0]), len(axes[1]), len(axes[2])]`.
    """
    sizes = [min(given, len(axis)) for given, axis in zip(segmentation.shape[1:], axes, strict=True)]
    values = F.adaptive_max_pool3d(segmentation, sizes)
    for i, (axis, size) in enumerate(zip(axes, shape, strict=True)):
        cells = torch.arange(sizes[i], device=values.device)
        centres = (cells + 0.5) * (size / sizes[i]) - 0.5  # the frame of interpolate(align_corners=False)
        values = interpolate_axis(values, i + 1, centres, axis)
    return values


def dilate(mask: torch.Tensor, radius: int) -> torch.Tensor:
    """Dilates a Boolean tensor over its last three axes by a cube of side 2 * `radius` + 1."""
    for axis in (-3, -2, -1):
        grown = mask.clone()
        size = mask.shape[axis]
        for shift in range(1, min(radius, size - 1) + 1):
            grown.narrow(axis, shift, size - shift).logical_or_(mask.narrow(axis, 0, size - shift))
            grown.narrow(axis, 0, size - shift).logical_or_(mask.narrow(axis, shift, size - shift))
        mask = grown
    return mask

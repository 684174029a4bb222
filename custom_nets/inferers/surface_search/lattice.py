"""Geometry of voxel lattices: flat indices, coarse and finer lattices, interpolation and dilation on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

Shape = tuple[int, int, int]
Axes = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

_ROWS_AT_ONCE = 32
_CELLS_AT_ONCE = 1 << 15
_VALUES_AT_ONCE = 1 << 22


def to_points(flat: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Voxel indices `[N, 3]` (int64) of the flat, row-major indices `[N]` into a volume of `shape` (H, W, D)."""
    _, width, depth = shape
    row = flat // depth
    return torch.stack((row // width, row % width, flat % depth), dim=-1)


def to_flat(points: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Flat, row-major indices `[N]` of the voxel indices `[N, 3]` into a volume of `shape` (H, W, D)."""
    _, width, depth = shape
    return (points[:, 0] * width + points[:, 1]) * depth + points[:, 2]


def face_offsets(shape: Sequence[int]) -> list[int]:
    """Differences of flat index between a voxel and its six face neighbours, in a volume of `shape` (H, W, D)."""
    _, width, depth = shape
    return [-width * depth, -depth, -1, 1, depth, width * depth]


def coarse_axis(size: int, step: int, device: torch.device) -> torch.Tensor:
    """Every `step`-th index of an axis and its last one, so that no part of the volume lies beyond the lattice."""
    indices = torch.arange(0, size, step, device=device)
    last = indices.new_tensor([size - 1])
    return indices if int(indices[-1]) == size - 1 else torch.cat((indices, last))


def thinned_axis(axis: torch.Tensor, every: int) -> torch.Tensor:
    """Every `every`-th index of a lattice axis, and its last one."""
    return torch.unique(torch.cat((axis[::every], axis[-1:])))


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


def refine_lattice(values: torch.Tensor, axes: Axes, finer: Axes) -> torch.Tensor:
    """Trilinear interpolation of finite values `[R, h, w, d]` on a lattice at the points of one that contains it."""
    rows, *sides = finer
    result = values.new_empty(len(values), len(rows), *map(len, sides))
    interpolate = _interpolation(values)
    # Some rows at a time: what is half interpolated is never another volume.
    at_once = max(1, _VALUES_AT_ONCE // max(result[:, :1].numel(), 1))
    for part, wanted in zip(result.split(at_once, dim=1), rows.split(at_once), strict=True):
        between = interpolate(values, 1, axes[0], wanted)
        for axis, (given, target) in enumerate(zip(axes[1:], sides, strict=True), start=2):
            between = interpolate(between, axis, given, target)
        part.copy_(between)
    return result


def _interpolation(values: torch.Tensor) -> Callable[..., torch.Tensor]:
    """Returns the faster way to interpolate finite values where they lie."""
    return _interpolate_by_products if values.is_cpu else interpolate_axis


def _interpolate_by_products(
    values: torch.Tensor, axis: int, positions: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """`interpolate_axis` of finite values as a matrix product: several times as fast on a CPU, exact at the samples."""
    identity = torch.eye(len(positions), dtype=values.dtype)
    matrix = interpolate_axis(identity, 0, positions, targets)  # [T, S]
    with torch.autocast("cpu", enabled=False):
        return (matrix @ values.movedim(axis, -2)).movedim(-2, axis)


def fill_from_lattice(out: torch.Tensor, margin: torch.Tensor, axes: Axes) -> torch.Tensor:
    """Sets `out` to 1 where the trilinear interpolation of `margin` is positive.

    Only cells whose corners differ in sign are interpolated; the others are filled with what their corners are. So the
    work grows with the surface, but for the filling itself.

    Args:
        out: volume of zeros to fill `[R, H, W, D]`.
        margin: signed values at the lattice points `[R, h, w, d]`, positive inside.
        axes: voxel indices of the lattice along H, W and D, from the first voxel to the last.

    Returns:
        Flat indices `[N]` of the voxels of those cells, in no order; those that cells share appear several times. Any
        two face neighbours that differ in `out` are among them.
    """
    inside = margin > 0
    _fill_cells(out, inside, axes)
    voxels = out.view(len(out), -1)
    found = [axes[0].new_empty(0)]
    for cells in _mixed_cells(inside).nonzero().split(_CELLS_AT_ONCE):
        flat, values = _interpolate_cells(margin, axes, cells, out.shape[1:])
        voxels[:, flat] = (values > 0).to(out.dtype)
        found.append(flat)
    return torch.cat(found)


def _fill_cells(out: torch.Tensor, inside: torch.Tensor, axes: Axes) -> None:
    """Gives every voxel what the lower corner of its cell is: right for all cells but the mixed ones."""
    box, lower = [], []
    for axis, (indices, size) in enumerate(zip(axes, out.shape[1:], strict=True), start=1):
        others = [a for a in range(4) if a != axis]
        occupied = inside.any(dim=others[2]).any(dim=others[1]).any(dim=others[0]).nonzero()
        if len(occupied) == 0:
            return
        start, last = int(indices[occupied[0]]), int(occupied[-1]) + 1
        stop = int(indices[last]) if last < len(indices) else size
        box.append((start, stop))
        targets = torch.arange(start, stop, device=indices.device)
        lower.append(torch.searchsorted(indices, targets, right=True) - 1)
    (top, bottom), *sides = box
    inner = inside[:, :, lower[1]][:, :, :, lower[2]]
    # Some rows at a time: no second volume is made.
    for start in range(top, bottom, _ROWS_AT_ONCE):
        rows = lower[0][start - top : start - top + _ROWS_AT_ONCE]
        target = out[:, start : start + len(rows), sides[0][0] : sides[0][1], sides[1][0] : sides[1][1]]
        target.copy_(inner[:, rows])


def _mixed_cells(inside: torch.Tensor) -> torch.Tensor:
    """The cells of a lattice `[h - 1, w - 1, d - 1]` whose corners are not all alike in some region.

    An axis of one point counts as one cell.
    """
    every, some = inside, inside
    for axis in (1, 2, 3):
        count = max(inside.shape[axis] - 1, 1)
        start = inside.shape[axis] - count
        every = every.narrow(axis, 0, count) & every.narrow(axis, start, count)
        some = some.narrow(axis, 0, count) | some.narrow(axis, start, count)
    return (some & ~every).any(dim=0)


def _interpolate_cells(
    margin: torch.Tensor, axes: Axes, cells: torch.Tensor, shape: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Flat indices `[N]` and trilinear values `[R, N]` of all voxels of some cells `[M, 3]`, their faces included."""
    ends, positions, shares = [], [], []
    for axis, indices in enumerate(axes):
        lower = cells[:, axis]
        upper = (lower + 1).clamp(max=len(indices) - 1)
        first, last = indices[lower], indices[upper]
        gap = int((indices[1:] - indices[:-1]).max()) if len(indices) > 1 else 0
        steps = torch.arange(gap + 1, device=indices.device)
        position = torch.minimum(first[:, None] + steps, last[:, None])  # [M, gap + 1]
        ends.append(torch.stack((lower, upper), dim=1))
        positions.append(position)
        shares.append((position - first[:, None]) / (last - first).clamp(min=1)[:, None])
    rows, columns, slices = ends
    values = margin[:, rows[:, :, None, None], columns[:, None, :, None], slices[:, None, None, :]]  # [R, M, 2, 2, 2]
    for axis, share in enumerate(shares, start=2):
        low, high = values.split(1, dim=axis)
        weight = share.view(len(share), *(share.shape[1] if a == axis else 1 for a in range(2, 5)))
        values = torch.lerp(low, high, weight.to(values.dtype))
    height, width, depth = positions
    flat = (height[:, :, None, None] * shape[1] + width[:, None, :, None]) * shape[2] + depth[:, None, None, :]
    return flat.flatten(), values.flatten(1)


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
    # A NaN is inside nothing; in a product it would spread over the whole axis.
    values = F.adaptive_max_pool3d(segmentation, sizes).nan_to_num(nan=0.0)
    interpolate = _interpolation(values)
    for i, (axis, size) in enumerate(zip(axes, shape, strict=True)):
        cells = torch.arange(sizes[i], device=values.device)
        centres = (cells + 0.5) * (size / sizes[i]) - 0.5  # the frame of interpolate(align_corners=False)
        values = interpolate(values, i + 1, centres, axis)
    return values


def dilate(mask: torch.Tensor, radius: int | Shape) -> torch.Tensor:
    """Dilates a Boolean tensor over its last three axes by a box of sides 2 * `radius` + 1, one radius or three."""
    radii = (radius,) * 3 if isinstance(radius, int) else radius
    for axis, reach in zip((-3, -2, -1), radii, strict=True):
        grown = mask.clone()
        size = mask.shape[axis]
        for shift in range(1, min(reach, size - 1) + 1):
            grown.narrow(axis, shift, size - shift).logical_or_(mask.narrow(axis, 0, size - shift))
            grown.narrow(axis, 0, size - shift).logical_or_(mask.narrow(axis, shift, size - shift))
        mask = grown
    return mask

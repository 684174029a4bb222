"""The geometry of the occupancy networks for tracers: plain operations on sizes that are not known yet.

The forms that are run otherwise are faster, but decide by the values of points, count in Python, or are made of
operations that ONNX lacks. These here hold for every size, batch and device. The functions are written so that
`torch.jit.script` understands them: under `torch.jit.trace` they go into the graph as code (a trace of them would keep
its example's device), under `torch.export` their operations are recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

_Function = TypeVar("_Function", bound=Callable)

_is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)  # PyTorch before 2.7


def is_exporting() -> bool:
    """Whether `torch.export` is recording."""
    return _is_exporting()


def is_traced() -> bool:
    """Whether `torch.export` or `torch.jit.trace` is recording: the graph must then hold for other inputs too."""
    return torch.jit.is_tracing() or is_exporting()


def _scripted_when_traced(function: _Function) -> _Function:
    return torch.jit.script_if_tracing(function)


@_scripted_when_traced
def resize_plainly(volume: Tensor, grid: list[int]) -> Tensor:
    """`resize_to_grid` of `[B, C, H, W, D]`, as one matrix product an axis."""
    volume = volume @ _resizing_matrix(volume.size(4), grid[2], volume).t()
    volume = (volume.transpose(3, 4) @ _resizing_matrix(volume.size(3), grid[1], volume).t()).transpose(3, 4)
    return (volume.transpose(2, 4) @ _resizing_matrix(volume.size(2), grid[0], volume).t()).transpose(2, 4)


@_scripted_when_traced
def downsample_plainly(volume: Tensor, lengths: list[int], parts: int) -> Tensor:
    """Resizes an image `[B, C, H, W, D]` to whole cells, each divided into `parts` along each axis.

    Args:
        volume: the image.
        lengths: of a cell along each axis, in thousandths of a voxel.
        parts: of a cell.
    """
    grid: list[int] = []
    for axis in range(3):
        # Rounded up, but for a thousandth of a cell; of positive numbers, as ONNX rounds towards 0.
        cells = (volume.size(axis + 2) * 1000 - lengths[axis] // 1000 + lengths[axis] - 1) // lengths[axis]
        grid.append(cells * parts)
    return resize_plainly(volume, grid)


@_scripted_when_traced
def downsample_in_mm_plainly(volume: Tensor, spacing: Tensor, lengths: list[float], parts: int) -> Tensor:
    """Likewise to cells of lengths in mm, of an image whose items have the spacing `[B, 3]`."""
    grid: list[int] = []
    for axis in range(3):
        extent = volume.size(axis + 2) * spacing[:, axis].amax(dim=0)
        count = (extent / lengths[axis] - 1e-3).ceil().clamp(min=1).long()
        cells = int(count) if torch.jit.is_scripting() else _unknown_number(count)
        grid.append(cells * parts)
    return resize_plainly(volume, grid)


def _unknown_number(count: Tensor) -> int:
    """A number of at least 1 that `torch.export` does not know yet."""
    number: Any = count.item()
    torch._check(number >= 1)
    return number


def _resizing_matrix(size: int, cells: int, like: Tensor) -> Tensor:
    """Weights `[cells, size]` of the voxels in each cell: their mean, or trilinear where voxels are fewer."""
    cell = torch.arange(cells, device=like.device)[:, None]
    voxel = torch.arange(size, device=like.device)[None]
    # The cells of adaptive pooling.
    first, end = cell * size // cells, ((cell + 1) * size + cells - 1) // cells
    mean = ((voxel >= first) & (voxel < end)).to(like.dtype) / (end - first)
    position = ((cell + 0.5) * size / cells - 0.5).clamp(0, size - 1)
    linear = (1 - (position - voxel).abs()).clamp(min=0)
    # A condition on numbers in tensors stays open, one on sizes would be decided while tracing.
    return torch.where((cell + 1) * size >= (cell + 1) * cells, mean, linear.to(like.dtype))


@_scripted_when_traced
def sample_plainly(level: Tensor, shares: Tensor) -> Tensor:
    """`sample_features` of one map `[B, h, w, d, F]` at `[B, N, 3]`: `[B, N, F]`."""
    rows = torch.arange(level.size(0), device=shares.device)[:, None, None]
    weights = torch.ones_like(shares[:, :, :1])
    for axis in range(3):
        side = level.size(axis + 1)
        position = (shares[:, :, axis] * side - 0.5).clamp(0, side - 1)
        lower = position.floor()
        cells = torch.stack([lower, (lower + 1).clamp(max=side - 1)], dim=-1).long()
        share = position - lower
        rows = (rows[:, :, :, None] * side + cells[:, :, None]).flatten(2)
        weights = (weights[:, :, :, None] * torch.stack([1 - share, share], dim=-1)[:, :, None]).flatten(2)
    values = level.flatten(0, 3)[rows]  # [B, N, 8, F]
    return (weights.to(level.dtype)[:, :, None] @ values).squeeze(2)


@_scripted_when_traced
def gather_plainly(image: Tensor, cells: Tensor) -> Tensor:
    """Gathers `[B, N, C, s, s, s]` from an image `[B, C, H, W, D]` at indices along each axis `[B, N, 3, s]`.

    Voxels outside the image are 0.
    """
    size = cells.size(3)
    batch, channels = image.size(0), image.size(1)
    index = torch.arange(batch * channels, device=cells.device).view(batch, 1, channels, 1, 1, 1)
    inside = torch.ones_like(index, dtype=torch.bool)
    for axis in range(3):
        side = image.size(axis + 2)
        position = cells[:, :, axis]
        shape = [1, 1, 1]
        shape[axis] = size
        view = [position.size(0), position.size(1), 1, shape[0], shape[1], shape[2]]
        inside = inside & ((position >= 0) & (position < side)).view(view)
        index = index * side + position.clamp(0, side - 1).view(view)
    return image.reshape(-1)[index].masked_fill(~inside, 0)


@_scripted_when_traced
def gather_windows_plainly(image: Tensor, points: Tensor, start: int, size: int) -> Tensor:
    """Gathers `size` voxels an axis from `start` on, seen from the points `[B, N, 3]`: `[B, N, C, s, s, s]`."""
    return gather_plainly(image, points[..., None] + torch.arange(start, start + size, device=points.device))


@_scripted_when_traced
def sample_windows_plainly(image: Tensor, points: Tensor, step: Tensor, size: int) -> Tensor:
    """Samples `[B, N, C, s, s, s]` around points, trilinear, `step` `[B or 1, 3]` voxels apart; 0 outside the image."""
    offsets = torch.arange(size, device=points.device) - size // 2
    along = points.float()[..., None] + step[:, None, :, None] * offsets
    lower = along.floor()
    share = along - lower
    # Both neighbours of every position side by side, and their weights.
    cells = torch.stack([lower, lower + 1], dim=-1).flatten(3).long()
    weight = torch.stack([1 - share, share], dim=-1).flatten(3)[:, :, :, None]
    result = gather_plainly(image, cells)
    result = result * weight[:, :, 0, :, :, None, None]
    result = result[:, :, :, 0::2] + result[:, :, :, 1::2]
    result = result * weight[:, :, 1, :, None, :, None]
    result = result[:, :, :, :, 0::2] + result[:, :, :, :, 1::2]
    result = result * weight[:, :, 2, :, None, None, :]
    return result[:, :, :, :, :, 0::2] + result[:, :, :, :, :, 1::2]


@_scripted_when_traced
def sides_plainly(image: Tensor) -> Tensor:
    """`image_sides` of `[B, C, H, W, D]`: float32 `[3]`."""
    sides = []
    for axis in range(3):
        # A number in a tensor stays open while tracing.
        sides.append(torch.arange(image.size(axis + 2), device=image.device)[-1] + 1)
    return torch.stack(sides).float()


@_scripted_when_traced
def grid_points(image: Tensor, chunk: int) -> Tensor:
    """Every voxel of an image in the order of memory, in whole chunks `[M, chunk, 3]`; the last voxel fills the end."""
    count = image.size(2) * image.size(3) * image.size(4)
    chunks = (count + chunk - 1) // chunk
    flat = torch.arange(chunks * chunk, device=image.device).clamp(max=count - 1).view(chunks, chunk)
    line = flat // image.size(4)
    plane = line // image.size(3)  # no remainders by unknown numbers, which ONNX's converter cannot write
    return torch.stack([plane, line - plane * image.size(3), flat - line * image.size(4)], dim=-1)

"""Local image patches around points: gathering them, and mapping each to a feature vector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from custom_nets.errors import InputError
from custom_nets.networks.export_ops import gather_windows_plainly, is_traced
from custom_nets.networks.pade.activation import PadeActivation

PATCH_SIZE = 7  # voxels a side, of the local and of the pooled mid-range patch
PATCH_FEATURES = PATCH_SIZE**3

# First voxel of the window, relative to the point (OSS-Net, section 3.3): local i-3..i+3, mid-range i-7..i+6.
LOCAL_START = -3
MID_RANGE_START = -7


def gather_local_patches(image: Tensor, points: Tensor) -> Tensor:
    """Gathers the 7x7x7 neighbourhood of each point; voxels outside the image are 0.

    Args:
        image: `[B, C, H, W, D]`.
        points: integer voxel indices `[B, N, 3]`, on the image's device.

    Returns:
        Patches `[B, N, C, 7, 7, 7]` of the image's dtype.
    """
    return gather_neighbourhoods(image, points, LOCAL_START, PATCH_SIZE)


def gather_mid_range_patches(
    image: Tensor, points: Tensor, pooling: str = "mean", pooled: Sequence[Tensor] | None = None
) -> Tensor:
    """Gathers the 14x14x14 neighbourhood of each point, pooled 2x2x2; voxels outside the image are 0.

    Cell k of an axis covers the voxels i-7+2k and i-6+2k.

    Args:
        image: `[B, C, H, W, D]`.
        points: integer voxel indices `[B, N, 3]`, on the image's device.
        pooling: `mean`, or `max` as the published inference has it (its training has the mean).
        pooled: `pool_cells` of each item, for an image that is gathered from again and again.

    Returns:
        Patches `[B, N, C, 7, 7, 7]` of the image's dtype.
    """
    if is_traced():
        windows = gather_windows_plainly(image, points, MID_RANGE_START, 2 * PATCH_SIZE)
        pool = nn.functional.max_pool3d if pooling == "max" else nn.functional.avg_pool3d
        return pool(windows.flatten(0, 1), 2).unflatten(0, points.shape[:2])
    pooled = [pool_cells(item, pooling) for item in image] if pooled is None else pooled
    return _stack([gather_window(p, at, MID_RANGE_START + 1, stride=2) for p, at in zip(pooled, points, strict=True)])


def gather_neighbourhoods(image: Tensor, points: Tensor, start: int, size: int) -> Tensor:
    """Gathers `size` voxels an axis from `start` on, seen from each point; 0 outside the image.

    Shapes: image `[B, C, H, W, D]` and points `[B, N, 3]` to `[B, N, C, size, size, size]`.
    """
    if is_traced():
        return gather_windows_plainly(image, points, start, size)
    return _stack([gather_window(i, p, start, size=size) for i, p in zip(image, points, strict=True)])


def _stack(items: Sequence[Tensor]) -> Tensor:
    """Stacks the items of a batch, one alone without a copy."""
    return items[0][None] if len(items) == 1 else torch.stack(list(items))


def pool_cells(image: Tensor, pooling: str = "mean") -> Tensor:
    """Pools every 2x2x2 cell of an image, whatever voxel it starts at: `[C, H, W, D]` to `[C, H+1, W+1, D+1]`.

    Cell i of an axis covers the voxels i-1 and i; outside the image they are 0. A volume pooled once answers for the
    mid-range patches of all points, which share nearly all of their cells.
    """
    if pooling not in ("mean", "max"):
        msg = f"mid_range_pooling is '{pooling}'; expected mean or max"
        raise InputError(msg)
    join = torch.maximum if pooling == "max" else torch.add
    pooled = image.new_empty(len(image), *(side + 1 for side in image.shape[1:]))
    for channel, result in zip(image, pooled, strict=True):  # one at a time: what is half pooled is never a volume
        cells = nn.functional.pad(channel, (1,) * 6)
        for axis in range(3):
            count = cells.shape[axis] - 1
            cells = join(cells.narrow(axis, 0, count), cells.narrow(axis, 1, count))
        result.copy_(cells if pooling == "max" else cells / 8)
    return pooled


def gather_window(image: Tensor, points: Tensor, start: int, stride: int = 1, size: int = PATCH_SIZE) -> Tensor:
    """Gathers `size` samples an axis, at `start + k * stride` from each point; 0 outside the image.

    Shapes: image `[C, H, W, D]` and points `[N, 3]` to `[N, C, size, size, size]`.
    """
    if not _has_values(points) or len(points) == 0:
        return _gather_masked(image, points, start, stride, size)
    low, high = _whole_windows(tuple(image.shape[1:]), start, stride, size, points.device)
    whole = ((points >= low) & (points <= high)).all(dim=1)
    count = int(whole.sum())
    if count == 0:
        return _gather_masked(image, points, start, stride, size)
    if count == len(points):
        return _gather_rows(image, points, start, stride, size)
    windows = image.new_empty(len(points), len(image), size, size, size)
    windows[whole] = _gather_rows(image, points[whole], start, stride, size)
    windows[~whole] = _gather_masked(image, points[~whole], start, stride, size)
    return windows


def _has_values(points: Tensor) -> bool:
    """Whether a decision may depend on the points: not while a graph is traced, nor for tensors without data."""
    traced = torch.jit.is_tracing() or torch.compiler.is_compiling()
    return not (traced or points.is_meta or isinstance(points, FakeTensor))


@lru_cache(maxsize=64)
def _whole_windows(
    shape: tuple[int, ...], start: int, stride: int, size: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The first and the last voxel `[3]` whose window lies in an image of `shape` (H, W, D)."""
    high = [side - 1 - (start + (size - 1) * stride) for side in shape]
    return torch.tensor([-start] * 3, device=device), torch.tensor(high, device=device)


@lru_cache(maxsize=64)
def _row_offsets(
    strides: tuple[int, ...], channels: int, start: int, stride: int, size: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Returns offsets in memory of a window's rows `[channels * size * size]` from its voxel, and strides `[3]`."""
    steps = torch.arange(size) * stride + start
    rows = (steps * strides[1])[:, None] + steps * strides[2] + start * strides[3]
    offsets = (torch.arange(channels) * strides[0])[:, None, None] + rows
    return offsets.flatten().to(device), torch.tensor(strides[1:], device=device)


def _gather_rows(image: Tensor, points: Tensor, start: int, stride: int, size: int) -> Tensor:
    """Windows that lie in the image, copied row by row, along D: a seventh of the indices, and no masks."""
    channels, strides = len(image), image.stride()
    offsets, axes = _row_offsets(strides, channels, start, stride, size, points.device)
    first = (points * axes).sum(dim=1, keepdim=True) + offsets
    extent = sum((side - 1) * step for side, step in zip(image.shape, strides, strict=True)) + 1
    row = (size - 1) * stride * strides[3]
    rows = image.as_strided((extent - row, size), (1, stride * strides[3]))
    return rows.index_select(0, first.flatten()).view(len(points), channels, size, size, size)


def _gather_masked(image: Tensor, points: Tensor, start: int, stride: int, size: int) -> Tensor:
    """Windows anywhere, sample by sample."""
    steps = torch.arange(size, device=points.device) * stride + start
    index: Tensor = torch.zeros((), dtype=torch.int64, device=points.device)
    inside: Tensor | None = None
    for axis, side in enumerate(image.shape[1:]):
        position = points[:, axis, None] + steps
        clamped = position.clamp(0, side - 1)
        view = [-1, 1, 1, 1]
        view[axis + 1] = size
        index = index * side + clamped.view(view)
        valid = (position == clamped).view(view)
        inside = valid if inside is None else inside & valid
    assert inside is not None
    channels = image.reshape(len(image), -1)
    patches = torch.stack([channel.take(index) for channel in channels], dim=1)
    return torch.where(inside[:, None], patches, 0)


class PatchConvolution(nn.Module):
    """A 7x7x7 convolution with zero padding of a 7x7x7 patch, computed as one matrix product.

    Seen from a whole patch the convolution is a linear map of the flattened patch; its (Toeplitz) matrix is built from
    the kernel by indexing. Equal to `torch.nn.Conv3d(in_channels, out_channels, 7, padding=3)` on the patch, with the
    same parameters and initialisation, at a fraction of its time.

    Shapes: `[M, Cin * 343]` to `[M, Cout * 343]`, both flattened as `[C, 7, 7, 7]`.
    """

    taps: Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *(PATCH_SIZE,) * 3))
        self.bias = nn.Parameter(torch.empty(out_channels))
        bound = 1 / math.sqrt(in_channels * PATCH_FEATURES)
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        nn.init.uniform_(self.bias, -bound, bound)
        self.register_buffer("taps", _toeplitz_taps(), persistent=False)

    def forward(self, patches: Tensor) -> Tensor:
        """Applies the map."""
        return nn.functional.linear(patches, self.matrix(), self.bias.repeat_interleave(PATCH_FEATURES))

    def matrix(self) -> Tensor:
        """The map as a matrix `[Cout * 343, Cin * 343]`."""
        out_channels, in_channels = self.weight.shape[:2]
        kernel = nn.functional.pad(self.weight.flatten(2), (0, 1))  # the last tap is the zero outside the patch
        matrix = kernel[:, :, self.taps].transpose(1, 2)  # [Cout, 343 out, Cin, 343 in]
        return matrix.reshape(out_channels * PATCH_FEATURES, in_channels * PATCH_FEATURES)


def _toeplitz_taps() -> Tensor:
    """For each pair (output voxel, input voxel) of a patch the kernel tap that joins them, 343 where none does."""
    axis = torch.arange(PATCH_SIZE)
    tap = axis[None, :] - axis[:, None] + PATCH_SIZE // 2  # [out, in]
    outside = (tap < 0) | (tap >= PATCH_SIZE)
    grid: Tensor = torch.zeros(1, 1, dtype=torch.int64)
    missing: Tensor = torch.zeros(1, 1, dtype=torch.bool)
    for _ in range(3):
        grid = (grid[:, None, :, None] * PATCH_SIZE + tap[None, :, None, :]).flatten(0, 1).flatten(1, 2)
        missing = (missing[:, None, :, None] | outside[None, :, None, :]).flatten(0, 1).flatten(1, 2)
    return grid.masked_fill(missing, PATCH_FEATURES)


class PatchMapping(nn.Module):
    """Maps the patch of each point to 343 features: two 7x7x7 convolutions, each with a Padé activation.

    Args:
        in_channels: channels of the patch.

    Shapes: patches `[B, N, Cp, 7, 7, 7]` to features `[B, N, 343]`.
    Source: OSS-Net (Reich et al., BMVC 2021), section 3.3.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        hidden = max(in_channels // 2, 1)
        self.conv1 = PatchConvolution(in_channels, hidden)
        self.act1 = PadeActivation()
        self.conv2 = PatchConvolution(hidden, 1)
        self.act2 = PadeActivation()

    def forward(self, patches: Tensor) -> Tensor:
        """Maps the patches."""
        features = patches.flatten(2)
        for convolution, act in self.layers():
            features = act(convolution(features))
        return features

    def layers(self) -> list[tuple[PatchConvolution, PadeActivation]]:
        """The convolutions in their order, each with its activation."""
        return [(self.conv1, self.act1), (self.conv2, self.act2)]

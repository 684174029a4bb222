"""Local image patches around points: gathering them, and mapping each to a feature vector."""

from __future__ import annotations

import math
from functools import reduce
from itertools import product

import torch
from torch import Tensor, nn

from custom_nets.networks.pade import PadeActivation

PATCH_SIZE = 7  # voxels a side, of the local and of the pooled mid-range patch
PATCH_FEATURES = PATCH_SIZE**3

# First voxel of the window, relative to the point (OSS-Net, section 3.3): local i-3..i+3, mid-range i-7..i+6.
_LOCAL_START = -3
_MID_RANGE_START = -7


def gather_local_patches(image: Tensor, points: Tensor) -> Tensor:
    """Gathers the 7x7x7 neighbourhood of each point; voxels outside the image are 0.

    Args:
        image: `[B, C, H, W, D]`.
        points: integer voxel indices `[B, N, 3]`, on the image's device.

    Returns:
        Patches `[B, N, C, 7, 7, 7]` of the image's dtype.
    """
    return torch.stack([gather_window(i, p, _LOCAL_START) for i, p in zip(image, points, strict=True)])


def gather_mid_range_patches(image: Tensor, points: Tensor, pooling: str = "mean") -> Tensor:
    """Gathers the 14x14x14 neighbourhood of each point, pooled 2x2x2; voxels outside the image are 0.

    Cell k of an axis covers the voxels i-7+2k and i-6+2k. The eight voxels of a cell are accumulated one after
    the other, so that the unpooled window (eight times the memory) never exists.

    Args:
        image: `[B, C, H, W, D]`.
        points: integer voxel indices `[B, N, 3]`, on the image's device.
        pooling: `mean`, or `max` as the published inference has it (its training has the mean).

    Returns:
        Patches `[B, N, C, 7, 7, 7]` of the image's dtype.
    """
    if pooling not in ("mean", "max"):
        msg = f"pooling must be 'mean' or 'max', got '{pooling}'"
        raise ValueError(msg)
    return torch.stack([_pool_windows(i, p, pooling) for i, p in zip(image, points, strict=True)])


def _pool_windows(image: Tensor, points: Tensor, pooling: str) -> Tensor:
    corners = (points + points.new_tensor(corner) for corner in product((0, 1), repeat=3))
    cells = (gather_window(image, corner, _MID_RANGE_START, stride=2) for corner in corners)
    if pooling == "max":
        return reduce(torch.maximum, cells)
    return reduce(torch.add, cells) / 8


def gather_window(image: Tensor, points: Tensor, start: int, stride: int = 1, size: int = PATCH_SIZE) -> Tensor:
    """Gathers `size` samples an axis, at `start + k * stride` from each point; 0 outside the image.

    Shapes: image `[C, H, W, D]` and points `[N, 3]` to `[N, C, size, size, size]`.
    """
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
        out_channels, in_channels = self.weight.shape[:2]
        kernel = nn.functional.pad(self.weight.flatten(2), (0, 1))  # the last tap is the zero outside the patch
        matrix = kernel[:, :, self.taps].transpose(1, 2)  # [Cout, 343 out, Cin, 343 in]
        matrix = matrix.reshape(out_channels * PATCH_FEATURES, in_channels * PATCH_FEATURES)
        return nn.functional.linear(patches, matrix, self.bias.repeat_interleave(PATCH_FEATURES))


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
        features = self.act1(self.conv1(patches.flatten(2)))
        return self.act2(self.conv2(features))

"""Sides, coordinates and spacings of images, and images on coarser grids."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from torch import Tensor, nn

from custom_nets.networks.export_ops import is_traced, resize_plainly, sides_plainly

_HALVES = (torch.float16, torch.bfloat16)


def resize_to_grid(image: Tensor, grid_size: Sequence[int]) -> Tensor:
    """Resizes `[B, C, H, W, D]` to `[B, C, h, w, d]`: the mean over each cell, trilinear where the grid is finer.

    For a factor of just 2 this is the trilinear resize of the published code. An image in half precision gives a
    float32 result on a CPU, which averages it row by row: a copy of a whole CT would cost more than all the rest.
    """
    if is_traced():
        return resize_plainly(image.float() if image.dtype in _HALVES else image, list(grid_size))
    grid = tuple(grid_size)
    h, w, d = (min(size, wanted) for size, wanted in zip(image.shape[2:], grid, strict=True))
    if image.is_cpu and image.dtype in _HALVES:
        rows = image.shape[2]
        # The cells of adaptive pooling.
        slabs = (image[:, :, i * rows // h : -(-(i + 1) * rows // h)].float() for i in range(h))
        volume = torch.cat([nn.functional.adaptive_avg_pool3d(slab, (1, w, d)) for slab in slabs], dim=2)
    else:
        volume = nn.functional.adaptive_avg_pool3d(image, (h, w, d))
    if volume.shape[2:] == grid:
        return volume
    return nn.functional.interpolate(volume, grid, mode="trilinear", align_corners=False)


def image_sides(image: Tensor) -> Tensor:
    """The sides of an image `[B, C, H, W, D]` in voxels, float32 `[3]`, on its device."""
    if is_traced():
        return sides_plainly(image)
    return torch.tensor(tuple(image.shape[2:]), dtype=torch.float32, device=image.device)


def unit_steps(sides: Tensor) -> Tensor:
    """Returns a voxel's step in unit coordinates, float32; the first voxel is at -1, the last at 1.

    Args:
        sides: of an image, see `image_sides`; or of each of a batch `[B, 1, 3]`.
    """
    return 2 / (sides - 1).clamp(min=1)


def unit_coordinates(points: Tensor, steps: Tensor) -> Tensor:
    """Positions `[B, N, 3]` (voxels) as float32 in -1..1 from the first to the last voxel of each axis.

    Args:
        points: positions in voxels.
        steps: of the image, or of each `[B, 1, 3]`, see `unit_steps`.
    """
    return points.float() * steps - 1


def plain_tensor(tensor: Tensor) -> Tensor:
    """Strips MONAI's metadata, which costs time at every operation."""
    return tensor.as_subclass(Tensor) if isinstance(tensor, MetaTensor) else tensor


def item_spacings(image: Tensor) -> Tensor:
    """Spacing of each item of a batch `[B, C, H, W, D]` in mm `[B, 3]`; a plain tensor counts as 1 mm isotropic.

    A MetaTensor has its own affine, `[4, 4]` or `[B, 4, 4]`.
    """
    if not isinstance(image, MetaTensor):
        return torch.ones(len(image), 3, dtype=torch.float64)
    affines = image.affine.reshape(-1, 4, 4).expand(len(image), 4, 4)
    return torch.stack([affine_to_spacing(affine) for affine in affines])

"""The published search: a lattice refined around what was found, kept for comparison with the paper."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from custom_nets.inferers.surface_search.lattice import Axes, dilate, flat_of_lattice
from custom_nets.inferers.surface_search.queries import VolumeQuery

_FIRST_STRIDE = 4
_REFINEMENTS = ((2, 4), (1, 1))  # stride of the lattice, radius of the dilation in voxels


def published_volume(
    query: VolumeQuery,
    allocate: Callable[[int], torch.Tensor],
    threshold: float,
    prior: str,
    prior_threshold: float,
) -> None:
    """Fills one volume as the inference code of OSS-Net does (Reich et al., BMVC 2021).

    Points on a lattice of stride 4 are asked first, all of them or those inside the prior; then, on lattices of
    stride 2 and 1, all points not yet positive in a dilation of the positive ones by 4 and 1 voxels. Positives are
    only ever added: what lies further than that from a positive of the first lattice is lost, and false positives
    stay. The voxels above the threshold are the published result, voxel for voxel.

    Args:
        query: the item to ask about.
        allocate: given the number of regions, returns the volume to fill `[R, H, W, D]`: the network's probability
            where it was asked, 0 elsewhere.
        threshold: a region holds the voxels strictly above it.
        prior: 'none' (published as standard) or 'restrict' (published as optimized).
        prior_threshold: the prior region holds the voxels strictly above it.
    """
    axes = _lattice(query, _FIRST_STRIDE)
    mask = None if prior == "none" else _inside_prior(query, axes, prior_threshold)
    asked = flat_of_lattice(axes, mask, query.shape)
    logits = query(asked, f"stride {_FIRST_STRIDE}")
    out = allocate(logits.shape[1])
    _raise_to(out, asked, logits.sigmoid())
    for stride, radius in _REFINEMENTS:
        inside = out > threshold
        wanted = (dilate(inside, radius) & ~inside).any(dim=0)[::stride, ::stride, ::stride]
        asked = flat_of_lattice(_lattice(query, stride), wanted, query.shape)
        _raise_to(out, asked, query(asked, f"stride {stride}").sigmoid())


def _lattice(query: VolumeQuery, stride: int) -> Axes:
    height, width, depth = (torch.arange(0, size, stride, device=query.device) for size in query.shape)
    return height, width, depth


def _inside_prior(query: VolumeQuery, axes: Axes, prior_threshold: float) -> torch.Tensor:
    """Which lattice points the auxiliary segmentation, stretched over the lattice end to end, calls positive."""
    sizes = [len(axis) for axis in axes]
    resized = F.interpolate(query.prior()[None], size=sizes, mode="trilinear", align_corners=True)[0]
    return (resized > prior_threshold).any(dim=0)


def _raise_to(out: torch.Tensor, flat: torch.Tensor, values: torch.Tensor) -> None:
    """Writes values `[N, R]` at flat indices where they exceed what is there: a positive is never taken back."""
    voxels = out.view(len(out), -1)
    voxels[:, flat] = torch.maximum(voxels[:, flat], values.T.to(out.dtype))

"""The published search: a lattice refined around what was found, kept for comparison with the paper."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from custom_nets.inferers.surface_search.lattice import Axes, dilate, flat_of_lattice
from custom_nets.inferers.surface_search.queries import VolumeQuery
from custom_nets.inferers.surface_search.settings import SearchSettings

_FIRST_STRIDE = 4
_REFINEMENTS = ((2, 4), (1, 1))  # stride of the lattice, radius of the dilation in voxels


def published_volume(query: VolumeQuery, allocate: Callable[[int], torch.Tensor], settings: SearchSettings) -> None:
    """Fills one volume as the inference code of OSS-Net does (Reich et al., BMVC 2021).

    Points on a lattice of stride 4 are queried first, all of them or those inside the prior; then, on lattices of
    stride 2 and 1, all points not yet positive in a dilation of the positive ones by 4 and 1 voxels. Positives are
    only ever added: what lies further than that from a positive of the first lattice is lost, and false positives
    stay. The voxels above the threshold are the published result, voxel for voxel.

    Args:
        query: queries the item.
        allocate: given the number of regions, returns the volume to fill `[R, H, W, D]`: the network's probability
            where it was queried, 0 elsewhere.
        settings: threshold and prior of the search: 'none' (published as standard) or 'restrict' (as optimized).
    """
    axes = _lattice(query, _FIRST_STRIDE)
    mask = None if settings.prior == "none" else _inside_prior(query, axes, settings.prior_cut)
    queried = flat_of_lattice(axes, mask, query.shape)
    logits = query(queried, f"stride {_FIRST_STRIDE}")
    out = allocate(logits.shape[1])
    _raise_to(out, queried, logits.sigmoid())
    for stride, radius in _REFINEMENTS:
        inside = out > settings.threshold
        wanted = (dilate(inside, radius) & ~inside).any(dim=0)[::stride, ::stride, ::stride]
        queried = flat_of_lattice(_lattice(query, stride), wanted, query.shape)
        _raise_to(out, queried, query(queried, f"stride {stride}").sigmoid())


def _lattice(query: VolumeQuery, stride: int) -> Axes:
    height, width, depth = (torch.arange(0, size, stride, device=query.device) for size in query.shape)
    return height, width, depth


def _inside_prior(query: VolumeQuery, axes: Axes, prior_threshold: float) -> torch.Tensor:
    """Returns the lattice points that the auxiliary segmentation calls positive, stretched over the whole lattice."""
    sizes = [len(axis) for axis in axes]
    resized = F.interpolate(query.prior()[None], size=sizes, mode="trilinear", align_corners=True)[0]
    return (resized > prior_threshold).any(dim=0)


def _raise_to(out: torch.Tensor, flat: torch.Tensor, values: torch.Tensor) -> None:
    """Writes values `[N, R]` at flat indices where they exceed what is there: a positive is never taken back."""
    voxels = out.view(len(out), -1)
    voxels[:, flat] = torch.maximum(voxels[:, flat], values.T.to(out.dtype))

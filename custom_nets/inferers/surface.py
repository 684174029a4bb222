"""Dense volumes from few queries: find the surfaces on a coarse lattice, follow them, fill what they enclose."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from custom_nets.inferers.lattice import (
    Axes,
    coarse_axis,
    dilate,
    fill_from_lattice,
    flat_of_lattice,
    halved_axis,
    neighbour_offsets,
    sample_segmentation,
    to_flat,
    to_points,
)
from custom_nets.inferers.queries import VolumeQuery

# Beyond this a logit says "sure", not "how far": unclipped, a very sure lattice point would push the guessed
# surface far into its unsure neighbour's half of the cell.
_SURE_LOGIT = 4.0


def surface_volume(
    query: VolumeQuery,
    allocate: Callable[[int], torch.Tensor],
    coarse_step: int,
    threshold: float,
    prior: str,
    prior_threshold: float,
) -> None:
    """Fills one volume by following the surfaces of its regions.

    Whatever the first guess between the lattice points, at the end no unasked voxel has a neighbour (of its 26) on
    the other side of the threshold. So each 26-connected foreground or background component of the dense result is
    either right in every voxel, or wrong in every voxel and then none of them was asked.

    Args:
        query: the item to ask about.
        allocate: given the number of regions, returns the volume to fill `[R, H, W, D]`.
        coarse_step: spacing of the lattice in voxels.
        threshold: a region holds the voxels strictly above it.
        prior: 'none', 'union' or 'restrict', see `OccupancyInferer`.
        prior_threshold: the prior region holds the voxels strictly above it.
    """
    axes = _coarse_axes(query, coarse_step)
    mask, finer = _apply_prior(query, axes, prior, prior_threshold)
    asked = flat_of_lattice(axes, mask, query.shape)
    logits = query(asked, "lattice")
    out = allocate(logits.shape[1])
    fill_from_lattice(out, _margins(logits, mask, axes, threshold), axes)
    write(out, asked, logits.sigmoid())
    if finer is not None:
        write(out, finer, query(finer, "prior").sigmoid())
        asked = torch.cat((asked, finer))
    _follow(query, out, asked, threshold)


def write(out: torch.Tensor, flat: torch.Tensor, values: torch.Tensor) -> None:
    """Writes values `[N, R]` into a volume `[R, H, W, D]` at flat indices `[N]`."""
    out.view(len(out), -1)[:, flat] = values.T


def _coarse_axes(query: VolumeQuery, step: int) -> Axes:
    height, width, depth = (coarse_axis(size, step, query.device) for size in query.shape)
    return height, width, depth


def _apply_prior(
    query: VolumeQuery, axes: Axes, prior: str, prior_threshold: float
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Which points of the lattice to ask (a mask; None: all), and which flat indices besides (None: none)."""
    if prior == "none":
        return None, None
    fine_axes = (halved_axis(axes[0]), halved_axis(axes[1]), halved_axis(axes[2]))
    inside = sample_segmentation(query.prior(), fine_axes, query.shape) > prior_threshold
    near = dilate(inside.any(dim=0), radius=2)  # two steps of the halved lattice are one coarse cell
    rows, columns, slices = (torch.searchsorted(fine, axis) for fine, axis in zip(fine_axes, axes, strict=True))
    coarse = (rows[:, None, None], columns[:, None], slices)
    if prior == "restrict":
        return near[coarse], None
    near[coarse] = False  # they are asked anyway
    return None, flat_of_lattice(fine_axes, near, query.shape)


def _margins(logits: torch.Tensor, mask: torch.Tensor | None, axes: Axes, threshold: float) -> torch.Tensor:
    """Signed values `[R, h, w, d]` at the lattice points, positive above the threshold; background where not asked."""
    margin = (logits.T - math.log(threshold / (1 - threshold))).clamp(-_SURE_LOGIT, _SURE_LOGIT)
    sizes = [len(axis) for axis in axes]
    if mask is None:
        return margin.reshape(-1, *sizes)
    result = margin.new_full((len(margin), *sizes), -_SURE_LOGIT)
    result[:, mask] = margin
    return result


def _follow(query: VolumeQuery, out: torch.Tensor, asked: torch.Tensor, threshold: float) -> None:
    """Asks about every voxel near a change of any region, until no answer contradicts the volume any more.

    An unasked voxel off the frontier has a constant neighbourhood. It can cease to be constant only when a neighbour
    changes, so the unasked neighbours of the changed voxels are exactly the next frontier: the search looks at the
    whole volume once, then only at the surface.
    """
    shape = query.shape
    padded = [size + 2 for size in shape]
    # The volume lies inside a rim of one voxel that counts as asked: neighbours need no test for the border.
    seen = torch.ones(padded, dtype=torch.bool, device=out.device)
    seen[1:-1, 1:-1, 1:-1] = False
    seen_flat, out_flat = seen.view(-1), out.view(len(out), -1)
    seen_flat[_pad(asked, shape)] = True
    offsets = neighbour_offsets(padded)

    unasked = ~seen[1:-1, 1:-1, 1:-1]
    frontier = to_flat((_beside_a_surface(out, threshold) & unasked).nonzero() + 1, padded)
    del unasked  # as large as the volume, and needed once
    seen_flat[frontier] = True
    query.stats.stages[-1].setdefault("surface", 0)
    while len(frontier):
        flat = to_flat(to_points(frontier, padded) - 1, shape)
        guesses, answers = out_flat[:, flat], query(flat, "surface").sigmoid().T
        out_flat[:, flat] = answers
        changed = ((guesses > threshold) != (answers > threshold)).any(dim=0)
        frontier = _claim_neighbours(frontier[changed], seen_flat, offsets)
        query.stats.rounds[-1] += 1


def _pad(flat: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """Flat indices of the same voxels in the volume with a rim of one voxel."""
    return to_flat(to_points(flat, shape) + 1, [size + 2 for size in shape])


def _claim_neighbours(changed: torch.Tensor, seen: torch.Tensor, offsets: list[int]) -> torch.Tensor:
    """The unseen neighbours of some voxels, in ascending order, which are marked as seen."""
    found = []
    for offset in offsets:
        neighbours = changed + offset
        neighbours = neighbours[~seen[neighbours]]
        seen[neighbours] = True  # one offset at a time: no voxel is found twice
        found.append(neighbours)
    return torch.cat(found).sort().values  # neighbours in memory make neighbours in a chunk


def _beside_a_surface(out: torch.Tensor, threshold: float) -> torch.Tensor:
    """The voxels `[H, W, D]` whose 3x3x3 neighbourhood is not constant in some region."""
    result = torch.zeros(out.shape[1:], dtype=torch.bool, device=out.device)
    for region in out:
        inside = region > threshold
        result |= dilate(inside, radius=1) & dilate(~inside, radius=1)
    return result

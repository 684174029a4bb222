"""Dense volumes from few queries: find the surfaces on a coarse lattice, follow them, fill what they enclose."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from custom_nets.inferers.lattice import (
    Axes,
    Shape,
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

_ROWS_AT_ONCE = 32

# Beyond this a logit says "sure", not "how far": unclipped, a very sure lattice point would push the guessed
# surface far into its unsure neighbour's half of the cell.
_SURE_LOGIT = 4.0


def surface_volume(
    query: VolumeQuery,
    allocate: Callable[[int], torch.Tensor],
    coarse_steps: Shape,
    candidate_steps: Shape | None,
    threshold: float,
    prior: str,
    prior_threshold: float,
) -> None:
    """Fills one volume by following the surfaces of its regions.

    Whatever the first guess between the lattice points, at the end no unasked voxel has a neighbour (of its 26) on
    the other side of the threshold. So each 26-connected foreground or background component of the dense result is
    either right in every voxel, or wrong in every voxel and then none of them was asked. Inner regions that the lattice
    passes over are looked for once more where they can be, in the outermost region.

    Args:
        query: the item to ask about.
        allocate: given the number of regions, returns the volume to fill `[R, H, W, D]`.
        coarse_steps: spacing of the lattice along each axis, in voxels.
        candidate_steps: of a second lattice, inside the outermost region as it was found; None: there is none.
        threshold: a region holds the voxels strictly above it.
        prior: 'none', 'union' or 'restrict', see `OccupancyInferer`.
        prior_threshold: the prior region holds the voxels strictly above it.
    """
    axes = _lattice_axes(query, coarse_steps)
    mask, finer = _apply_prior(query, axes, prior, prior_threshold)
    asked = flat_of_lattice(axes, mask, query.shape)
    logits = query(asked, "lattice")
    out = allocate(logits.shape[1])
    fill_from_lattice(out, _margins(logits, mask, axes, threshold), axes)
    write(out, asked, logits.sigmoid())
    if finer is not None:
        write(out, finer, query(finer, "prior").sigmoid())
        asked = torch.cat((asked, finer))
    search = _Search(query, out, asked, threshold)
    search.follow(search.beside_surfaces(), "surface")
    if candidate_steps is not None and len(out) > 1:
        search.follow(search.inside(_lattice_axes(query, candidate_steps)), "candidates")


def write(out: torch.Tensor, flat: torch.Tensor, values: torch.Tensor) -> None:
    """Writes values `[N, R]` into a volume `[R, H, W, D]` at flat indices `[N]`."""
    out.view(len(out), -1)[:, flat] = values.T.to(out.dtype)


def _lattice_axes(query: VolumeQuery, steps: Shape) -> Axes:
    sides = zip(query.shape, steps, strict=True)
    height, width, depth = (coarse_axis(size, step, query.device) for size, step in sides)
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


class _Search:
    """Asks about voxels whose neighbourhood changes, until no answer contradicts the volume any more.

    The voxels live in a volume with a rim of one voxel that counts as asked: neighbours need no test for the border.

    Args:
        query: the item to ask about.
        out: the volume so far `[R, H, W, D]`, corrected in place.
        asked: flat indices of the voxels that were asked.
        threshold: a region holds the voxels strictly above it.
    """

    def __init__(self, query: VolumeQuery, out: torch.Tensor, asked: torch.Tensor, threshold: float) -> None:
        self.query = query
        self.out = out
        self.threshold = threshold
        self.padded = [size + 2 for size in query.shape]
        self.seen = torch.ones(self.padded, dtype=torch.bool, device=out.device)
        self.seen[1:-1, 1:-1, 1:-1] = False
        self.seen.view(-1)[self._pad(asked)] = True
        self.offsets = neighbour_offsets(self.padded)

    def beside_surfaces(self) -> torch.Tensor:
        """The unasked voxels whose 3x3x3 neighbourhood is not constant in some region (flat, in the padded volume)."""
        found = []
        height = self.query.shape[0]
        for start in range(0, height, _ROWS_AT_ONCE):  # slab by slab: masks of the whole volume would add up
            stop = min(start + _ROWS_AT_ONCE, height)
            low, high = max(start - 1, 0), min(stop + 1, height)
            beside = _beside_a_surface(self.out[:, low:high], self.threshold)[start - low : stop - low]
            beside &= ~self.seen[start + 1 : stop + 1, 1:-1, 1:-1]
            voxels = beside.nonzero() + 1
            voxels[:, 0] += start
            found.append(to_flat(voxels, self.padded))
        return torch.cat(found)

    def inside(self, axes: Axes) -> torch.Tensor:
        """The unasked points of a lattice that lie in the outermost region (flat, in the padded volume)."""
        at_points = self.out[0]
        for axis, indices in enumerate(axes):
            at_points = at_points.index_select(axis, indices)
        points = self._pad(flat_of_lattice(axes, at_points > self.threshold, self.query.shape))
        return points[~self.seen.view(-1)[points]]

    def follow(self, frontier: torch.Tensor, stage: str) -> None:
        """Asks about voxels, then about the neighbours of those that changed, and so on.

        An unasked voxel off the frontier has a constant neighbourhood. It can cease to be constant only when a
        neighbour changes, so the unasked neighbours of the changed voxels are exactly the next frontier: the search
        looks at the whole volume once, then only at the surface.

        Args:
            frontier: unasked voxels (flat, in the padded volume).
            stage: the name under which they are counted; their neighbours count as "surface".
        """
        seen, out = self.seen.view(-1), self.out.view(len(self.out), -1)
        seen[frontier] = True
        self.query.stats.stages[-1].setdefault("surface", 0)
        while len(frontier):
            flat = to_flat(to_points(frontier, self.padded) - 1, self.query.shape)
            guesses, answers = out[:, flat], self.query(flat, stage).sigmoid().T.to(out.dtype)
            out[:, flat] = answers
            changed = ((guesses > self.threshold) != (answers > self.threshold)).any(dim=0)
            frontier = _claim_neighbours(frontier[changed], seen, self.offsets)
            self.query.stats.rounds[-1] += 1
            stage = "surface"

    def _pad(self, flat: torch.Tensor) -> torch.Tensor:
        """Flat indices of the same voxels in the volume with a rim of one voxel."""
        return to_flat(to_points(flat, self.query.shape) + 1, self.padded)


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

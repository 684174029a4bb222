"""Dense volumes from few queries: find the surfaces on a coarse lattice, follow them from lattice to finer lattice."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from custom_nets.inferers.surface_search.lattice import (
    Axes,
    Shape,
    coarse_axis,
    dilate,
    fill_from_lattice,
    flat_of_lattice,
    halved_axis,
    refine_lattice,
    sample_segmentation,
    thinned_axis,
)
from custom_nets.inferers.surface_search.levels import Level
from custom_nets.inferers.surface_search.queries import VolumeQuery
from custom_nets.inferers.surface_search.settings import SearchSettings, SurfaceSteps

# Beyond this a logit says "sure", not "how far": unclipped, a very sure lattice point would push the guessed
# surface far into its unsure neighbour's half of the cell.
_SURE_LOGIT = 4.0
_BARELY = 1e-6


class _Lattice(NamedTuple):
    """One lattice of the search.

    Attributes:
        axes: its voxel indices along H, W and D.
        stage: the name under which the points are counted that are queried whatever is known.
        mask: which these are `[h, w, d]`; None: all of them.
    """

    axes: Axes
    stage: str = "surface"
    mask: torch.Tensor | None = None


def surface_volume(
    query: VolumeQuery,
    allocate: Callable[[int], torch.Tensor],
    steps: SurfaceSteps,
    settings: SearchSettings,
) -> None:
    """Fills one volume by following the surfaces of its regions, from a coarse lattice to finer ones and the voxels.

    A finer lattice, of half the step, starts from the interpolated coarser one. Then only those of its points are
    queried that a face neighbour contradicts, until nothing is contradicted any more. So at the end each pair of face
    neighbours on different sides of the threshold has been queried, both of them, and no voxel was queried twice:
    whatever the first guesses, each 6-connected foreground or background component of the dense result is either right
    in every voxel, or wrong in every voxel and then none of them was queried.

    Args:
        query: queries the item.
        allocate: given the number of regions, returns a volume of zeros to fill `[R, H, W, D]`.
        steps: of the lattices.
        settings: threshold and prior of the search.
    """
    first, *finer = _lattices(query, steps, settings.prior, settings.prior_cut)
    search = _Search(query, allocate, settings.threshold)
    level = search.first_level(first)
    for lattice in finer:
        level = search.next_level(level, lattice)
    if steps.candidate is not None and len(search.out) > 1:
        search.follow(level, _inside(level, _axes(query, steps.candidate)), "candidates")
    while steps.band is not None and len(points := level.near_surfaces(steps.band)):
        search.follow(level, points, "band")  # what it finds has a band of its own


class _Search:
    """Takes a volume from lattice to lattice.

    What is believed on all of them but the last is a margin: signed, positive above the threshold, the further from 0
    the surer the network. On the last one, of all voxels, it is the probability, in the volume itself.
    """

    def __init__(self, query: VolumeQuery, allocate: Callable[[int], torch.Tensor], threshold: float) -> None:
        self.query = query
        self.threshold = threshold
        self.out = torch.empty(0)
        self._allocate = allocate
        self._results: list[tuple[torch.Tensor, torch.Tensor]] = []  # voxels and their probabilities [R, N]

    def first_level(self, lattice: _Lattice) -> Level:
        """Queries the first lattice, all of it or what its mask allows, and what follows from the results."""
        voxels = flat_of_lattice(lattice.axes, lattice.mask, self.query.shape)
        logits = self.query(voxels, lattice.stage)
        self.query.stats.stages[-1].setdefault("surface", 0)
        self.out = self._allocate(logits.shape[1])
        if self._is_whole(lattice.axes):
            level = self._level(lattice.axes, self.out)
            level.learn(voxels, self._probabilities(logits))
        else:
            sizes = [len(axis) for axis in lattice.axes]
            level = self._level(lattice.axes, logits.new_full((len(self.out), *sizes), -_SURE_LOGIT))
            level.learn(level.locate(voxels), self._margins(voxels, logits))
        queried = level.locate(voxels)
        self.follow(level, level.beside(queried), "surface")
        return level

    def next_level(self, coarser: Level, lattice: _Lattice) -> Level:
        """Goes on to a finer lattice: guesses it, queries what its mask wants, and what contradicts a neighbour."""
        if self._is_whole(lattice.axes):
            level, suspects = self._last_level(coarser, lattice.axes)
        else:
            level = self._level(lattice.axes, refine_lattice(coarser.values, coarser.axes, lattice.axes))
            for voxels, _ in self._results:
                level.mark(level.locate(voxels))
            suspects = None
        if lattice.mask is not None:
            wanted = level.unseen(lattice.mask.flatten().nonzero()[:, 0])
            level.query(wanted, lattice.stage)
            suspects = None if suspects is None else torch.cat((suspects, wanted))
        self.follow(level, level.beside_surfaces() if suspects is None else level.beside(suspects), "surface")
        return level

    def _last_level(self, coarser: Level, axes: Axes) -> tuple[Level, torch.Tensor]:
        """All voxels, and those among which any surface lies: a search through the whole volume would cost more."""
        suspects = fill_from_lattice(self.out, coarser.values, coarser.axes)
        level = self._level(axes, self.out)
        for voxels, probabilities in self._results:
            level.learn(voxels, probabilities)
        return level, suspects

    def follow(self, level: Level, frontier: torch.Tensor, stage: str) -> None:
        """Queries unseen points of a level and what follows from the results, see `Level.follow`."""
        self.query.stats.rounds[-1] += level.follow(frontier, stage)

    def _is_whole(self, axes: Axes) -> bool:
        return [len(axis) for axis in axes] == list(self.query.shape)

    def _level(self, axes: Axes, values: torch.Tensor) -> Level:
        last = values is self.out
        # A level must not be known to what it calls: in a circle, volumes would stay in memory for a while.
        query = self._query_probabilities if last else self._query_margins
        return Level(axes, values, self.threshold if last else 0.0, query, self.query.shape)

    def _query_probabilities(self, voxels: torch.Tensor, stage: str) -> torch.Tensor:
        return self._probabilities(self.query(voxels, stage))

    def _query_margins(self, voxels: torch.Tensor, stage: str) -> torch.Tensor:
        return self._margins(voxels, self.query(voxels, stage))

    def _probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """`[R, N]`, as they will stand in the result, of logits `[N, R]`."""
        return logits.sigmoid().T.to(self.out.dtype)

    def _margins(self, voxels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Signed logits `[R, N]` of voxels for a coarse lattice; their probabilities are kept for the last one."""
        probabilities = self._probabilities(logits)
        self._results.append((voxels, probabilities))
        margins = (logits.T - math.log(self.threshold / (1 - self.threshold))).nan_to_num(nan=-_SURE_LOGIT)
        margins = margins.clamp(-_SURE_LOGIT, _SURE_LOGIT)
        # Which side counts is decided by the probability as it will stand in the result, rounded.
        inside = probabilities > self.threshold
        return torch.where(inside, margins.clamp(min=_BARELY), margins.clamp(max=0))


def write(out: torch.Tensor, flat: torch.Tensor, values: torch.Tensor) -> None:
    """Writes values `[N, R]` into a volume `[R, H, W, D]` at flat indices `[N]`."""
    out.view(len(out), -1)[:, flat] = values.T.to(out.dtype)


def _inside(level: Level, axes: Axes) -> torch.Tensor:
    """The unseen points of a lattice (flat, in the volume) that lie in the outermost region of the last level."""
    at_points = level.values[0]
    for axis, indices in enumerate(axes):
        at_points = at_points.index_select(axis, indices)
    return level.unseen(flat_of_lattice(axes, at_points > level.cut, level.shape))


def _lattices(query: VolumeQuery, steps: SurfaceSteps, prior: str, prior_threshold: float) -> list[_Lattice]:
    """The lattices of a search, from the coarsest to all voxels; each contains the one before."""
    axes = _axes(query, steps.coarse)
    if prior == "none":
        lattices = [_Lattice(axes, "lattice")]
    elif prior == "union":
        finer = _halved(axes)
        near = _near_prior(query, axes, finer, prior_threshold)
        lattices = [_Lattice(axes, "lattice"), _Lattice(finer, "prior", near)]
    else:
        inside = _Lattice(axes, "lattice", _near_prior(query, axes, axes, prior_threshold))
        lattices = [*_scans(axes, steps), inside]
    while [len(axis) for axis in lattices[-1].axes] != list(query.shape):
        lattices.append(_Lattice(_halved(lattices[-1].axes)))
    return lattices


def _scans(axes: Axes, steps: SurfaceSteps) -> list[_Lattice]:
    """The lattice queried outside of the prior too, if any, and those between it and the coarse one."""
    if steps.scan is None:
        return []
    ratios = [max(1, round(scan / step)) for scan, step in zip(steps.scan, steps.coarse, strict=True)]
    scans: list[_Lattice] = []
    while max(ratios) > 1:
        height, width, depth = (thinned_axis(axis, ratio) for axis, ratio in zip(axes, ratios, strict=True))
        scans.append(_Lattice((height, width, depth), "surface" if scans else "scan"))
        ratios = [ratio // 2 if ratio % 2 == 0 else 1 for ratio in ratios]
    return scans or [_Lattice(axes, "scan")]


def _axes(query: VolumeQuery, steps: Shape) -> Axes:
    sides = zip(query.shape, steps, strict=True)
    height, width, depth = (coarse_axis(size, step, query.device) for size, step in sides)
    return height, width, depth


def _halved(axes: Axes) -> Axes:
    return halved_axis(axes[0]), halved_axis(axes[1]), halved_axis(axes[2])


def _near_prior(query: VolumeQuery, axes: Axes, wanted: Axes, prior_threshold: float) -> torch.Tensor:
    """Returns the points of the lattice `wanted` (that of `axes`, or of half its step) within a cell of the prior."""
    fine = _halved(axes)
    inside = sample_segmentation(query.prior(), fine, query.shape) > prior_threshold
    near = dilate(inside.any(dim=0), radius=2)  # two steps of the halved lattice are one cell
    rows, columns, slices = (torch.searchsorted(f, axis) for f, axis in zip(fine, wanted, strict=True))
    return near[rows[:, None, None], columns[:, None], slices]

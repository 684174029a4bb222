"""Settings of the search for surfaces."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

from monai.utils import StrEnum

from custom_nets.errors import InputError
from custom_nets.inferers.arguments import checked_choice, checked_count, checked_probability, is_number, shown
from custom_nets.inferers.output_grid import Triple
from custom_nets.inferers.surface_search.lattice import Shape

WHOLE = "all"
"""The band that holds every voxel."""

_CAUTIOUS_PRIOR = 0.25
_PUBLISHED_PRIOR = 0.5


class OccupancyMode(StrEnum):
    """Modes of the search of an `OccupancyInferer`."""

    SURFACE = "surface"
    PUBLISHED = "published"
    DENSE = "dense"


class OccupancyPrior(StrEnum):
    """Uses that an `OccupancyInferer` makes of the encoder's auxiliary segmentation."""

    NONE = "none"
    UNION = "union"
    RESTRICT = "restrict"


class StepUnit(StrEnum):
    """Units of the lattices of an `OccupancyInferer`."""

    VOXEL = "voxel"
    MM = "mm"


class SurfaceSteps(NamedTuple):
    """Spacing of the lattices along H, W and D, in voxels.

    Attributes:
        coarse: of the lattice that the search starts from.
        scan: of the lattice queried where the prior rules everything out; None: nothing is queried there.
        candidate: of a last lattice, inside the outermost region as it was found; None: there is none.
        band: half the width of the band round each surface in which every voxel is queried; None: there is none.
    """

    coarse: Shape
    scan: Shape | None = None
    candidate: Shape | None = None
    band: Shape | None = None


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """Settings of the search by which an `OccupancyInferer` chooses the points that the network is queried at.

    Modes:

    - `surface`: queries a coarse lattice, guesses a lattice of half the step by interpolation, queries those of its
      points that a face neighbour contradicts until none is contradicted any more, and so on down to the voxels.
      Above or below the threshold, the result equals the dense one in every 6-connected component of foreground or
      background that holds a queried voxel; only a component that slips through the lattices whole can be wrong (an
      object or a hole thinner than `coarse_step` everywhere). Queried voxels carry the network's probability, all
      others exactly 0 or 1. Any two face neighbours on different sides of the threshold were both queried, so marching
      cubes at the threshold meets only true probabilities.
    - `published`: the search of the paper's code (strides 4, 2, 1, dilations only), for comparison. `coarse_step`
      has no effect. Unlike the paper's code it takes images of any size.
    - `dense`: queries every voxel. `coarse_step` and the prior have no effect.

    Priors, from `latent.segmentation` (auxiliary logits `[B, R, h, w, d]` on any grid that spans the image):

    - `none`: the whole lattice.
    - `union`: the whole lattice, and one of half the step within one coarse cell of the prior region. Finds more
      small objects; misses nothing that `none` finds.
    - `restrict`: the lattice only within one coarse cell of the prior region (in mode `published`: only inside it,
      the paper's fast mode). Fewest queries, but an object that the prior misses is lost unless its surface joins
      one that it hits; or unless `scan_step` finds it.

    Source: OSS-Net (Reich et al., BMVC 2021); the coarse-to-fine search goes back to the multiresolution isosurface
    extraction of Occupancy Networks (Mescheder et al., CVPR 2019).

    Args:
        mode: `surface`, `published` or `dense`.
        coarse_step: spacing of the lattice; the last index of each axis always belongs to it.
        candidate_step: spacing of a second lattice, queried inside the outermost region once that is found, so that a
            small lesion between the points of the first is not lost; None: there is none. Mode `surface` alone.
        scan_step: spacing of a sparser lattice, queried everywhere besides, so that prior `restrict` does not lose what
            the auxiliary segmentation misses; best `coarse_step` times a power of two. None: there is none. Mode
            `surface` with prior `restrict` alone.
        band: width to each side of a surface, along each axis, of a band in which every voxel is queried once the
            surfaces are found, so that probabilities there are the network's and not 0 or 1; `all`: every voxel, as
            mode `dense`; None: no band. What is found in a band counts as elsewhere. Mode `surface` alone.
        step_unit: what these four are measured in: `voxel`, or `mm`, which is rounded to whole voxels along each axis
            (at least one; the spacing is read from the affine, a plain tensor counts as 1 mm).
        threshold: a region holds the voxels whose probability is strictly above it.
        prior: `none`, `union` or `restrict`.
        prior_threshold: the prior region holds the voxels strictly above it, in any region; None: 0.25, for a miss
            costs more than a few queries, and 0.5 in mode `published`.

    Raises:
        InputError: when an argument is out of its range.
    """

    mode: str = OccupancyMode.SURFACE
    coarse_step: float = 4
    candidate_step: float | None = None
    scan_step: float | None = None
    band: float | str | None = None
    step_unit: str = StepUnit.VOXEL
    threshold: float = 0.5
    prior: str = OccupancyPrior.NONE
    prior_threshold: float | None = None

    def __post_init__(self) -> None:
        checked_choice("mode", self.mode, OccupancyMode)
        checked_choice("prior", self.prior, OccupancyPrior)
        checked_choice("step_unit", self.step_unit, StepUnit)
        for name in ("coarse_step", "candidate_step", "scan_step"):
            step = getattr(self, name)
            if step is not None or name == "coarse_step":
                self._check_step(name, step)
        whole = isinstance(self.band, str) and self.band == WHOLE
        if self.band is not None and not whole and not (is_number(self.band) and 0 < self.band < math.inf):  # type: ignore[operator]
            msg = f"band is {shown(self.band)}; expected a width above 0, or {WHOLE}, or null"
            raise InputError(msg)
        checked_probability("threshold", self.threshold)
        if self.prior_threshold is not None:
            checked_probability("prior_threshold", self.prior_threshold)
        if self.mode == OccupancyMode.PUBLISHED and self.prior == OccupancyPrior.UNION:
            msg = "prior is 'union', unknown to mode 'published'; expected 'none' (standard) or 'restrict' (optimized)"
            raise InputError(msg)
        if self.scan_step is not None and not self.scan_step >= self.coarse_step:
            msg = (
                f"scan_step is {self.scan_step}, finer than coarse_step ({self.coarse_step}); expected at least as "
                "much, or null"
            )
            raise InputError(msg)

    @property
    def prior_cut(self) -> float:
        """The prior region holds the voxels strictly above it."""
        if self.prior_threshold is not None:
            return self.prior_threshold
        return _PUBLISHED_PRIOR if self.mode == OccupancyMode.PUBLISHED else _CAUTIOUS_PRIOR

    def steps(self, voxel: Triple) -> SurfaceSteps:
        """The steps of the lattices in voxels, of voxels that have a size in `step_unit`."""

        def in_voxels(length: float | None) -> Any:
            return None if length is None else tuple(max(1, round(length / side)) for side in voxel)

        band = None if self.band is None or isinstance(self.band, str) else self.band
        return SurfaceSteps(*map(in_voxels, (self.coarse_step, self.scan_step, self.candidate_step, band)))

    def _check_step(self, name: str, step: float) -> None:
        if self.step_unit == StepUnit.VOXEL:
            checked_count(name, step)
        elif not is_number(step) or not 0 < step < math.inf:
            msg = f"{name} is {shown(step)}; expected a length above 0 in mm"
            raise InputError(msg)

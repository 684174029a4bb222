"""Tissue fractions of a synthetic brain on a voxel grid, from the anatomy of one head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from custom_nets.tools.phantoms.brain_anatomy import (
    CORTEX_THICKNESS,
    DEEP_GREY,
    FIELD_OF_VIEW,
    PLEXUS,
    REACH,
    Head,
    coverage,
    ellipsoid_depth,
    fissure_distance,
    outline_depth,
    ventricle_depth,
)
from custom_nets.tools.phantoms.brain_styles import PhantomStyle
from custom_nets.tools.phantoms.smooth_fields import FloatArray, SmoothField

BRAIN_BOX = (80.0, 96.0, 77.5)
"""No brain reaches further from the centre of the field of view than this (mm)."""


class BrainGrid:
    """The voxels in and just around one brain.

    Everything is computed on flat vectors of these voxels, a sixth of the volume.

    Args:
        shape: voxels of the whole volume along each axis.
        head: the head that lies in it.

    Attributes:
        spacing: voxel size in mm.
        points: head-centred positions `[3, N]` (mm).
        template: the same positions in the undeformed head.
        depth: depth `[N]` (mm) below the surface of the brain.
        cerebral: how much deeper `[N]` (mm) the voxel lies in the cerebrum than in cerebellum and brainstem.
    """

    def __init__(self, shape: Sequence[int], head: Head) -> None:
        self.shape = tuple(shape)
        self.spacing = tuple(size / n for size, n in zip(FIELD_OF_VIEW, self.shape, strict=True))
        self.crop, self.axes = self._crop()
        spread = np.stack(np.broadcast_arrays(*np.meshgrid(*self.axes, indexing="ij", sparse=True)))
        template = head.to_template(spread, [field.on_axes(self.axes) for field in head.bends])
        depth, cerebral = outline_depth(template)
        # Blurring and slopes need neighbours beyond the outline.
        self.mask = depth > -1.5 * max(self.spacing)
        self.points = spread[:, self.mask]
        self.template = template[:, self.mask]
        self.depth = depth[self.mask]
        self.cerebral = cerebral[self.mask]

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel in mm³."""
        return float(np.prod(self.spacing))

    @property
    def edge(self) -> float:
        """Width (mm) over which an edge is spread: the voxel, and never less than the scanner resolves."""
        return max(1.2, 1.1 * self.voxel_volume ** (1 / 3))

    def sample(self, field: SmoothField) -> FloatArray:
        """Values `[N]` of a random field."""
        return field.on_axes(self.axes)[self.mask]

    def scatter(self, values: NDArray, fill: float = 0) -> NDArray:
        """Puts values `[N]` back into the box `[h, w, d]` around the brain."""
        box = np.full(self.mask.shape, fill, dtype=values.dtype)
        box[self.mask] = values
        return box

    def embed(self, box: NDArray) -> NDArray:
        """Puts a box `[h, w, d]` around the brain back into the whole volume."""
        volume = np.zeros(self.shape, dtype=box.dtype)
        volume[self.crop] = box
        return volume

    def _crop(self) -> tuple[tuple[slice, ...], list[FloatArray]]:
        slices, axes = [], []
        for n, step, limit in zip(self.shape, self.spacing, BRAIN_BOX, strict=True):
            centres = ((np.arange(n) + 0.5) * step - n * step / 2).astype(np.float32)
            inside = np.flatnonzero(np.abs(centres) <= limit + step)
            slices.append(slice(int(inside[0]), int(inside[-1]) + 1))
            axes.append(centres[slices[-1]])
        return tuple(slices), axes


@dataclass(frozen=True)
class Tissues:
    """Healthy tissue of one brain: fractions of each voxel `[N]`, and distances (mm).

    Attributes:
        white, grey, fluid: fractions that add up to 1.
        vessel, plexus: what enhances without being tumour; fractions laid over the others.
        cortex: depth below the surface of the cortex, negative in the sulci.
        ventricle: depth below the wall of the ventricles, negative outside.
    """

    white: FloatArray
    grey: FloatArray
    fluid: FloatArray
    vessel: FloatArray
    plexus: FloatArray
    cortex: FloatArray
    ventricle: FloatArray


def grow_tissues(
    rng: np.random.Generator, grid: BrainGrid, head: Head, template: FloatArray, style: PhantomStyle
) -> Tissues:
    """Fills a brain with folded cortex, white matter, deep grey matter, ventricles and vessels.

    Args:
        rng: generator of this brain's folds.
        grid: voxels.
        head: the head that the voxels lie in.
        template: positions `[3, N]` in the undeformed head, after displacement by tumours.
        style: how wide vessels and plexus are.
    """
    build, edge = head.build, grid.edge
    bent = template + np.stack([2.5 * grid.sample(SmoothField(rng, 14.0, REACH)) for _ in range(3)])
    sulcus, vessel_sheet = _sulci(rng, grid, bent)
    sulcus_depth = build.sulcus_depth + 6 * grid.sample(SmoothField(rng, 18.0, REACH))
    cerebral = grid.cerebral > 0
    # The cerebellum's folds are too fine to resolve: it becomes leaves of grey matter around thin white ones.
    leaf = np.abs((template[2] + 0.5 * template[1] + 2 * sulcus) % 7 - 3.5)
    sheet = np.maximum(sulcus, grid.depth - sulcus_depth)
    fissure = fissure_distance((template + bent) / 2) - 0.3
    walls = np.where(cerebral, np.minimum(sheet, fissure), np.float32(99))
    opening = build.sulcus * (1.3 - 0.8 * np.clip(grid.depth / 15, 0, 1))
    between = np.abs(grid.cerebral) - 1.0  # the cleft between cerebrum and cerebellum, not in the brainstem
    cleft = np.where((np.abs(template[0]) < 17) & (template[1] < 26), np.float32(99), between)
    cortex = np.minimum(np.minimum(grid.depth - 1.2, walls - opening), cleft)
    ventricle = ventricle_depth(template, build.ventricles)

    fluid = np.maximum(coverage(-cortex, edge), coverage(ventricle, edge))
    ribbon = coverage(CORTEX_THICKNESS - cortex, edge)
    leaves = np.where(grid.depth < 19, coverage(leaf - 1.2, edge), np.float32(0.2))
    stem = (np.abs(template[0]) < 15) & (template[1] < 27)
    ribbon = np.where(cerebral, ribbon, np.where(stem, np.float32(0.25), np.maximum(leaves, 0.75 * ribbon)))
    deep = np.float32(0.8) * coverage(ellipsoid_depth(template, DEEP_GREY), 2 * edge)
    grey = (1 - fluid) * np.maximum(ribbon, deep)
    return Tissues(
        white=1 - fluid - grey,
        grey=grey,
        fluid=fluid,
        vessel=_vessels(grid, template, vessel_sheet, sulcus, style.vessel),
        plexus=coverage(ellipsoid_depth(template, PLEXUS) + style.plexus, edge) * coverage(ventricle, edge),
        cortex=cortex,
        ventricle=ventricle,
    )


def _sulci(rng: np.random.Generator, grid: BrainGrid, template: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Distances (mm) to two families of sheets that stand upright on the brain's surface.

    The zero crossings of a band-limited random field wind like sulci; taken on the direction from the centre of the
    brain they stand upright.
    """
    u = [(template[axis] - centre) / np.float32(half) for axis, centre, half in ((0, 0, 66), (1, 0, 84), (2, 8, 57))]
    radius = np.maximum(np.sqrt(u[0] ** 2 + u[1] ** 2 + u[2] ** 2), 0.05)
    stretch = 68 / radius * (1 + 0.3 * (radius - 1))
    direction = np.stack([v * stretch for v in u]).astype(np.float32)
    return (
        _distance_to_zero(SmoothField(rng, 6.0, (80, 80, 80), band_pass=True).at(direction), grid),
        _distance_to_zero(SmoothField(rng, 14.0, (80, 80, 80), band_pass=True).at(direction), grid),
    )


def _distance_to_zero(values: FloatArray, grid: BrainGrid) -> FloatArray:
    """First-order distance (mm) to the zero crossing of a field."""
    slopes = np.gradient(grid.scatter(values), *grid.spacing)
    slope = np.sqrt(sum(part[grid.mask] ** 2 for part in slopes))
    return np.abs(values) / np.maximum(slope, 0.06)


def _vessels(grid: BrainGrid, template: FloatArray, sheet: FloatArray, sulcus: FloatArray, width: float) -> FloatArray:
    """Fraction of vessel: the sagittal sinus, and veins where two families of sheets cross near the surface."""
    veins = width - np.sqrt(sheet**2 + sulcus**2)
    veins = np.minimum(veins, 12 - grid.depth)
    sinus = np.minimum(2.5 - np.abs(template[0]), 4 - grid.depth)
    sinus = np.where(template[2] > 5, sinus, np.float32(-9))
    return coverage(np.maximum(veins, sinus), grid.edge)

"""The true surface of a phantom's tumour: the zero level of the functions that its labels are the sign of."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple
from unittest import mock

import mcubes
import numpy as np
from _mesh_distance import Mesh
from numpy.typing import NDArray
from scipy import ndimage

from custom_nets.tools.phantoms import brain_lesions as phantom_lesions
from custom_nets.tools.phantoms.brain_anatomy import Head
from custom_nets.tools.phantoms.brain_lesions import Lesion, displace, grow_tumour, place_lesions
from custom_nets.tools.phantoms.brain_styles import get_style
from custom_nets.tools.phantoms.brain_tissues import BrainGrid, grow_tissues
from custom_nets.tools.phantoms.smooth_fields import FloatArray
from custom_nets.transforms.saving.meshes import bounding_box


class ShiftedGrid(BrainGrid):
    """A part of a phantom's grid, shifted by a fraction of a voxel.

    Shifted copies of the grid together are a finer one, on which everything that the phantom computes from its voxel
    size (the width of edges, finite differences) stays what it is on the phantom's own voxels.

    Args:
        shape: voxels of the whole volume.
        head: the head that lies in it.
        box: the part.
        shift: in voxels.
    """

    def __init__(self, shape: Sequence[int], head: Head, box: Sequence[slice], shift: Sequence[float]) -> None:
        self.box, self.shift = tuple(box), shift
        super().__init__(shape, head)

    def _crop(self) -> tuple[tuple[slice, ...], list[FloatArray]]:
        axes = []
        for part, n, step, shift in zip(self.box, self.shape, self.spacing, self.shift, strict=True):
            axes.append(((np.arange(part.start, part.stop) + 0.5 + shift) * step - n * step / 2).astype(np.float32))
        return self.box, axes


class TumourLevels:
    """The level functions of whole tumour and core of one phantom, at any point: positive inside, 0 on the surface.

    Args:
        shape: voxels of the phantom.
        seed: as `brain_phantom` has it.
        case: as `brain_phantom` has it.
        style: as `brain_phantom` has it.
    """

    def __init__(self, shape: Sequence[int], seed: int, case: int, style: str) -> None:
        self.shape, self.case, self.style = tuple(shape), case, get_style(style)
        self.streams = np.random.SeedSequence([seed, case])
        rngs = self._rngs()
        self.head = Head(rngs[0])
        self.lesions: list[Lesion] = place_lesions(rngs[1], self.head, case, self.style)
        self.offsets: list[np.float32] = []
        self._grow(BrainGrid(shape, self.head), record=True)

    def on_box(self, box: Sequence[slice], factor: int) -> FloatArray:
        """Levels `[2, H, W, D]` of whole tumour and core on a finer grid.

        Args:
            box: part of the phantom's voxels.
            factor: steps a voxel. Every `factor`-th node is the centre of a voxel, the first one that of the box's.
        """
        fine = np.empty((2, *(factor * (part.stop - part.start) for part in box)), dtype=np.float32)
        for shift in itertools.product(range(factor), repeat=3):
            grid = ShiftedGrid(self.shape, self.head, box, [step / factor for step in shift])
            for level, into in zip(self._grow(grid), fine, strict=True):
                into[tuple(slice(step, None, factor) for step in shift)] = grid.scatter(level, phantom_lesions.OUTSIDE)
        return fine

    def _rngs(self) -> list[np.random.Generator]:
        spawned = np.random.SeedSequence(self.streams.entropy).spawn(7)
        return [np.random.default_rng(stream) for stream in spawned]

    def _grow(self, grid: BrainGrid, record: bool = False) -> list[FloatArray]:
        """The levels `[N]` before the removal of islands; the offsets that set the volumes are the phantom's own."""
        rngs = self._rngs()
        moved = displace(grid.points, grid.template, self.lesions)
        tissues = grow_tissues(rngs[2], grid, self.head, moved, self.style)
        seen: list[FloatArray] = []
        offsets = iter(self.offsets)

        def shift(level: FloatArray, territory: FloatArray, volume: float, grid: BrainGrid) -> FloatArray:
            if record:
                allowed = np.sort(level[territory > 0])
                self.offsets.append(allowed[-min(max(1, round(volume / grid.voxel_volume)), allowed.size - 1) - 1])
            return np.minimum(level - (self.offsets[-1] if record else next(offsets)), territory)

        def look(_: BrainGrid, whole: FloatArray, core: FloatArray) -> NDArray[np.bool_]:
            seen.extend([whole, core])
            return np.ones(whole.shape, dtype=bool)

        # The phantoms give labels and fractions alone. Looking in where they have the levels, and where these are
        # shifted to a volume counted in voxels, keeps their formula in one place.
        with (
            mock.patch.object(phantom_lesions, "_with_volume", shift),
            mock.patch.object(phantom_lesions, "_without_islands", look),
        ):
            grow_tumour(rngs[3], grid, tissues, self.lesions, self.style)
        return seen


class TrueSurface(NamedTuple):
    """The true surface of one region.

    Attributes:
        mesh: in world mm.
        differing: voxels whose label is not the sign of the level function there.
    """

    mesh: Mesh
    differing: int


def true_surfaces(levels: TumourLevels, label: NDArray, affine: NDArray, factor: int) -> list[TrueSurface]:
    """The surfaces of whole tumour and core, `factor` times finer than the voxels."""
    box = bounding_box(label > 0, margin=4)
    assert box is not None
    box = tuple(slice(part.start, min(part.stop, n)) for part, n in zip(box, label.shape, strict=True))
    nested = (label[box] > 0, (label[box] == 1) | (label[box] == 4))
    surfaces = []
    for level, inside in zip(levels.on_box(box, factor), nested, strict=True):
        level = _without_islands(level, inside, factor)
        vertices, triangles = mcubes.marching_cubes(level.astype(np.float64), 0.0)
        world = (vertices / factor + [part.start for part in box]) @ affine[:3, :3].T + affine[:3, 3]
        differing = int(((level[::factor, ::factor, ::factor] > 0) != inside).sum())
        surfaces.append(TrueSurface((world, triangles.astype(np.int64)), differing))
    return surfaces


def _without_islands(level: FloatArray, inside: NDArray[np.bool_], factor: int) -> FloatArray:
    """Removes from a fine level the islands that the phantom removed, and those that no voxel's centre meets."""
    positive = level > 0
    at_voxels = np.zeros_like(positive)
    at_voxels[::factor, ::factor, ::factor] = positive[::factor, ::factor, ::factor]
    # A bridge thinner than a voxel may tie an island to the rest: cut half way between their voxels.
    nearest = ndimage.distance_transform_edt(~at_voxels, return_distances=False, return_indices=True)
    kept = positive & inside[tuple(index // factor for index in nearest)]
    pieces, _ = ndimage.label(kept)
    kept &= np.isin(pieces, np.unique(pieces[at_voxels & kept]))
    return np.where(positive & ~kept, -np.abs(level), level)

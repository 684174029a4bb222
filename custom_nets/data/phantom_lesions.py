"""Synthetic brain tumours: nested, irregular, along the white matter; and harmless bright spots that look alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from custom_nets.data.phantom_anatomy import REACH, Head, coverage, outline_depth
from custom_nets.data.phantom_tissues import BrainGrid, Tissues
from custom_nets.data.smooth_fields import FloatArray, SmoothField

NECROTIC, OEDEMA, ENHANCING = 1, 2, 4
"""Label numbers of BraTS 2020."""

OUTSIDE = np.float32(-99)


@dataclass(frozen=True)
class Lesion:
    """One tumour to be grown.

    Attributes:
        centre: head-centred position in mm.
        volume: whole tumour in mm³.
        core_share: share of the volume that is tumour core.
        stretch: relative length of its axes.
        rim: thickness of the enhancing rim in mm, 0 for a tumour that does not enhance.
        push: how strongly it displaces its surroundings, 0 to 0.4.
    """

    centre: tuple[float, float, float]
    volume: float
    core_share: float
    stretch: tuple[float, float, float]
    rim: float
    push: float

    @property
    def radius(self) -> float:
        """Radius in mm of a ball of the same volume."""
        return float((self.volume * 3 / (4 * np.pi)) ** (1 / 3))

    def distance(self, points: FloatArray) -> FloatArray:
        """Distance `[N]` (mm) from the centre, in the lesion's own stretched metric."""
        parts = [(points[axis] - np.float32(self.centre[axis])) / np.float32(self.stretch[axis]) for axis in range(3)]
        return np.sqrt(parts[0] ** 2 + parts[1] ** 2 + parts[2] ** 2)


@dataclass(frozen=True)
class Tumour:
    """All lesions of one brain on its voxels `[N]`: label numbers, and the fractions of the three nested regions."""

    label: NDArray[np.uint8]
    whole: FloatArray
    core: FloatArray
    enhancing: FloatArray


def is_enhancing(case: int) -> bool:
    """Whether this case has enhancing tumour: every sixth has none."""
    return case % 6 != 3


def count_lesions(case: int) -> int:
    """Number of separate lesions of this case: one, two or three."""
    return {2: 2, 5: 3}.get(case % 6, 1)


def place_lesions(rng: np.random.Generator, head: Head, case: int) -> list[Lesion]:
    """Chooses size and place of the lesions of one case, in the cerebrum and apart from each other."""
    count = count_lesions(case)
    total = float(np.exp(rng.uniform(np.log(24e3), np.log(100e3))))
    shares = np.array([1.0, 0.3, 0.2][:count]) * rng.uniform(0.85, 1.15, count)
    lesions: list[Lesion] = []
    for volume in total * shares / shares.sum():
        draft = _draw_lesion(rng, float(volume), is_enhancing(case))
        lesions.append(_place(rng, head, draft, lesions))
    return lesions


def _draw_lesion(rng: np.random.Generator, volume: float, enhancing: bool) -> Lesion:
    x, y, z = rng.uniform(0.85, 1.2, 3)
    return Lesion(
        centre=(0.0, 0.0, 0.0),
        volume=volume,
        core_share=float(rng.uniform(0.28, 0.5) if enhancing else rng.uniform(0.45, 0.65)),
        stretch=(float(x), float(y), float(z)),
        rim=float(rng.uniform(3.5, 6.5)) if enhancing else 0.0,
        push=float(rng.uniform(0.1, 0.35)),
    )


def _place(rng: np.random.Generator, head: Head, draft: Lesion, others: list[Lesion]) -> Lesion:
    """Puts a lesion at the random candidate that keeps its wishes best."""
    candidates = rng.uniform((-60, -75, -25), (60, 75, 60), (500, 3)).astype(np.float32).T
    template = head.to_template(candidates)
    depth, cerebral = outline_depth(template)
    wanted = draft.radius * 0.6 + 7
    # Each wish is broken by so many mm; the first candidate that breaks none is taken.
    broken = np.maximum(wanted - depth, 0) + np.maximum(depth - wanted - 16, 0)
    broken += np.maximum(12 - cerebral, 0) + np.maximum(16 - np.abs(template[0]), 0)
    for other in others:
        offset = candidates - np.array(other.centre, dtype=np.float32)[:, None]
        broken += 3 * np.maximum(1.2 * (draft.radius + other.radius) + 14 - np.sqrt((offset**2).sum(axis=0)), 0)
    x, y, z = (float(v) for v in candidates[:, int(np.argmin(broken))])
    return Lesion((x, y, z), draft.volume, draft.core_share, draft.stretch, draft.rim, draft.push)


def displace(points: FloatArray, template: FloatArray, lesions: list[Lesion]) -> FloatArray:
    """Template positions `[3, N]` after the lesions have pushed the anatomy outwards (mass effect)."""
    moved = template.copy()
    for lesion in lesions:
        offset = points - np.array(lesion.centre, dtype=np.float32)[:, None]
        near = np.exp(-(offset**2).sum(axis=0) / np.float32(2 * (1.1 * lesion.radius) ** 2))
        moved -= np.float32(lesion.push) * near * offset
    return moved


def grow_tumour(rng: np.random.Generator, grid: BrainGrid, tissues: Tissues, lesions: list[Lesion]) -> Tumour:
    """Grows irregular lesions of the planned volumes into a brain.

    Cores displace what was there; oedema creeps along the white matter and spares cortex. Neither leaves the cerebrum
    or enters a ventricle, and few cross the midline.
    """
    coarse, fine, border, patches = (grid.sample(SmoothField(rng, mm, REACH)) for mm in (13.0, 6.0, 8.0, 12.0))
    room = np.minimum(np.minimum(grid.depth - 2.0, -tissues.ventricle - 0.5), grid.cerebral - 2.0)
    whole, core, rim = (np.full_like(room, OUTSIDE) for _ in range(3))
    for lesion in lesions:
        distance = lesion.distance(grid.points)
        territory = np.minimum(room, _territory(grid, lesion, lesions))
        size = lesion.radius
        across = np.maximum(-np.float32(np.sign(lesion.centre[0])) * grid.points[0], 0)
        inner: FloatArray = -distance + size * (0.2 * coarse + 0.08 * fine) - across
        inner = _with_volume(inner, territory, lesion.core_share * lesion.volume, grid)
        outer: FloatArray = -0.7 * distance + size * (0.27 * border - 0.1 * coarse) + 1.5 * fine - across
        outer -= np.float32(0.4 * size) * tissues.grey + np.float32(0.6 * size) * tissues.fluid
        outer = _with_volume(np.maximum(outer, inner - 0.6 * size), territory, lesion.volume, grid)
        outer = np.maximum(outer, inner)
        whole, core = np.maximum(whole, outer), np.maximum(core, inner)
        rim = np.where(inner > -9, np.float32(lesion.rim) * (1 + 0.3 * coarse), rim)
    whole = np.where(_without_islands(grid, whole, core), whole, OUTSIDE)
    # Part of a rim stays dark; a small core enhances throughout.
    ring = (
        np.minimum(np.minimum(rim - core, core), 2.5 * (1.5 - patches))
        if lesions[0].rim
        else np.full_like(core, OUTSIDE)
    )
    label = np.zeros(whole.shape, dtype=np.uint8)
    label[whole > 0] = OEDEMA
    label[core > 0] = NECROTIC
    label[(ring > 0) & (core > 0)] = ENHANCING
    label[grid.depth <= 0] = 0
    return Tumour(label, *(coverage(level, grid.edge) for level in (whole, core, ring)))


def _territory(grid: BrainGrid, lesion: Lesion, lesions: list[Lesion]) -> FloatArray:
    """Signed distance (mm) to the border of the part of the brain that this lesion may grow in."""
    mine = lesion.distance(grid.points) - lesion.radius
    margin = np.full_like(mine, -OUTSIDE)
    for other in lesions:
        if other is not lesion:
            # A gap of at least one voxel, so that lesions stay separate at every voxel size.
            theirs = other.distance(grid.points) - other.radius
            margin = np.minimum(margin, (theirs - mine) / 2 - 1.5 - max(grid.spacing))
    return margin


def _with_volume(level: FloatArray, territory: FloatArray, volume: float, grid: BrainGrid) -> FloatArray:
    """Shifts a level so that its positive part within the territory has the volume (mm³)."""
    allowed = np.sort(level[territory > 0])
    wanted = min(max(1, round(volume / grid.voxel_volume)), allowed.size - 1)
    return np.minimum(level - allowed[-wanted - 1], territory)


def _without_islands(grid: BrainGrid, whole: FloatArray, core: FloatArray) -> NDArray[np.bool_]:
    """Where tumour may be: its pieces that touch a core, and the blurred edge around them."""
    pieces, _ = ndimage.label(grid.scatter(whole > 0))
    kept = np.unique(pieces[grid.scatter(core > 0)])
    kept_mask = np.isin(pieces, kept[kept > 0])
    return ndimage.binary_dilation(kept_mask, np.ones((3, 3, 3)))[grid.mask] & ~(
        (pieces[grid.mask] > 0) & ~kept_mask[grid.mask]
    )


def scatter_white_spots(rng: np.random.Generator, grid: BrainGrid, tissues: Tissues, tumour: Tumour) -> FloatArray:
    """Fraction `[N]` of harmless white matter hyperintensity: caps around the ventricles, and scattered spots."""
    coarse, fine = (grid.sample(SmoothField(rng, mm, REACH)) for mm in (16.0, 5.0))
    near_ventricle = -tissues.ventricle
    caps = 1.5 - 0.9 * near_ventricle + 4.0 * coarse + 1.2 * fine
    spots = 2.2 * fine + 0.6 * coarse - 2.0 - 0.12 * np.abs(near_ventricle - 14)
    level = np.maximum(caps, spots)
    room = np.minimum(np.minimum(tissues.cortex - 5, near_ventricle), grid.cerebral - 4)
    volume = float(np.exp(rng.uniform(np.log(12e3), np.log(40e3))))
    return coverage(_with_volume(level, room, volume, grid), grid.edge) * tissues.white * (1 - tumour.whole)

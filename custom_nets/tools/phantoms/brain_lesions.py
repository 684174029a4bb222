"""Synthetic brain tumours: nested, irregular, along the white matter; and harmless bright spots that look alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import ndtri

from custom_nets.tools.phantoms.brain_anatomy import REACH, Head, coverage, outline_depth
from custom_nets.tools.phantoms.brain_styles import LesionPlan, PhantomStyle, Range
from custom_nets.tools.phantoms.brain_tissues import BrainGrid, Tissues
from custom_nets.tools.phantoms.smooth_fields import FloatArray, SmoothField

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
        cover: how much of the rim enhances, see `LesionPlan`.
        solid: share of the core outside the rim that is not necrotic.
        fade: width over which its oedema fades around the border in mm, 0 for a sharp border.
    """

    centre: tuple[float, float, float]
    volume: float
    core_share: float
    stretch: tuple[float, float, float]
    rim: float
    push: float
    cover: float = 1.5
    solid: float = 0.0
    fade: float = 0.0

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
    """All lesions of one brain on its voxels `[N]`.

    Attributes:
        label: label numbers.
        whole, core, enhancing: fractions of the three nested regions.
        oedema: share of the signal that is oedema's where there is no core; it strays from `whole` as the style wants.
        solid: share of the core that is not necrotic.
    """

    label: NDArray[np.uint8]
    whole: FloatArray
    core: FloatArray
    enhancing: FloatArray
    oedema: FloatArray
    solid: FloatArray


def is_enhancing(case: int) -> bool:
    """Whether this case has enhancing tumour: every sixth has none."""
    return case % 6 != 3


def count_lesions(case: int) -> int:
    """Number of separate lesions of this case: one, two or three."""
    return {2: 2, 5: 3}.get(case % 6, 1)


def place_lesions(rng: np.random.Generator, head: Head, case: int, style: PhantomStyle) -> list[Lesion]:
    """Chooses size and place of the lesions of one case, in the cerebrum and apart from each other."""
    drafts = _draft_sequence(rng, case) if style.lesions is None else _draft_plan(rng, style.lesions)
    lesions: list[Lesion] = []
    for draft in drafts:
        lesions.append(_place(rng, head, draft, lesions))
    return lesions


def _draft_sequence(rng: np.random.Generator, case: int) -> Iterator[Lesion]:
    """Lesions of the standard style, without a place."""
    count = count_lesions(case)
    total = float(np.exp(rng.uniform(np.log(24e3), np.log(100e3))))
    shares = np.array([1.0, 0.3, 0.2][:count]) * rng.uniform(0.85, 1.15, count)
    for volume in total * shares / shares.sum():
        yield _draw_lesion(rng, float(volume), is_enhancing(case))


def _draft_plan(rng: np.random.Generator, plan: LesionPlan) -> Iterator[Lesion]:
    """Lesions drawn from a plan, without a place."""
    count = 1 + int(rng.choice(len(plan.counts), p=plan.counts))
    quiet_case = rng.random() < plan.quiet_cases
    for number in range(count):
        small = rng.random() < plan.small_share
        further = plan.small_volume if small else plan.satellite_volume
        volume = _draw_volume(rng, further if number else plan.main_volume)
        quiet = quiet_case or bool(number and rng.random() < plan.quiet_lesions)
        draft = _draw_lesion(rng, volume, not quiet)
        yield replace(
            draft,
            # A core of a small lesion would be lost between the voxels.
            core_share=float(max(rng.uniform(*plan.core_share), 0.5 - 0.25 * volume / 1000)),
            rim=0.0 if quiet else float(rng.uniform(*plan.rim)),
            push=draft.push * min(1.0, draft.radius / 15),
            cover=float(rng.uniform(*plan.cover)),
            solid=1.0 if quiet else float(rng.uniform(*plan.solid)),
            fade=float(min(rng.uniform(*plan.fade), 1.5 * draft.radius)),
        )


def _draw_volume(rng: np.random.Generator, limits: Range) -> float:
    """A volume, each order of magnitude as likely as the other."""
    return float(np.exp(rng.uniform(np.log(limits[0]), np.log(limits[1]))))


def _draw_lesion(rng: np.random.Generator, volume: float, enhancing: bool) -> Lesion:
    x, y, z = rng.uniform(0.85, 1.2, 3)
    return Lesion(
        centre=(0.0, 0.0, 0.0),
        volume=volume,
        core_share=float(rng.uniform(0.28, 0.5) if enhancing else rng.uniform(0.45, 0.65)),
        stretch=(float(x), float(y), float(z)),
        rim=float(rng.uniform(3.5, 6.5)) if enhancing else 0.0,
        push=float(rng.uniform(0.1, 0.35)),
        solid=0.0 if enhancing else 1.0,
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
    return replace(draft, centre=(x, y, z))


def displace(points: FloatArray, template: FloatArray, lesions: list[Lesion]) -> FloatArray:
    """Template positions `[3, N]` after the lesions have pushed the anatomy outwards (mass effect)."""
    moved = template.copy()
    for lesion in lesions:
        offset = points - np.array(lesion.centre, dtype=np.float32)[:, None]
        near = np.exp(-(offset**2).sum(axis=0) / np.float32(2 * (1.1 * lesion.radius) ** 2))
        moved -= np.float32(lesion.push) * near * offset
    return moved


def grow_tumour(
    rng: np.random.Generator, grid: BrainGrid, tissues: Tissues, lesions: list[Lesion], style: PhantomStyle
) -> Tumour:
    """Grows irregular lesions of the planned volumes into a brain.

    Cores displace what was there; oedema creeps along the white matter and spares cortex. Neither leaves the cerebrum
    or enters a ventricle, and few cross the midline.
    """
    coarse, fine, border, patches = (grid.sample(SmoothField(rng, mm, REACH)) for mm in (13.0, 6.0, 8.0, 12.0))
    room = np.minimum(np.minimum(grid.depth - 2.0, -tissues.ventricle - 0.5), grid.cerebral - 2.0)
    whole, core, rim = (np.full_like(room, OUTSIDE) for _ in range(3))
    cover, fade, solid = (np.zeros_like(room) for _ in range(3))
    quiet = np.zeros(room.shape, dtype=bool)
    for lesion in lesions:
        distance = lesion.distance(grid.points)
        territory = np.minimum(room, _territory(grid, lesion, lesions))
        size = lesion.radius
        across = np.maximum(-np.float32(np.sign(lesion.centre[0])) * grid.points[0], 0)
        inner: FloatArray = -distance + size * (0.2 * coarse + 0.08 * fine) - across
        inner = _with_volume(inner, territory, lesion.core_share * lesion.volume, grid)
        # Ripples of a fixed height would tear a small lesion to pieces.
        ripples = min(1.5, 0.18 * size) * fine
        outer: FloatArray = -0.7 * distance + size * (0.27 * border - 0.1 * coarse) + ripples - across
        outer -= np.float32(0.4 * size) * tissues.grey + np.float32(0.6 * size) * tissues.fluid
        outer = _with_volume(np.maximum(outer, inner - 0.6 * size), territory, lesion.volume, grid)
        outer = np.maximum(outer, inner)
        fade = np.where(outer >= whole, np.float32(lesion.fade), fade)
        whole, core = np.maximum(whole, outer), np.maximum(core, inner)
        if lesion.rim:
            rim = np.where(inner > -9, np.float32(lesion.rim) * (1 + 0.3 * coarse), rim)
        mine = inner >= core
        quiet[mine], cover[mine], solid[mine] = not lesion.rim, lesion.cover, lesion.solid
    grown = whole
    whole = np.where(_without_islands(grid, whole, core), whole, OUTSIDE)
    # Part of a rim stays dark; a small core enhances throughout.
    ring = np.where(quiet, OUTSIDE, np.minimum(np.minimum(rim - core, core), 2.5 * (cover - patches)))
    label = np.zeros(whole.shape, dtype=np.uint8)
    label[whole > 0] = OEDEMA
    label[core > 0] = NECROTIC
    label[(ring > 0) & (core > 0)] = ENHANCING
    label[grid.depth <= 0] = 0
    extent, nucleus, bright = (
        coverage(level, max(grid.edge, blur))
        for level, blur in ((whole, 0.0), (core, style.core_blur), (ring, style.core_blur))
    )
    if style.lesions is None:
        return Tumour(label, extent, nucleus, bright, oedema=extent, solid=solid)
    stray, thinning, mottle = (grid.sample(SmoothField(rng, mm, REACH)) for mm in (5.0, 9.0, 7.0))
    seen = _beyond_border(grid, label > 0, whole, grown) + np.float32(style.border_doubt) * stray
    visible = _fading(seen, np.maximum(fade, grid.edge)) * (1 - np.float32(style.patchiness) * coverage(thinning, 3.0))
    mixture = coverage(ndtri(solid).astype(np.float32) - mottle, 0.8)
    return Tumour(label, extent, nucleus, bright, oedema=visible, solid=mixture)


def _beyond_border(grid: BrainGrid, inside: NDArray[np.bool_], whole: FloatArray, grown: FloatArray) -> FloatArray:
    """The level of the whole tumour, continued outside its border and falling with the distance from it (mm)."""
    away = ndimage.distance_transform_edt(~grid.scatter(inside), sampling=grid.spacing)[grid.mask].astype(np.float32)
    return np.where(inside, whole, np.minimum(grown, 0) - 0.5 * np.maximum(away - grid.edge, 0))


def _fading(level: FloatArray, width: FloatArray) -> FloatArray:
    """A soft step from 0 to 1 over a width in mm, one half where the level is 0."""
    ramp = np.clip(np.float32(0.5) + level / width, 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


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
    """Returns the places of tumour: its pieces that touch a core, and the blurred edge around them."""
    pieces, _ = ndimage.label(grid.scatter(whole > 0))
    kept = np.unique(pieces[grid.scatter(core > 0)])
    kept_mask = np.isin(pieces, kept[kept > 0])
    return ndimage.binary_dilation(kept_mask, np.ones((3, 3, 3)))[grid.mask] & ~(
        (pieces[grid.mask] > 0) & ~kept_mask[grid.mask]
    )


def scatter_white_spots(
    rng: np.random.Generator, grid: BrainGrid, tissues: Tissues, tumour: Tumour, style: PhantomStyle
) -> FloatArray:
    """Fraction `[N]` of harmless white matter hyperintensity: caps around the ventricles, and scattered spots."""
    coarse, fine = (grid.sample(SmoothField(rng, mm, REACH)) for mm in (16.0, 5.0))
    near_ventricle = -tissues.ventricle
    caps = style.cap - 0.9 * near_ventricle + 4.0 * coarse + 1.2 * fine
    spots = 2.2 * fine + 0.6 * coarse - 2.0 - 0.12 * np.abs(near_ventricle - 14)
    level = np.maximum(caps, spots)
    room = np.minimum(np.minimum(tissues.cortex - 5, near_ventricle), grid.cerebral - 4)
    volume = _draw_volume(rng, style.spot_volume)
    level = _with_volume(level, room, volume, grid)
    return coverage(level, max(grid.edge, style.spot_blur)) * tissues.white * (1 - tumour.whole)

"""Synthetic liver tumours: darker than the liver, some hardly so, some with a rim or a necrotic core."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from custom_nets.errors import InputError
from custom_nets.tools.phantoms.abdomen_anatomy import LIVER_SPAN, Abdomen
from custom_nets.tools.phantoms.abdomen_grid import Layer, ScanGrid, Sites
from custom_nets.tools.phantoms.smooth_fields import FloatArray, SmoothField

TUMOUR = 2
"""Label number of LiTS."""

MAX_TUMOURS = 6
DIAMETERS = (5.0, 45.0)
"""Smallest and largest diameter (mm) of the tumours that are drawn."""

GAP = 3.0
"""Healthy liver (mm) that is left around every tumour."""

SUBTLE_SHARE = 0.4
"""Share of the tumours that are barely visible, at least."""

SUBTLE, CLEAR = (8.0, 20.0), (20.0, 60.0)
"""By how many HU a tumour is darker than the liver."""

CANDIDATES = 4000


@dataclass(frozen=True)
class LiverTumour:
    """One tumour.

    Attributes:
        centre: position in the scanner's frame (mm).
        radius: mean radius in mm.
        stretch: relative length of its axes.
        roughness: standard deviation of its radius, relative.
        outline: field over the unit sphere by which the radius varies.
        contrast: by how many HU it is darker than the liver.
        rim: HU of a rim, above the tumour's; 0 for none.
        necrosis: radius of a necrotic core, relative; 0 for none.
    """

    centre: FloatArray
    radius: float
    stretch: tuple[float, float, float]
    roughness: float
    outline: SmoothField
    contrast: float
    rim: float
    necrosis: float

    def depth(self, sites: Sites) -> FloatArray:
        """Depth (mm) below the surface of the tumour."""
        shape = (3, *[1] * (sites.points.ndim - 1))
        offset = (sites.points - self.centre.reshape(shape)) / np.array(self.stretch, dtype=np.float32).reshape(shape)
        distance = np.sqrt((offset**2).sum(axis=0))
        direction = Sites(offset / np.maximum(distance, np.float32(1e-3)))
        surface = 1 + np.float32(self.roughness) * np.clip(direction.sample(self.outline), -2, 2)
        return np.float32(self.radius) * surface - distance


def place_tumours(
    rng: np.random.Generator, abdomen: Abdomen, middle: float, diameters: Sequence[float] | None
) -> list[LiverTumour]:
    """Chooses the tumours of one liver: wholly inside it and apart from each other.

    Args:
        rng: generator of these tumours.
        abdomen: the body.
        middle: height (mm) of the liver's middle in the scanner's frame.
        diameters: mm, one a tumour, near-spherical; None draws 0 to 6 irregular ones.

    Raises:
        InputError: when a tumour of a given diameter finds no place.
    """
    drawn = diameters is None
    if diameters is None:
        count = int(rng.integers(MAX_TUMOURS + 1))
        diameters = np.exp(rng.uniform(np.log(DIAMETERS[0]), np.log(DIAMETERS[1]), count)).tolist()
    subtle = rng.permutation(len(diameters)) < SUBTLE_SHARE * len(diameters)
    reach = (LIVER_SPAN[1] - LIVER_SPAN[0]) / 2
    points = rng.uniform((-60, -90, middle - reach), (145, 95, middle + reach), (CANDIDATES, 3)).astype(np.float32).T
    room = abdomen.label_depth(Sites(points))
    tumours: list[LiverTumour] = []
    for number in np.argsort(np.negative(diameters), kind="stable"):  # the largest find their place first
        radius = float(diameters[number]) / 2
        centre = _find_place(abdomen, points, room, radius, 0.25 if drawn else 0.1, tumours)
        while centre is None and drawn and radius > DIAMETERS[0]:
            radius /= 2
            centre = _find_place(abdomen, points, room, radius, 0.25, tumours)
        if centre is None:
            msg = (
                f"a tumour of {2 * radius:g} mm has no place in this liver beside the other {len(tumours)}; "
                "ask for fewer or smaller tumours, or another case"
            )
            raise InputError(msg)
        tumours.append(_draw_tumour(rng, centre, radius, bool(subtle[number]), drawn))
    return tumours


def tumour_layers(grid: ScanGrid, tumours: Sequence[LiverTumour], liver: float) -> Iterator[Layer]:
    """Layers of the tumours on the voxels of a scan, in a liver of so many HU."""
    for tumour in tumours:
        reach = 1.5 * tumour.radius + 2 * max(grid.spacing)
        box = grid.find_box(tumour.centre - reach, tumour.centre + reach, on_voxels=True)
        depth = tumour.depth(grid.voxel_sites(box))
        signal = liver - tumour.contrast
        yield grid.layer(box, depth, signal + tumour.rim, TUMOUR, on_voxels=True)
        if tumour.rim:
            yield grid.layer(box, depth - np.float32(0.18 * tumour.radius), signal, None, on_voxels=True)
        if tumour.necrosis:
            core = depth - np.float32((1 - tumour.necrosis) * tumour.radius)
            yield grid.layer(box, core, min(signal - 12, 28), None, on_voxels=True)


def _draw_tumour(
    rng: np.random.Generator, centre: FloatArray, radius: float, subtle: bool, irregular: bool
) -> LiverTumour:
    x, y, z = rng.uniform(0.88, 1.12, 3) if irregular else (1.0, 1.0, 1.0)
    rim = float(rng.uniform(0.3, 1.2)) if rng.random() < 0.4 and radius > 5 and not subtle else 0.0
    contrast = float(rng.uniform(*(SUBTLE if subtle else CLEAR)))
    necrotic = rng.random() < 0.35 and radius > 7 and not subtle
    return LiverTumour(
        centre=centre,
        radius=radius,
        stretch=(float(x), float(y), float(z)),
        roughness=0.07 if irregular else 0.02,
        outline=SmoothField(rng, 0.5, (1.1, 1.1, 1.1)),
        contrast=contrast,
        rim=rim * contrast,
        necrosis=float(rng.uniform(0.4, 0.7)) if necrotic else 0.0,
    )


def _find_place(
    abdomen: Abdomen, points: FloatArray, room: FloatArray, radius: float, excess: float, others: list[LiverTumour]
) -> FloatArray | None:
    """The first candidate that keeps a ball and its irregularities in the liver and away from other tumours."""
    fits = room > radius
    for other in others:
        distance = np.sqrt(((points - other.centre[:, None]) ** 2).sum(axis=0))
        fits &= distance > (1 + excess) * radius + 1.25 * other.radius + GAP
    surface = _sphere(80) * np.float32((1 + excess) * radius + GAP)
    for index in np.flatnonzero(fits)[:60]:
        centre: FloatArray = points[:, index]
        if (abdomen.label_depth(Sites(centre[:, None] + surface)) > 0).all():
            return centre
    return None


def _sphere(count: int) -> FloatArray:
    """Directions `[3, count]`, evenly spread: the Fibonacci sphere."""
    turn = np.arange(count) * np.pi * (3 - np.sqrt(5))
    height = 1 - (2 * np.arange(count) + 1) / count
    ring = np.sqrt(1 - height**2)
    return np.stack([ring * np.cos(turn), ring * np.sin(turn), height]).astype(np.float32)

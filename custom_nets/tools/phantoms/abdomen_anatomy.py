"""Synthetic abdominal anatomy: what differs between patients, and where body and liver of one are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from custom_nets.tools.phantoms.abdomen_grid import Box, ScanGrid, Sites
from custom_nets.tools.phantoms.abdomen_shapes import (
    Point,
    Tube,
    ball_depth,
    chain,
    resized,
    sheet_depth,
    smooth_minimum,
    tubes_depth,
)
from custom_nets.tools.phantoms.brain_anatomy import smooth_maximum
from custom_nets.tools.phantoms.smooth_fields import FloatArray, SmoothField

Roots = tuple[tuple[list[Point], list[float]], ...]

REACH = (225.0, 190.0, 175.0)
"""Extent of random fields around the centre of a scan (mm)."""

BEND = 3.5
"""Standard deviation (mm) of the smooth deformation of everything."""

LIVER_SPAN = (-82.0, 100.0)
"""Lowest and highest z of the template's liver (mm)."""

# Template coordinates in mm: x to the patient's right, y to the front, z up; 0 in the middle of the body, at the
# height of the porta hepatis.
# Ellipsoids are centre and half axes.
CAVITY = (137.0, 92.0)
"""Half axes (mm) of the body within its muscular wall."""

WALL = 14.0
"""Mean thickness (mm) of that wall."""

RIGHT_LOBE: tuple[Point, Point] = ((70, -4, 14), (65, 82, 82))
LEFT_LOBE: tuple[Point, Point] = ((0, 38, 52), (80, 42, 36))
LIGAMENT: tuple[Point, Point] = ((2, 74, 2), (30, 34, 42))
KIDNEYS: tuple[tuple[Point, Point], ...] = (((69, -46, -64), (27, 25, 54)), ((-71, -46, -50), (28, 26, 56)))
GALLBLADDER: tuple[Point, Point] = ((48, 42, -42), (15, 22, 25))

CAVA = chain([(17, -22, -190), (19, -20, -60), (24, -18, 20), (22, -8, 88), (8, 0, 112)], [11, 11, 12, 12, 13])

# Where the trees of vessels in the liver start: points on the way, radii.
HEPATIC_ROOTS: Roots = (
    ([(24, -12, 74), (58, -16, 58), (92, -24, 34)], [5.5, 4.5, 3.2]),
    ([(24, -8, 76), (42, 18, 58), (56, 42, 24)], [5.5, 4.2, 2.8]),
    ([(22, -4, 78), (4, 22, 66), (-22, 42, 56)], [4.5, 3.6, 2.6]),
)
PORTAL_ROOTS: Roots = (
    ([(36, 8, 14), (58, 4, 14), (82, 20, 8)], [6, 5, 3.6]),
    ([(58, 4, 14), (84, -22, 2), (104, -36, -14)], [4.6, 3.8, 2.8]),
    ([(36, 8, 14), (20, 28, 36), (-8, 38, 46), (-34, 40, 50)], [5.2, 4.4, 3.4, 2.4]),
)


@dataclass(frozen=True)
class Patient:
    """Differences between bodies, beside their outlines.

    Attributes:
        scale: size along each axis, 1 the average.
        fat: thickness of the fat under the skin in mm.
        liver: size of the liver along each axis, 1 the average.
        spleen, stomach, gallbladder: their size, 1 the average.
        recess: height (mm) of the lower end of the lungs at the sides; it is lower at the back.
        fluid: y (mm) of the surface of the fluid in stomach and colon; air lies above, in front.
        organs: shift (mm) of stomach, spleen and both kidneys along each axis.
        signals: HU of the tissues.
    """

    scale: Point
    fat: float
    liver: Point
    spleen: float
    stomach: float
    gallbladder: float
    recess: float
    fluid: float
    organs: FloatArray
    signals: dict[str, float]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Patient:
        """Draws a body."""

        def some(low: float, high: float) -> float:
            return float(rng.uniform(low, high))

        scale = (some(0.95, 1.06), some(0.92, 1.05), some(0.95, 1.05))
        return cls(
            scale=scale,
            fat=some(7, 26),
            liver=(some(0.88, 0.96), some(0.89, 0.98), some(0.9, 1.0)),
            spleen=some(0.85, 1.15),
            stomach=some(0.75, 1.1),
            gallbladder=some(0.6, 1.1),
            recess=some(0, 28),
            fluid=some(22, 52),
            organs=rng.uniform(-6, 6, (4, 3)).astype(np.float32),
            signals={
                "liver": some(95, 125),
                "spleen": some(110, 130),
                "kidney": some(150, 190),
                "vessel": some(150, 180),
                "artery": some(150, 185),
                "heart": some(120, 160),
                "pancreas": some(75, 105),
                "stomach wall": some(65, 95),
                "stomach": some(5, 45),
                "gut wall": some(60, 95),
                "gut": some(20, 45) if rng.random() < 0.75 else some(120, 220),
                "colon": some(-40, 40),
                "bile": some(2, 18),
                "spongy": some(140, 220),
                "cortical": some(350, 500),
                "disc": some(70, 100),
            },
        )


class Abdomen:
    """The deformed anatomy of one patient in one scanner.

    Args:
        rng: generator of this patient.
        rotation: matrix `[3, 3]` from the scanner's frame to the patient's.
        centre: template height (mm) of the centre of the scan.
    """

    def __init__(self, rng: np.random.Generator, rotation: FloatArray, centre: float) -> None:
        self.patient = Patient.draw(rng)
        self.rotation = rotation.astype(np.float32)
        self.shift = np.array([*rng.uniform(-6, 6, 2), -centre], dtype=np.float32)
        self.bends = [SmoothField(rng, 55.0, REACH) for _ in range(3)]
        self.coarse, self.fine = SmoothField(rng, 26.0, REACH), SmoothField(rng, 11.0, REACH)
        self.tubes = [SmoothField(rng, 11.0, REACH) for _ in range(2)]
        self.loops = SmoothField(rng, 15.0, REACH, band_pass=True)
        self.trees = [tube for roots in (HEPATIC_ROOTS, PORTAL_ROOTS) for tube in _grow_trees(rng, roots)]

    def to_template(self, sites: Sites) -> FloatArray:
        """Template coordinates `[3, …]` of places in the scanner."""
        x, y, z = sites.points
        rows = []
        for axis, (row, bend) in enumerate(zip(self.rotation, self.bends, strict=True)):
            place = row[0] * x + row[1] * y + row[2] * z
            place -= self.shift[axis]
            place += np.float32(BEND) * sites.sample(bend)
            place /= np.float32(self.patient.scale[axis])
            rows.append(place)
        return np.stack(rows)

    def find_box(self, grid: ScanGrid, low: Sequence[float], high: Sequence[float], margin: float = 4.0) -> Box:
        """Nodes of a grid that hold everything between two corners of the template."""
        corners = np.stack(np.meshgrid(*zip(low, high, strict=True), indexing="ij")).reshape(3, -1)
        places = corners * np.reshape(self.patient.scale, (3, 1)) + self.shift.astype(float)[:, None]
        turned = np.stack([sum(self.rotation[row, axis] * places[row] for row in range(3)) for axis in range(3)])
        reach = margin + 3.2 * BEND
        return grid.find_box(turned.min(axis=1) - reach, turned.max(axis=1) + reach)

    def cavity_depth(self, template: FloatArray) -> FloatArray:
        """Depth (mm) below the inner surface of the wall of the body; its outer layers follow it."""
        x, y, _ = template
        u, v = np.abs(x) / np.float32(CAVITY[0]), np.abs(y) / np.float32(CAVITY[1])
        # A superellipse, with the first-order distance (1 - k) / |grad k| at its normalised radius k.
        power = np.float32(2.3)
        radius = np.maximum(u**power + v**power, 1e-4) ** (1 / power)
        slope = np.hypot((u / radius) ** (power - 1) / CAVITY[0], (v / radius) ** (power - 1) / CAVITY[1])
        return ((1 - radius) / slope).astype(np.float32)

    def liver_depth(self, sites: Sites, template: FloatArray) -> FloatArray:
        """Depth (mm) below the surface of the liver, with its vessels; gallbladder and vena cava not yet cut out."""
        shape = self.lobes_depth(template)
        x, y, z = resized(template, RIGHT_LOBE[0], self.patient.liver)
        # The lower surface falls from the tip of the left lobe to that of the right one, and to the front.
        right = (x + np.sqrt(x * x + 400)) / 2
        under = np.float32(0.7) * (z - 26 + np.float32(1.12) * right + np.float32(0.28) * y)
        shape = smooth_minimum(shape, under, 18.0)
        shape += np.float32(2.2) * sites.sample(self.coarse) + np.float32(0.7) * sites.sample(self.fine)
        for centre, half_axes in (KIDNEYS[0], ((6, -66, 40), (38, 52, 200))):
            shape = smooth_minimum(shape, -3 - ball_depth(template, centre, half_axes), 8.0)
        ligament = np.minimum(sheet_depth(template[0] - 2, 5.0), ball_depth(template, *LIGAMENT))
        shape = smooth_minimum(shape, -ligament, 4.0)
        return smooth_minimum(shape, self.cavity_depth(template) - 4, 6.0)

    def label_depth(self, sites: Sites) -> FloatArray:
        """Depth (mm) below the surface of what is labelled as liver."""
        template = self.to_template(sites)
        depth = np.minimum(self.liver_depth(sites, template), -self.gallbladder_depth(template))
        return np.minimum(depth, -tubes_depth(CAVA, template))

    def lobes_depth(self, template: FloatArray) -> FloatArray:
        """Depth (mm) below the surface of the liver's lobes, before other organs press on them."""
        sized = resized(template, RIGHT_LOBE[0], self.patient.liver)
        return smooth_maximum(ball_depth(sized, *RIGHT_LOBE), ball_depth(sized, *LEFT_LOBE), 24.0)

    def gallbladder_depth(self, template: FloatArray) -> FloatArray:
        """Depth (mm) below the wall of the gallbladder."""
        return ball_depth(resized(template, GALLBLADDER[0], (self.patient.gallbladder,) * 3), *GALLBLADDER)


def _grow_trees(rng: np.random.Generator, roots: Roots) -> list[Tube]:
    """Main vessels and the branches that leave them, each thinner and shorter than the one before."""
    tubes = []
    for points, radii in roots:
        main = chain(points, radii)
        tubes += main
        pending = [(tube, 0) for tube in main for _ in range(2)]
        while pending:
            parent, depth = pending.pop()
            along = np.subtract(parent.end, parent.start)
            length = max(12.0, float(np.sqrt((along**2).sum()))) * float(rng.uniform(0.65, 0.95))
            way = along / np.sqrt((along**2).sum()) + rng.normal(0, 0.55, 3)
            way *= length / np.sqrt((way**2).sum())
            share = 1.0 if depth else float(rng.uniform(0.4, 1))
            start = parent.start + share * along
            radius = 0.72 * parent.radii[1]
            branch = Tube(_point(start), _point(start + way), (radius, 0.8 * radius))
            tubes.append(branch)
            if depth < 2 and radius > 1.2:
                pending += [(branch, depth + 1)] * 2
    return tubes


def _point(values: FloatArray) -> Point:
    x, y, z = (float(v) for v in values)
    return x, y, z

"""Synthetic brain anatomy: where brain, cortex, white matter, ventricles and vessels are, as soft fractions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from custom_nets.tools.phantoms.smooth_fields import FloatArray, SmoothField

# Head-centred coordinates in mm: x to the patient's left, y to the back, z up. Each ellipsoid: centre, half axes.
# A centre with x > 0 stands for both sides.
Ellipsoid = tuple[tuple[float, float, float], tuple[float, float, float]]

FIELD_OF_VIEW = (240.0, 240.0, 155.0)
"""Size of every phantom in mm, whatever its voxels."""

REACH = tuple(size / 2 + 10 for size in FIELD_OF_VIEW)
"""Extent of random fields around the centre (mm)."""

CEREBRUM: tuple[Ellipsoid, ...] = (
    ((14, 0, 13), (54, 84, 51)),
    ((40, -14, -20), (22, 36, 20)),  # temporal lobes
)
CEREBELLUM: tuple[Ellipsoid, ...] = (((21, 44, -36), (32, 27, 24)),)
BRAINSTEM: tuple[Ellipsoid, ...] = (((0, 14, -38), (14, 13, 33)),)
DEEP_GREY: tuple[Ellipsoid, ...] = (
    ((11, 8, 1), (9, 14, 9)),  # thalamus
    ((15, -22, 9), (5, 12, 9)),  # head of the caudate nucleus
    ((27, -6, 1), (6, 17, 10)),  # putamen
)
INFERIOR_VENTRICLES: tuple[Ellipsoid, ...] = (
    ((0, 4, -3), (2.2, 12, 9)),  # third
    ((0, 33, -30), (6, 4, 8)),  # fourth
    ((33, 4, -17), (3, 18, 3.5)),  # temporal horns
)
PLEXUS: tuple[Ellipsoid, ...] = (((20, 26, 6), (3.0, 7, 3.5)),)

CORTEX_THICKNESS = 3.0


@dataclass(frozen=True)
class Build:
    """Differences between patients' heads.

    Attributes:
        scale: size of the brain along each axis, 1 the average.
        tilt: shift of the midline plane per mm of depth (asymmetry).
        ventricles: width of the ventricles, 1 the average.
        sulcus: half width of the sulci in mm (atrophy).
        sulcus_depth: mean depth of the sulci in mm.
    """

    scale: tuple[float, float, float]
    tilt: float
    ventricles: float
    sulcus: float
    sulcus_depth: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Build:
        """Draws a head."""
        x, y, z = rng.uniform(0.93, 1.02, 3)
        return cls(
            scale=(float(x), float(y), float(z)),
            tilt=float(rng.uniform(-0.04, 0.04)),
            ventricles=float(rng.uniform(0.8, 1.5)),
            sulcus=float(rng.uniform(0.4, 0.9)),
            sulcus_depth=float(rng.uniform(17, 21)),
        )


class Head:
    """The deformed outline of one brain.

    Args:
        rng: generator of this head's shape.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.build = Build.draw(rng)
        self.shift = rng.uniform(-3, 3, 3).astype(np.float32)
        self.bends = [SmoothField(rng, 45.0, REACH) for _ in range(3)]

    def to_template(self, points: FloatArray, bends: Sequence[FloatArray] | None = None) -> FloatArray:
        """Coordinates `[3, N]` in the undeformed template of points `[3, N]` (mm).

        Args:
            points: points in head-centred mm.
            bends: values of `self.bends` at the points, where the caller has them already.
        """
        values = [field.at(points) for field in self.bends] if bends is None else bends
        moved = [
            (points[axis] - self.shift[axis] + 2.5 * values[axis]) / np.float32(self.build.scale[axis])
            for axis in range(3)
        ]
        moved[0] = moved[0] + np.float32(self.build.tilt) * moved[1]
        return np.stack(moved)


def ellipsoid_depth(points: FloatArray, ellipsoids: Sequence[Ellipsoid]) -> FloatArray:
    """Approximate depth in mm (negative outside) of points `[3, N]` below the surface of a union of ellipsoids.

    Each ellipsoid uses the first-order distance `k (1 - k) / |grad k|` with k the normalised radius.
    """
    depth: FloatArray | None = None
    side = np.abs(points[0])
    for centre, half_axes in ellipsoids:
        x = side if centre[0] > 0 else points[0]
        u = [
            np.float32(1 / a) * (p - np.float32(c))
            for p, c, a in zip((x, points[1], points[2]), centre, half_axes, strict=True)
        ]
        radius = np.sqrt(np.maximum(u[0] ** 2 + u[1] ** 2 + u[2] ** 2, 1e-6))
        slope = np.sqrt(sum((np.float32(1 / a) * v) ** 2 for v, a in zip(u, half_axes, strict=True)))
        one = radius * (1 - radius) / np.maximum(slope, 1e-3 / max(half_axes))
        depth = one if depth is None else smooth_maximum(depth, one, 3.0)
    assert depth is not None
    return depth


def smooth_maximum(a: FloatArray, b: FloatArray, width: float) -> FloatArray:
    """Maximum of two depths with a fillet of `width` mm where they meet."""
    blend = np.maximum(width - np.abs(a - b), 0) / np.float32(width)
    return np.maximum(a, b) + blend * blend * np.float32(width / 4)


def coverage(depth: FloatArray, width: float) -> FloatArray:
    """Fraction of a voxel of `width` mm that lies below a surface at signed `depth` mm: the partial volume."""
    return np.clip(np.float32(0.5) + depth / np.float32(width), 0, 1)


def outline_depth(template: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Depth (mm) below the surface of the brain, and below that of the cerebrum alone, of template points `[3, N]`."""
    cerebrum = ellipsoid_depth(template, CEREBRUM)
    below = smooth_maximum(ellipsoid_depth(template, CEREBELLUM), ellipsoid_depth(template, BRAINSTEM), 4.0)
    return smooth_maximum(cerebrum, below, 6.0), cerebrum - below


def ventricle_depth(template: FloatArray, width: float) -> FloatArray:
    """Depth (mm) below the wall of the ventricles; `width` scales their size."""
    x, y, z = template
    # The lateral ventricles are bent ellipsoids: horns apart at both ends, roof highest in the middle.
    bent = np.stack([np.abs(x) - 7.5 - 0.006 * y**2 * (y > 0) - 0.002 * y**2, y, z - 13 + 0.006 * y**2])
    lateral = ellipsoid_depth(bent, (((0, 2, 0), (5.0 * width, 38, 7.5 * width)),))
    half_axes_scaled = tuple((c, (a * width, b, d * width)) for c, (a, b, d) in INFERIOR_VENTRICLES)
    return np.maximum(lateral, ellipsoid_depth(template, half_axes_scaled))


def fissure_distance(template: FloatArray) -> FloatArray:
    """Distance (mm) to the sheets of the longitudinal and the two lateral fissures."""
    x, y, z = template
    above_callosum = 26 * (np.sqrt((y / 48) ** 2 + ((z - 4) / 26) ** 2) - 1)
    longitudinal = np.maximum(np.abs(x), -above_callosum)
    sheet = np.abs(z + 5 + 0.35 * y + 0.4 * (np.abs(x) - 45))
    ends = np.maximum(36 - np.abs(x), np.abs(y + 10) - 30)
    return np.minimum(longitudinal, np.maximum(sheet, ends))

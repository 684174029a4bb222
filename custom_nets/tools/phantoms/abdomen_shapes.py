"""Round shapes that synthetic organs are made of: signed depths below their surfaces, at points of a template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from custom_nets.tools.phantoms.abdomen_grid import Box
from custom_nets.tools.phantoms.brain_anatomy import ellipsoid_depth, smooth_maximum
from custom_nets.tools.phantoms.smooth_fields import FloatArray

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Tube:
    """A straight, round, tapering piece of a vessel or of gut.

    Attributes:
        start, end: its ends in template mm.
        radii: radius at either end in mm.
    """

    start: Point
    end: Point
    radii: tuple[float, float]

    def depth(self, template: FloatArray) -> FloatArray:
        """Depth `[…]` (mm) below its surface of template points `[3, …]`."""
        along = np.subtract(self.end, self.start).astype(np.float32)
        offset = template - column(self.start, template)
        share = sum(a * o for a, o in zip(along, offset, strict=True)) / np.float32(max(1e-6, float((along**2).sum())))
        share = np.clip(share, 0, 1)
        gaps = [o - a * share for a, o in zip(along, offset, strict=True)]
        first, last = (np.float32(r) for r in self.radii)
        return first + (last - first) * share - np.sqrt(gaps[0] ** 2 + gaps[1] ** 2 + gaps[2] ** 2)


def chain(points: Sequence[Point], radii: Sequence[float]) -> list[Tube]:
    """Tubes through points, each with its radius (mm)."""
    return [Tube(a, b, (r, q)) for a, b, r, q in zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True)]


def resized(template: FloatArray, centre: Sequence[float], scale: Sequence[float]) -> FloatArray:
    """Template points of an organ that is `scale` times as large, seen from its centre."""
    middle = column(centre, template)
    sized: FloatArray = (template - middle) / column(scale, template) + middle
    return sized


def cut(template: FloatArray, box: Box) -> FloatArray:
    """The points `[3, …]` in a box of their grid."""
    return template[:, box[0], box[1], box[2]]


def column(values: Sequence[float] | FloatArray, like: FloatArray) -> FloatArray:
    """Three values that spread over points `[3, …]`."""
    return np.asarray(values, dtype=np.float32).reshape(3, *[1] * (like.ndim - 1))


def ball_depth(template: FloatArray, centre: Point, half_axes: Point) -> FloatArray:
    """Depth (mm) below the surface of one ellipsoid."""
    return ellipsoid_depth(template - column(centre, template), (((0.0, 0.0, 0.0), half_axes),))


def sheet_depth(distance: FloatArray, width: float) -> FloatArray:
    """Depth (mm) below the surface of a sheet `2 width` mm thick; smooth, so that thin ones survive interpolation."""
    return (np.float32(width * width) - distance * distance) / np.float32(2 * width)


def column_depth(x: FloatArray, y: FloatArray, a: float, b: float) -> FloatArray:
    """Depth (mm) below the surface of an elliptic column."""
    radius = np.sqrt((x / np.float32(a)) ** 2 + (y / np.float32(b)) ** 2)
    return (1 - radius) * np.float32(min(a, b))


def smooth_minimum(a: FloatArray, b: FloatArray, width: float) -> FloatArray:
    """Minimum of two depths with a fillet of `width` mm: what lies below both surfaces."""
    return -smooth_maximum(-a, -b, width)


def tubes_depth(tubes: Sequence[Tube], template: FloatArray, fillet: float = 3.0) -> FloatArray:
    """Depth (mm) below the surface of tubes that flow into each other."""
    depth = tubes[0].depth(template)
    for tube in tubes[1:]:
        depth = smooth_maximum(depth, tube.depth(template), fillet)
    return depth

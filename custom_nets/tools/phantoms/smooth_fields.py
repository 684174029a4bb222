"""Smooth random fields in millimetres, the raw material of synthetic anatomy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

FloatArray = NDArray[np.floating]


class SmoothField:
    """A random field of mean 0 and standard deviation 1: cubic B-splines on a lattice of random coefficients.

    The lattice lies in millimetres, so that one field gives the same anatomy at every voxel size. Sums run in a fixed
    order without BLAS: results do not depend on the number of threads.

    Args:
        rng: generator the coefficients are drawn from.
        spacing: distance of the lattice nodes in mm; features are about twice as wide.
        reach: the field is defined from `-reach` to `reach` along each axis (mm), and constant beyond.
        band_pass: also remove slow variation, so that zero crossings come at nearly equal distances (brain folds).
    """

    def __init__(
        self, rng: np.random.Generator, spacing: float, reach: Sequence[float], *, band_pass: bool = False
    ) -> None:
        self.spacing = spacing
        self.reach = tuple(reach)
        # Four coefficients act on each point: one node of margin before the first cell, two after the last.
        nodes = [int(np.ceil(2 * r / spacing)) + 4 for r in self.reach]
        lattice = rng.standard_normal(nodes, dtype=np.float32)
        if band_pass:
            lattice -= ndimage.gaussian_filter(lattice, 1.0)
        at_nodes = lattice
        for axis in range(3):
            at_nodes = ndimage.convolve1d(at_nodes, np.array([1, 4, 1]) / 6, axis=axis)
        self.lattice: FloatArray = ((lattice - at_nodes.mean()) / at_nodes.std()).astype(np.float32)

    def on_axes(self, axes: Sequence[FloatArray]) -> FloatArray:
        """Values `[H, W, D]` on the grid that three coordinate vectors (mm) span; much faster than `at`."""
        values = self.lattice
        for axis in (2, 1, 0):  # the big arrays come last, where whole slabs are copied
            position = self._to_lattice(axes[axis], axis)
            first = np.minimum(np.floor(position).astype(np.intp), self.lattice.shape[axis] - 3)
            shape = [1, 1, 1]
            shape[axis] = -1
            weights = [w.reshape(shape) for w in _spline_weights(position - first)]
            parts = [values.take(first + step, axis=axis) * w for step, w in zip((-1, 0, 1, 2), weights, strict=True)]
            values = parts[0] + parts[1] + parts[2] + parts[3]
        return values

    def at(self, points: FloatArray) -> FloatArray:
        """Values `[N]` at points `[3, N]` (mm)."""
        positions = np.stack([self._to_lattice(points[axis], axis) for axis in range(3)])
        values: FloatArray = ndimage.map_coordinates(
            self.lattice, positions, output=np.float32, order=3, prefilter=False, mode="nearest"
        )
        return values

    def _to_lattice(self, coordinate: FloatArray, axis: int) -> FloatArray:
        reach = self.reach[axis]
        return ((np.clip(coordinate, -reach, reach) + reach) / self.spacing + 1).astype(np.float32)


def _spline_weights(fraction: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Weights of the four cubic B-splines around a point `fraction` of a cell beyond its second node."""
    rest = 1 - fraction
    return (
        rest**3 / 6,
        (4 - 6 * fraction**2 + 3 * fraction**3) / 6,
        (4 - 6 * rest**2 + 3 * rest**3) / 6,
        fraction**3 / 6,
    )

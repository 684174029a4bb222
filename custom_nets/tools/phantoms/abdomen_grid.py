"""Voxels of a synthetic CT scan, and the layers of tissue that are painted over each other on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from custom_nets.tools.phantoms.smooth_fields import FloatArray, SmoothField

Box = tuple[slice, slice, slice]

NODE_DISTANCE = 2.0
"""Surfaces are evaluated at points this far apart (mm), or at the voxels where these are larger."""

SHARPNESS = 0.8
"""Width (mm) over which the scanner blurs an edge, beside the size of its voxels."""

SLAB_VOXELS = 2_000_000
"""Voxels painted at a time: bounds the memory."""


class Sites:
    """Places in the scanner's frame (mm; x to the patient's right, y to the front, z up; 0 the centre of the scan).

    Args:
        points: coordinates `[3, …]`.
        axes: coordinate vectors that span the points, where they are a grid.
    """

    def __init__(self, points: FloatArray, axes: Sequence[FloatArray] | None = None) -> None:
        self.points = points
        self.axes = axes

    def sample(self, field: SmoothField) -> FloatArray:
        """Values `[…]` of a random field."""
        if self.axes is not None:
            return field.on_axes(self.axes)
        return field.at(self.points.reshape(3, -1)).reshape(self.points.shape[1:])


@dataclass(frozen=True)
class Layer:
    """One tissue, laid over all before it.

    Attributes:
        box: nodes (or voxels) that it is known at; there is none of it elsewhere.
        depth: depth below its surface in edge widths, at these nodes.
        signal: its HU.
        label: label number where it is more than half of a voxel; None keeps the label of what lies below.
        on_voxels: whether `box` counts voxels and not nodes.
    """

    box: Box
    depth: FloatArray
    signal: float
    label: int | None = 0
    on_voxels: bool = False


class ScanGrid:
    """The voxels of one scan.

    Args:
        size: field of view in mm along left-right, front-back, head-feet.
        spacing: voxel size in mm along the same.

    Attributes:
        shape: voxels along each axis.
        voxels: coordinates (mm) of the voxel centres along each axis.
        nodes: coordinates (mm) along each axis at which surfaces are evaluated.
    """

    def __init__(self, size: Sequence[float], spacing: Sequence[float]) -> None:
        self.spacing = tuple(float(s) for s in spacing)
        self.shape = tuple(round(a / s) for a, s in zip(size, self.spacing, strict=True))
        self.voxels = [_centred(n, s) for n, s in zip(self.shape, self.spacing, strict=True)]
        self.nodes = [
            v if s >= NODE_DISTANCE else _centred(int(np.ceil(n * s / NODE_DISTANCE)) + 2, NODE_DISTANCE)
            for v, n, s in zip(self.voxels, self.shape, self.spacing, strict=True)
        ]

    def sites(self, box: Box | None = None) -> Sites:
        """The nodes in a box, or all."""
        return _spread(self.nodes if box is None else [v[part] for v, part in zip(self.nodes, box, strict=True)])

    def voxel_sites(self, box: Box) -> Sites:
        """The voxels in a box of voxels."""
        return _spread([v[part] for v, part in zip(self.voxels, box, strict=True)])

    def find_box(
        self, low: Sequence[float] | FloatArray, high: Sequence[float] | FloatArray, *, on_voxels: bool = False
    ) -> Box:
        """Nodes (or voxels) between two corners (mm), and one more on each side."""
        parts = []
        for axis, a, b in zip(self.voxels if on_voxels else self.nodes, low, high, strict=True):
            start, stop = np.searchsorted(axis, (a, b))
            parts.append(slice(max(0, int(start) - 1), min(len(axis), int(stop) + 1)))
        return parts[0], parts[1], parts[2]

    def layer(
        self, box: Box, depth: FloatArray, signal: float, label: int | None = 0, *, on_voxels: bool = False
    ) -> Layer:
        """A layer of the tissue where `depth` is positive.

        Args:
            box: nodes (or voxels) that `depth` is given at.
            depth: any function that is positive inside and vanishes at the surface, in any unit.
            signal: HU.
            label: label number, see `Layer`.
            on_voxels: whether `box` counts voxels.
        """
        axes = [v[part] for v, part in zip(self.voxels if on_voxels else self.nodes, box, strict=True)]
        if min(len(v) for v in axes) < 2:
            return Layer(box, np.full(depth.shape, -1, dtype=np.float32), signal, label, on_voxels)
        # The depth changes by so much across a voxel: how far a voxel reaches depends on the direction of the surface.
        width = np.full_like(depth, 1e-6)
        squares = np.zeros_like(depth)
        for axis, step in enumerate(self.spacing):
            slope = np.gradient(depth, float(axes[axis][1] - axes[axis][0]), axis=axis)
            width += np.abs(slope) * np.float32(step)
            squares += slope * slope
        width += np.float32(SHARPNESS) * np.sqrt(squares)
        return Layer(box, (depth / width).astype(np.float32), signal, label, on_voxels)

    def paint(
        self, layers: Sequence[Layer], background: float
    ) -> Iterator[tuple[slice, FloatArray, NDArray[np.uint8]]]:
        """Paints slab by slab along the first axis.

        Yields:
            The slab's voxels on the first axis, its HU `[h, W, D]` and its label `[h, W, D]`.
        """
        rows = max(1, SLAB_VOXELS // (self.shape[1] * self.shape[2]))
        for start in range(0, self.shape[0], rows):
            slab = slice(start, min(start + rows, self.shape[0]))
            shape = (slab.stop - slab.start, *self.shape[1:])
            signal, label = np.full(shape, background, dtype=np.float32), np.zeros(shape, dtype=np.uint8)
            for layer in layers:
                self._lay(layer, slab, signal, label)
            yield slab, signal, label

    def upsample(self, values: FloatArray, slab: slice) -> FloatArray:
        """Values `[h, W, D]` at the voxels of a slab, of values at all nodes."""
        whole = tuple(slice(0, len(v)) for v in self.nodes)
        return self._interpolate(values, (whole[0], whole[1], whole[2]), (slab, slice(None), slice(None)))

    def _lay(self, layer: Layer, slab: slice, signal: FloatArray, label: NDArray[np.uint8]) -> None:
        box = layer.box if layer.on_voxels else self._voxels_within(layer.box)
        first = slice(max(box[0].start, slab.start), min(box[0].stop, slab.stop))
        if first.start >= first.stop or any(part.start >= part.stop for part in box[1:]):
            return
        if layer.on_voxels:
            offset = layer.box[0].start
            depth = layer.depth[first.start - offset : first.stop - offset]
        else:
            depth = self._interpolate(layer.depth, layer.box, (first, *box[1:]))
        where = (slice(first.start - slab.start, first.stop - slab.start), *box[1:])
        share = np.clip(depth + np.float32(0.5), 0, 1)
        signal[where] += share * (np.float32(layer.signal) - signal[where])
        if layer.label is not None:
            label[where][depth > 0] = layer.label

    def _voxels_within(self, box: Box) -> Box:
        """The voxels between the first and the last node of a box."""
        parts = []
        for voxels, nodes, part in zip(self.voxels, self.nodes, box, strict=True):
            if part.start >= part.stop:
                parts.append(slice(0, 0))
                continue
            start = int(np.searchsorted(voxels, nodes[part.start], "left"))
            parts.append(slice(start, int(np.searchsorted(voxels, nodes[part.stop - 1], "right"))))
        return parts[0], parts[1], parts[2]

    def _interpolate(self, values: FloatArray, box: Box, target: Box) -> FloatArray:
        """Linear interpolation from the nodes of a box to voxels, one axis after the other."""
        for axis in range(3):
            voxels, nodes = self.voxels[axis][target[axis]], self.nodes[axis][box[axis]]
            if self.nodes[axis] is self.voxels[axis]:
                start = (target[axis].start or 0) - box[axis].start
                kept = slice(start, start + len(voxels))
                values = values[(slice(None),) * axis + (kept,)]
                continue
            position = (voxels - nodes[0]) / np.float32(NODE_DISTANCE)
            lower = np.clip(np.floor(position).astype(np.intp), 0, max(0, len(nodes) - 2))
            shape = [1, 1, 1]
            shape[axis] = -1
            below = values.take(lower, axis=axis)
            above = values.take(np.minimum(lower + 1, len(nodes) - 1), axis=axis)
            above -= below
            above *= (position - lower).astype(np.float32).reshape(shape)
            above += below
            values = above
        return values


def _centred(count: int, step: float) -> FloatArray:
    return ((np.arange(count) - (count - 1) / 2) * step).astype(np.float32)


def _spread(axes: Sequence[FloatArray]) -> Sites:
    return Sites(np.stack(np.broadcast_arrays(*np.meshgrid(*axes, indexing="ij", sparse=True))), axes)

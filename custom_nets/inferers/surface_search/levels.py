"""One lattice of the surface search: what is believed at its points, and which of them were queried."""

from __future__ import annotations

from collections.abc import Callable

import torch

from custom_nets.inferers.surface_search.lattice import Axes, Shape, dilate, face_offsets, to_flat, to_points

_POINTS_AT_ONCE = 1 << 17


class Level:
    """Queries points of one lattice until both points of every pair of face neighbours that differ were queried.

    The points live in a lattice with a rim of one point that counts as queried: neighbours need no test for the border.

    Args:
        axes: voxel indices of the lattice along H, W and D.
        values: what is believed at its points `[R, h, w, d]`, corrected in place.
        cut: a point lies in a region where its value is strictly above this.
        query: given flat voxel indices `[N]` and the name under which they are counted, returns values `[R, N]`.
        shape: size of the whole volume (H, W, D).
    """

    def __init__(
        self,
        axes: Axes,
        values: torch.Tensor,
        cut: float,
        query: Callable[[torch.Tensor, str], torch.Tensor],
        shape: Shape,
    ) -> None:
        self.axes = axes
        self.values = values
        self.cut = cut
        self._query = query
        self._volume = shape
        height, width, depth = (len(axis) for axis in axes)
        self.shape: Shape = (height, width, depth)
        self._rimmed: Shape = (height + 2, width + 2, depth + 2)
        self._whole = self.shape == shape
        self._offsets = torch.tensor(face_offsets(self.shape), device=values.device)
        self._rimmed_offsets = torch.tensor(face_offsets(self._rimmed), device=values.device)
        self.seen = torch.zeros(self._rimmed, dtype=torch.bool, device=values.device)
        for axis in range(3):
            self.seen.select(axis, 0).fill_(True)
            self.seen.select(axis, -1).fill_(True)

    def locate(self, voxels: torch.Tensor) -> torch.Tensor:
        """Flat indices `[N]` into the lattice of voxels (flat, in the whole volume) that belong to it."""
        if self._whole:
            return voxels
        points = to_points(voxels, self._volume).unbind(dim=-1)
        placed = [torch.searchsorted(axis, index.contiguous()) for axis, index in zip(self.axes, points, strict=True)]
        return to_flat(torch.stack(placed, dim=-1), self.shape)

    def unseen(self, points: torch.Tensor) -> torch.Tensor:
        """Those of the points (flat, in the lattice) that were not queried yet."""
        return points[~self.seen.view(-1)[self._to_rimmed(points)]]

    def mark(self, points: torch.Tensor) -> None:
        """Counts points (flat, in the lattice) as queried."""
        self.seen.view(-1)[self._to_rimmed(points)] = True

    def learn(self, points: torch.Tensor, values: torch.Tensor) -> None:
        """Takes over the values `[R, N]` of points (flat, in the lattice) that were queried."""
        self.mark(points)
        self.values.view(len(self.values), -1)[:, points] = values

    def query(self, points: torch.Tensor, stage: str) -> torch.Tensor:
        """Queries points (flat, in the lattice) none of which was queried before.

        Returns:
            Those whose value crossed the cut in some region.
        """
        before = self.values.view(len(self.values), -1)[:, points] > self.cut
        after = self._query(self._to_voxels(points), stage)
        self.learn(points, after)
        return points[((after > self.cut) != before).any(dim=0)]

    def beside(self, points: torch.Tensor) -> torch.Tensor:
        """The unseen face neighbours of points (flat, in the lattice) that differ from them in some region.

        In ascending order, each once: neighbours in memory make neighbours in a chunk.
        """
        found = [points.new_empty(0)]
        seen, believed = self.seen.view(-1), self.values.view(len(self.values), -1)
        for part in points.split(_POINTS_AT_ONCE):
            unseen = ~seen[self._rimmed_offsets[:, None] + self._to_rimmed(part)]  # [6, N]
            direction, source = unseen.nonzero(as_tuple=True)
            sources = part[source]
            targets = sources + self._offsets[direction]
            differs = ((believed[:, targets] > self.cut) != (believed[:, sources] > self.cut)).any(dim=0)
            found.append(targets[differs])
        return torch.unique(torch.cat(found))

    def beside_surfaces(self) -> torch.Tensor:
        """All unseen points with a face neighbour that differs in some region, by a look at the whole lattice."""
        return self._unseen_of(self._surfaces())

    def near_surfaces(self, reach: Shape) -> torch.Tensor:
        """All unseen points within a box round a point that differs from a face neighbour in some region.

        Args:
            reach: half the sides of the box, in points.
        """
        found = self._surfaces()
        hits = [found.any(dim=[other for other in range(3) if other != axis]).nonzero()[:, 0] for axis in range(3)]
        if len(hits[0]) == 0:
            return hits[0]
        ends = zip(hits, reach, strict=True)
        box = tuple(slice(max(int(hit[0]) - width, 0), int(hit[-1]) + width + 1) for hit, width in ends)
        found[box] = dilate(found[box], reach)
        return self._unseen_of(found)

    def _surfaces(self) -> torch.Tensor:
        """Which points `[h, w, d]` differ from a face neighbour in some region."""
        inside = self.values > self.cut
        found = torch.zeros(self.shape, dtype=torch.bool, device=inside.device)
        for axis in range(3):
            count = self.shape[axis] - 1
            differs = (inside.narrow(axis + 1, 0, count) != inside.narrow(axis + 1, 1, count)).any(dim=0)
            found.narrow(axis, 0, count).logical_or_(differs)
            found.narrow(axis, 1, count).logical_or_(differs)
        return found

    def _unseen_of(self, points: torch.Tensor) -> torch.Tensor:
        """The unseen ones of some points, a mask `[h, w, d]` that is changed, as flat indices."""
        points &= ~self.seen[1:-1, 1:-1, 1:-1]
        return points.view(-1).nonzero()[:, 0]

    def follow(self, frontier: torch.Tensor, stage: str) -> int:
        """Queries points, then the neighbours that contradict the results, until nothing contradicts them.

        An unseen point off the frontier agrees with all its neighbours. It can cease to do so only when one of them
        changes, so what is beside the changed points is exactly the next frontier.

        Args:
            frontier: unseen points (flat, in the lattice).
            stage: the name under which they are counted; what follows from them counts as "surface".

        Returns:
            How often the surface was widened.
        """
        rounds = 0
        while len(frontier):
            frontier = self.beside(self.query(frontier, stage))
            stage = "surface"
            rounds += 1
        return rounds

    def _to_rimmed(self, points: torch.Tensor) -> torch.Tensor:
        # to_flat(to_points(points, shape) + 1, rimmed) in a third of the operations: a rim adds two points to each row
        # before, two rows to each plane before, and a plane, a row and a point at the start.
        _, width, depth = self.shape
        start = (width + 3) * (depth + 2) + 1
        return points.add(points // depth, alpha=2).add_(points // (depth * width), alpha=2 * (depth + 2)).add_(start)

    def _to_voxels(self, points: torch.Tensor) -> torch.Tensor:
        if self._whole:
            return points
        indices = to_points(points, self.shape).unbind(dim=-1)
        placed = [axis[index] for axis, index in zip(self.axes, indices, strict=True)]
        return to_flat(torch.stack(placed, dim=-1), self._volume)

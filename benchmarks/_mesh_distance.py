"""Distances between two surfaces, from points to triangles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Mesh = tuple[NDArray[np.float64], NDArray[np.int64]]
"""Vertices `[V, 3]` and triangles `[T, 3]`."""


def sample_mesh(mesh: Mesh, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Points `[count, 3]`, uniform on the surface."""
    corners = mesh[0][mesh[1]]
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    chosen = corners[rng.choice(len(corners), count, p=areas / areas.sum())]
    u, v = rng.random((2, count, 1))
    root = np.sqrt(u)
    return (1 - root) * chosen[:, 0] + root * (1 - v) * chosen[:, 1] + root * v * chosen[:, 2]


def distance_to_mesh(points: NDArray, mesh: Mesh, candidates: int = 32) -> NDArray[np.float64]:
    """Distances `[N]` of points to the nearest triangle, looked for among those with the nearest centres."""
    corners = mesh[0][mesh[1]]
    _, near = cKDTree(corners.mean(axis=1)).query(points, k=min(candidates, len(corners)))
    return np.concatenate(
        [_to_triangles(points[i : i + 4096, None], corners[near[i : i + 4096]]) for i in range(0, len(points), 4096)]
    )


def _to_triangles(points: NDArray, corners: NDArray) -> NDArray[np.float64]:
    """Least distance `[N]` of points `[N, 1, 3]` to triangles `[N, K, 3, 3]`."""
    edges = np.roll(corners, -1, axis=2) - corners
    away = points[..., None, :] - corners
    lengths = np.maximum((edges**2).sum(-1), 1e-24)
    along = np.clip((away * edges).sum(-1) / lengths, 0, 1)
    to_edges = (((away - along[..., None] * edges) ** 2).sum(-1)).min(-1)
    normal = np.cross(edges[..., 0, :], edges[..., 1, :])
    squared = np.maximum((normal**2).sum(-1), 1e-24)
    above = (np.cross(edges, away) * normal[..., None, :]).sum(-1).min(-1) >= 0
    to_plane = (away[..., 0, :] * normal).sum(-1) ** 2 / squared
    return np.sqrt(np.where(above, to_plane, to_edges).min(-1))


def surface_errors(mesh: Mesh, truth: Mesh, samples: int) -> dict[str, float]:
    """Mean, 95th percentile and maximum of the distances (mm) between two surfaces, of both ways."""
    rng = np.random.default_rng(0)
    out = distance_to_mesh(sample_mesh(mesh, samples, rng), truth)
    back = distance_to_mesh(sample_mesh(truth, samples, rng), mesh)
    return {
        "mean mm": (out.mean() + back.mean()) / 2,
        "95 % mm": max(np.percentile(out, 95), np.percentile(back, 95)),
        "max mm": max(out.max(), back.max()),
        "mesh to truth mm": out.mean(),
        "truth to mesh mm": back.mean(),
    }

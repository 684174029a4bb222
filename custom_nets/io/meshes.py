"""Meshes as OBJ, PLY and STL files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from custom_nets.errors import InputError
from custom_nets.io.files import atomic_file

MATERIALS = "regions.mtl"
"""File beside OBJ files that holds their materials: a name without spaces, which readers would part."""


class Material(NamedTuple):
    """What a surface looks like.

    Args:
        name: of what it is round.
        colour: red, green and blue, 0 to 255.
    """

    name: str
    colour: tuple[int, int, int]

    @property
    def key(self) -> str:
        """The name as one word."""
        return "_".join(self.name.split())


def write_materials(path: str | os.PathLike, materials: Sequence[Material]) -> None:
    """Writes the materials of OBJ files (.mtl); it appears only when complete."""
    lines = [
        f"newmtl {material.key}\nKd {' '.join(f'{part / 255:.4f}' for part in material.colour)}\n"
        for material in materials
    ]
    with atomic_file(path) as file:
        file.write_text("".join(lines), encoding="utf-8", errors="replace", newline="\n")


class _Mesh(NamedTuple):
    """A surface as it is written, see `write_mesh`."""

    vertices: np.ndarray
    triangles: np.ndarray
    comment: str
    material: Material | None


def _write_obj(path: str | os.PathLike, mesh: _Mesh) -> None:
    """Writes a Wavefront OBJ file."""
    vertices, triangles, comment, material = mesh
    points = ("v %.4f %.4f %.4f\n" * len(vertices)) % tuple(vertices.ravel().tolist())
    faces = ("f %d %d %d\n" * len(triangles)) % tuple((triangles + 1).ravel().tolist())  # OBJ counts from 1
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    if material is not None:
        head += f"mtllib {MATERIALS}\nusemtl {material.key}\n"
    with atomic_file(path) as file:
        file.write_text(head + points + faces, encoding="utf-8", errors="replace", newline="\n")


def _write_ply(path: str | os.PathLike, mesh: _Mesh) -> None:
    """Writes a binary little-endian Stanford PLY file."""
    vertices, triangles, comment, material = mesh
    head = [
        "ply",
        "format binary_little_endian 1.0",
        *(f"comment {line}" for line in comment.splitlines()),
        f"element vertex {len(vertices)}",
        *(f"property float {axis}" for axis in "xyz"),
        *(f"property uchar {part}" for part in ("red", "green", "blue") if material is not None),
        f"element face {len(triangles)}",
        "property list uchar int vertex_indices",
        "end_header\n",
    ]
    corners = np.empty(len(vertices), dtype=[("place", "<f4", 3), ("colour", "u1", 0 if material is None else 3)])
    corners["place"] = vertices
    corners["colour"] = () if material is None else material.colour
    faces = np.empty(len(triangles), dtype=[("count", "u1"), ("corners", "<i4", 3)])
    faces["count"] = 3
    faces["corners"] = triangles
    with atomic_file(path) as file:
        file.write_bytes("\n".join(head).encode("ascii", "replace") + corners.tobytes() + faces.tobytes())


def _write_stl(path: str | os.PathLike, mesh: _Mesh) -> None:
    """Writes a binary STL file (no shared vertices, one unit normal a triangle, no colour)."""
    vertices, triangles, comment, _ = mesh
    corners = vertices[triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    facets = np.zeros(len(triangles), dtype=[("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    facets["normal"] = np.divide(normals, lengths, out=np.zeros_like(normals), where=lengths > 0)
    facets["corners"] = corners
    # A header that begins with "solid" marks a text STL to some readers.
    head = f"binary STL. {comment}".replace("\n", " ").encode("ascii", "replace")[:80].ljust(80)
    with atomic_file(path) as file:
        file.write_bytes(head + np.uint32(len(triangles)).astype("<u4").tobytes() + facets.tobytes())


WRITERS: dict[str, Callable[[str | os.PathLike, _Mesh], None]] = {
    "obj": _write_obj,
    "ply": _write_ply,
    "stl": _write_stl,
}


def write_mesh(
    path: str | os.PathLike,
    vertices: np.ndarray,
    triangles: np.ndarray,
    comment: str = "",
    material: Material | None = None,
) -> None:
    """Writes a triangle mesh in the format that the suffix of `path` names: .obj, .ply or .stl.

    Args:
        path: the file; its folders are made, and it appears only when complete.
        vertices: positions `[V, 3]`, written as they are (millimetres elsewhere in this package).
        triangles: indices into `vertices` `[T, 3]`, counter-clockwise seen from outside.
        comment: goes into the header (ASCII; STL keeps about 60 characters).
        material: colour of the vertices in PLY; OBJ refers to the file `MATERIALS` beside it, see `write_materials`.

    Raises:
        InputError: when the suffix is none of these.
    """
    kind = Path(path).suffix.lower().lstrip(".")
    if kind not in WRITERS:
        msg = f"mesh format '{kind}' of {path} is unknown; expected one of {', '.join(WRITERS)}"
        raise InputError(msg)
    points, corners = np.asarray(vertices, dtype=np.float64), np.asarray(triangles, dtype=np.int64)
    WRITERS[kind](path, _Mesh(points, corners, comment, material))

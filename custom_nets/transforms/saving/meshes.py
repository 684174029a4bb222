"""Surfaces of regions, in patient millimetres."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_numpy, ensure_tuple_rep, optional_import
from scipy.special import logit

from custom_nets.errors import InputError
from custom_nets.io.colours import rgb
from custom_nets.io.meshes import MATERIALS, WRITERS, Material, write_materials, write_mesh
from custom_nets.transforms.saving.case_files import case_id, result_file

Space = Literal["RAS", "LPS"]

_FEWEST = 4
"""Triangles of a tetrahedron, the simplest closed surface."""

_SIMPLIFIER = "{}; mesh_triangles needs fast-simplification: pip install fast-simplification"

_LARGEST_LOGIT = math.log(1e6)
"""Value that stands for a probability of 1, and with the other sign for 0."""


def affine_of(regions: Any, names: Sequence[str], source: str) -> np.ndarray:
    """Returns the voxel-to-world matrix of a MetaTensor of regions, after checking that it is one.

    Args:
        regions: MetaTensor `[R, H, W, D]`.
        names: the R region names.
        source: how an error names the tensor.

    Returns:
        The affine `[4, 4]`, voxel indices to RAS millimetres.

    Raises:
        InputError: when it has no affine, or other than one channel a region.
    """
    affine = getattr(regions, "affine", None)
    if affine is None:
        msg = f"{source} has no affine: expected a MetaTensor, as LoadImaged gives, found {type(regions).__name__}"
        raise InputError(msg)
    if regions.ndim != 4 or len(regions) != len(names):
        msg = (
            f"{source} has shape {tuple(regions.shape)}; expected [{len(names)}, H, W, D], one channel for each of the "
            f"regions {', '.join(names)}: name as many regions as there are channels"
        )
        raise InputError(msg)
    return convert_to_numpy(affine).astype(np.float64)


def case_and_affine(
    item: Mapping[Hashable, Any], key: Hashable, regions: Sequence[str], case_key: str
) -> tuple[str, np.ndarray]:
    """Returns the case of an item and the checked affine of its regions at `key`, see `case_id` and `affine_of`."""
    case = case_id(item, key, case_key)
    return case, affine_of(item[key], regions, f"case {case}: '{key}'")


def as_array(volume: NdarrayOrTensor) -> np.ndarray:
    """Returns an array on the memory of a tensor, where that is the CPU's (`convert_to_numpy` copies a turned one)."""
    return volume.detach().as_subclass(torch.Tensor).cpu().numpy() if isinstance(volume, torch.Tensor) else volume


def bounding_box(
    field: np.ndarray, margin: int = 0, inside: Callable[[np.ndarray], np.ndarray] = np.asarray
) -> tuple[slice, ...] | None:
    """Returns the slices of the smallest box round what lies inside, `margin` wider; None where nothing does.

    Args:
        field: a mask, or with `inside` any other array `[H, W, D]`.
        margin: in voxels; the box ends at the first voxels, but may reach past the last ones.
        inside: makes a mask of a slice of the field, so that the volume needs none of its size.
    """
    first, *others = sorted(range(3), key=lambda axis: -abs(field.strides[axis]))  # as it lies in memory
    hits = [np.zeros(side, dtype=bool) for side in field.shape]
    for index, plane in enumerate(field.transpose(first, *others)):
        mask = inside(plane)
        if mask.any():  # most planes are empty, and told so at a tenth of the cost
            hits[first][index] = True
            for axis, other in zip(others, (1, 0), strict=True):
                hits[axis] |= mask.any(axis=other)
    if not hits[first].any():
        return None
    ends = [np.flatnonzero(hit)[[0, -1]].tolist() for hit in hits]
    return tuple(slice(max(start - margin, 0), last + 1 + margin) for start, last in ends)


def above(field: np.ndarray, threshold: float) -> np.ndarray:
    """Returns where a field is strictly above a threshold, one that is not negative.

    NumPy widens float16 number by number, at ten times the cost of a comparison. But positive floats are in the order
    of their bits, and those with a minus sign are negative integers too. (Of NaN this says that it is above.)
    """
    if field.dtype != np.float16:
        return field > threshold
    return field.view(np.int16) > np.float16(threshold).view(np.int16)


def region_in_box(field: np.ndarray, threshold: float) -> tuple[np.ndarray, tuple[slice, ...]]:
    """Returns the mask of a region within its bounding box, and the box; both of size 0 for a region without voxels.

    Args:
        field: probabilities or binary `[H, W, D]`.
        threshold: the region holds the voxels above it.
    """
    box = bounding_box(field, inside=lambda plane: above(plane, threshold)) or (slice(0, 0),) * 3
    return above(field[box], threshold), box


def signed_volume(vertices: np.ndarray, triangles: np.ndarray) -> float:
    """Returns the volume enclosed by a closed mesh, negative where its triangles face inwards (divergence theorem).

    Args:
        vertices: positions `[V, 3]`.
        triangles: indices into `vertices` `[T, 3]`.
    """
    corners = (vertices - vertices.mean(axis=0))[triangles]
    return float(np.einsum("ti,ti->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6)


def _surface(margin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (voxels) and triangles of the zero level of a field `[H, W, D]`, positive inside."""
    marching_cubes, _ = optional_import(
        "mcubes", name="marching_cubes", descriptor="{}; meshes need PyMCubes: pip install PyMCubes"
    )
    vertices, triangles = marching_cubes(margin, 0.0)
    return np.asarray(vertices, dtype=np.float64), np.asarray(triangles).astype(np.int64)


def _simplified(vertices: np.ndarray, triangles: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns a surface of about `count` triangles."""
    simplify, _ = optional_import("fast_simplification", name="simplify", descriptor=_SIMPLIFIER)
    middle = vertices.mean(axis=0)  # it counts in single precision
    points, faces = simplify((vertices - middle).astype(np.float32), triangles.astype(np.int32), target_count=count)
    return points.astype(np.float64) + middle, faces.astype(np.int64)


def region_mesh(
    probability: NdarrayOrTensor,
    affine: NdarrayOrTensor,
    threshold: float = 0.5,
    space: Space = "RAS",
    max_triangles: int | None = None,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the surface of one region by marching cubes, closed and facing outwards.

    The surface lies where the logit of the field, interpolated along the grid's edges, crosses that of `threshold`, so
    a probability gives a smoother and truer surface than a binary mask, whose surface lies half-way. (A network's logit
    is nearly linear from voxel to voxel; its probability jumps from 0 to 1 well within one.) Outside the volume the
    field is 0: a region cut by the volume's edge is closed there.

    Args:
        probability: field `[H, W, D]`; the region holds the voxels above `threshold`. Binary masks will do.
        affine: voxel indices to RAS millimetres `[4, 4]`, as NIfTI has it.
        threshold: between 0 and 1, both excluded.
        space: axes of the result, "RAS" (NIfTI, 3D Slicer's display) or "LPS" (DICOM, ITK).
        max_triangles: a surface of more is simplified to about as many (quadric error metrics); None keeps all.

    Returns:
        Vertices `[V, 3]` (patient millimetres) and triangles `[T, 3]` (counter-clockwise seen from outside), or None
        where no voxel is in the region.

    Raises:
        InputError: for an unknown space, a threshold out of range, or a field that is not finite.
    """
    if space not in get_args(Space):
        msg = f"space '{space}' is unknown; expected one of {', '.join(get_args(Space))}"
        raise InputError(msg)
    if not 0 < threshold < 1:
        msg = f"threshold {threshold} must lie between 0 and 1: the field is a probability, and 0 outside the volume"
        raise InputError(msg)
    field = as_array(probability)
    box = bounding_box(field, margin=1, inside=lambda plane: above(plane, threshold))
    if box is None:
        return None
    cut = field[box]
    margin = np.zeros([side + 2 for side in cut.shape], dtype=np.float32)
    margin[1:-1, 1:-1, 1:-1] = cut
    if not np.isfinite([margin.min(), margin.max()]).all():
        msg = "the probability field holds NaN or infinite values: no surface can be drawn through it"
        raise InputError(msg)
    logit(margin.clip(0, 1, out=margin), out=margin)
    margin.clip(-_LARGEST_LOGIT, _LARGEST_LOGIT, out=margin)
    margin -= math.log(threshold / (1 - threshold))
    vertices, triangles = _surface(margin)
    matrix = convert_to_numpy(affine).astype(np.float64)
    world = (vertices - 1 + [part.start for part in box]) @ matrix[:3, :3].T + matrix[:3, 3]
    if max_triangles is not None and len(triangles) > max_triangles:
        world, triangles = _simplified(world, triangles, max_triangles)
    # The affine may mirror; a closed surface that faces outwards encloses a positive volume.
    if signed_volume(world, triangles) < 0:
        triangles = triangles[:, ::-1].copy()
    if space == "LPS":
        world[:, :2] *= -1  # half a turn about the third axis: does not mirror
    return world, triangles


@dataclass(frozen=True)
class MeshSettings:
    """Format and place of surface files.

    Args:
        formats: any of "obj", "ply", "stl".
        space: "RAS" (NIfTI) or "LPS" (DICOM).
        threshold: a region holds the voxels above it.
        max_triangles: a surface of more is simplified to about as many; None keeps all.

    Raises: InputError for an unknown format, fewer triangles than a closed surface has, or a missing package.
    """

    formats: Sequence[str] = ("obj",)
    space: Space = "RAS"
    threshold: float = 0.5
    max_triangles: int | None = None

    def __post_init__(self) -> None:
        if self.max_triangles is not None and self.max_triangles < _FEWEST:
            msg = f"mesh_triangles is {self.max_triangles}; expected at least {_FEWEST}, or null for all"
            raise InputError(msg)
        if self.max_triangles is not None and find_spec("fast_simplification") is None:
            raise InputError(_SIMPLIFIER.format("the package fast-simplification is missing"))
        unknown = [kind for kind in self.formats if kind not in WRITERS]
        if unknown:
            msg = f"mesh format '{unknown[0]}' is unknown; expected any of {', '.join(WRITERS)}"
            raise InputError(msg)


class SaveRegionMeshesd(MapTransform):
    """Writes one surface file a region: `<output_dir>/<case>/<case>_<region><suffix>.obj`, in patient millimetres.

    A region without voxels has no surface: no file is written, and one that an earlier run left there is removed. The
    item itself is returned unchanged. Place it before thresholding: probabilities give smoother surfaces.

    Args:
        keys: MetaTensors `[R, H, W, D]` (probabilities or binary) on the grid whose affine they carry.
        output_dir: folder of all cases.
        regions: name of each channel.
        settings: format and place of the surfaces.
        name: what the header of the file calls the surface, one for all keys or one a key.
        suffix: ends the file name, such as "_label"; one for all keys or one a key.
        case_key: where the item names its case; without it the name of the file read serves.
        allow_missing_keys: whether an item may lack a key.

    Raises:
        InputError: when two keys would write the same file.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | os.PathLike,
        regions: Sequence[str],
        settings: MeshSettings = MeshSettings(),
        name: Sequence[str] | str = "prediction",
        suffix: Sequence[str] | str = "",
        case_key: str = "case",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_dir = Path(output_dir)
        self.regions = tuple(regions)
        self.settings = settings
        self.names = ensure_tuple_rep(name, len(self.keys))
        self.suffixes = suffix_of_each(self.keys, suffix)
        self.case_key = case_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Writes the surfaces of one case.

        Raises:
            InputError: when a tensor lacks its affine or the right number of channels, or the item names no case.
        """
        item = dict(data)
        for key, name, suffix in self.key_iterator(item, self.names, self.suffixes):
            case, affine = case_and_affine(item, key, self.regions, self.case_key)
            materials = [Material(region, rgb(index)) for index, region in enumerate(self.regions)]
            for channel, material in zip(item[key], materials, strict=True):
                comment = f"{case} {material.name}, {name}, {self.settings.space} mm"
                self._save(case, suffix, channel, affine, comment, material)
            if "obj" in self.settings.formats:
                write_materials(result_file(self.output_dir, case, "").with_name(MATERIALS), materials)
        return item

    def _save(
        self,
        case: str,
        suffix: str,
        channel: NdarrayOrTensor,
        affine: np.ndarray,
        comment: str,
        material: Material,
    ) -> None:
        settings = self.settings
        mesh = region_mesh(channel, affine, settings.threshold, settings.space, settings.max_triangles)
        for kind in self.settings.formats:
            file = result_file(self.output_dir, case, f"_{material.name}{suffix}.{kind}")
            if mesh is None:
                file.unlink(missing_ok=True)
            else:
                write_mesh(file, *mesh, comment, material)


def suffix_of_each(keys: Sequence[Hashable], suffix: Sequence[str] | str) -> tuple[str, ...]:
    """Returns one file suffix a key.

    Raises:
        InputError: when two keys share one, and so would write the same file.
    """
    suffixes = ensure_tuple_rep(suffix, len(keys))
    if len(set(suffixes)) < len(keys):
        msg = f"keys {', '.join(map(str, keys))} would write the same file: give each its own suffix, such as '_label'"
        raise InputError(msg)
    return suffixes

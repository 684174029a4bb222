"""The grid of a result whose spacing is not the image's."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.transforms.utils import create_scale, create_translate
from monai.utils import TraceKeys, convert_to_dst_type, ensure_tuple_rep

from custom_nets.errors import InputError
from custom_nets.inferers.surface_search.lattice import Shape, to_points

Triple = tuple[float, float, float]

_SPACING_TOLERANCE = 1e-4  # relative: headers store spacings and rotations in float32


@dataclasses.dataclass(frozen=True)
class OutputGrid:
    """A grid with the axes of the image, of any spacing, centred on the image's box.

    Args:
        shape: size of the grid (H', W', D').
        start: centre of its first voxel, in voxels of the image (0: the centre of the image's first voxel).
        step: its spacing, in voxels of the image.
        affine: its voxel indices to world millimetres, `[4, 4]` or `[B, 4, 4]`, float64.
    """

    shape: Shape
    start: Triple
    step: Triple
    affine: torch.Tensor

    def positions(self, flat: torch.Tensor) -> torch.Tensor:
        """Positions `[N, 3]` (float32, voxels of the image) of flat indices `[N]` into the grid (row-major)."""
        axes = to_points(flat, self.shape).to(torch.float32).unbind(dim=-1)
        placed = [axis * step + start for axis, step, start in zip(axes, self.step, self.start, strict=True)]
        return torch.stack(placed, dim=-1)


def checked_spacing(spacing: Any, mode: str) -> Triple | None:
    """The spacing asked for along H, W and D, in millimetres; None for the image's own grid.

    Raises:
        InputError: when it is no length and not three of them, or the mode knows whole voxels only.
    """
    if spacing is None:
        return None
    try:
        height, width, depth = (float(length) for length in ensure_tuple_rep(spacing, 3))
        valid = all(0 < length < math.inf for length in (height, width, depth))
    except (TypeError, ValueError):
        valid = False
    if not valid:
        msg = f"output_spacing is {spacing}; expected null, or one length above 0 in mm, or three (along H, W and D)"
        raise InputError(msg)
    if mode == "published":
        msg = (
            f"output_spacing is {spacing}, but mode 'published' knows whole voxels only; "
            "leave it null, or set mode to 'surface' or 'dense'"
        )
        raise InputError(msg)
    return height, width, depth


def spanning_grid(image: torch.Tensor, spacing: Triple) -> OutputGrid:
    """The grid of a given spacing that spans an image, from outer face to outer face of its voxels.

    Along each axis it has max(1, round(voxels x image spacing / `spacing`)) voxels. Where that is no whole number the
    spacing is kept and the grid is centred on the image's box, which it exceeds or misses by at most a quarter of an
    output voxel a side (a single output voxel may exceed it by more); the centres of its voxels all lie in the box.

    Args:
        image: `[B, C, H, W, D]`; a MetaTensor has its own affine, `[4, 4]` or `[B, 4, 4]`, a plain tensor the identity.
        spacing: distances of the grid's voxels along H, W and D, in millimetres.

    Raises:
        InputError: when the image's affine has no spacing, or its batch items differ in theirs.
    """
    affine = (
        image.affine if isinstance(image, MetaTensor) else torch.eye(4, dtype=torch.float64).repeat(len(image), 1, 1)
    )
    given = _spacing_of(affine, len(image))
    size = image.shape[2:]
    step = [wanted / own for wanted, own in zip(spacing, given, strict=True)]
    shape = [max(1, round(voxels / length)) for voxels, length in zip(size, step, strict=True)]
    # MONAI's compute_shape_offset would stretch the spacing to fit, and loses the sign of some offsets.
    start = [(m - 1) / 2 - (n - 1) / 2 * length for m, n, length in zip(size, shape, step, strict=True)]
    to_image = torch.as_tensor(create_translate(3, start) @ create_scale(3, step), dtype=torch.float64)
    return OutputGrid(
        (shape[0], shape[1], shape[2]), (start[0], start[1], start[2]), (step[0], step[1], step[2]), affine @ to_image
    )


def describe(volumes: torch.Tensor, image: torch.Tensor, grid: OutputGrid) -> MetaTensor:
    """Volumes `[B, R, H', W', D']` on a grid, as a MetaTensor with that grid's affine.

    All other meta data are the image's. Not so the record of its transforms: it tells how to undo them on the image's
    own grid, and would crop or flip this one by a wrong number of voxels.
    """
    if isinstance(image, MetaTensor):
        result: MetaTensor = convert_to_dst_type(volumes, image, dtype=volumes.dtype)[0]
    else:
        result = MetaTensor(volumes)
        result.is_batch = True
    result.affine = grid.affine
    # What MONAI's collate writes for items without a record: decollated, each item has an empty list of its own.
    result.applied_operations = [TraceKeys.NONE] * len(image) if result.is_batch else []
    result.clear_pending_operations()
    return result


def _spacing_of(affine: torch.Tensor, batch: int) -> list[float]:
    """The spacing `[3]` in millimetres that all items of a batch share."""
    if tuple(affine.shape) not in ((4, 4), (batch, 4, 4)):
        msg = f"output_spacing: the image's affine has shape {list(affine.shape)}; expected [4, 4] or [{batch}, 4, 4]"
        raise InputError(msg)
    every = torch.stack([affine_to_spacing(item, suppress_zeros=False) for item in affine.reshape(-1, 4, 4)])
    if not (every.isfinite() & (every > 0)).all():
        msg = f"output_spacing: the image's affine gives the spacing {_shown(every)} mm; correct the image's header"
        raise InputError(msg)
    if not torch.allclose(every, every[:1], rtol=_SPACING_TOLERANCE, atol=0):
        msg = (
            f"output_spacing: the images of a batch have different spacings, {_shown(every)} mm; "
            "resample them to one spacing, or use a batch size of 1"
        )
        raise InputError(msg)
    return every[0].tolist()


def _shown(spacings: torch.Tensor) -> str:
    distinct = dict.fromkeys(" x ".join(f"{length:.6g}" for length in spacing) for spacing in spacings.tolist())
    return " and ".join(distinct)

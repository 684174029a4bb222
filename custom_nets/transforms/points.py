"""From dense regions to training points: border maps, point sampling, targets of the auxiliary segmentation."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, Randomizable, Transform
from monai.utils import convert_to_numpy, convert_to_tensor
from scipy import ndimage

from custom_nets.errors import InputError


class BorderMap(Transform):
    """Marks the voxels near the surface of a region.

    A voxel is border when a voxel with a non-zero Sobel response lies within `radius` of it (Chebyshev distance).

    Args:
        radius: in voxels; 6 as published.
        per_region: whether each region keeps a border of its own; else there is one, the union of theirs.

    Shapes: regions `[R, H, W, D]` to a boolean `[1, H, W, D]`, per region `[R, H, W, D]`.
    Source: the preparation script of the published OSS-Net (Sobel magnitude, then a 13x13x13 dilation).
    """

    def __init__(self, radius: int = 6, per_region: bool = False) -> None:
        self.radius = radius
        self.per_region = per_region

    def __call__(self, regions: NdarrayOrTensor) -> torch.Tensor:
        array = convert_to_numpy(regions) > 0
        border = np.zeros((len(array) if self.per_region else 1, *array.shape[1:]), dtype=bool)
        for index, region in enumerate(array):
            self._mark(region, border[index if self.per_region else 0])
        return torch.from_numpy(border)

    def _mark(self, region: np.ndarray, border: np.ndarray) -> None:
        """Adds the border of one region, working inside its bounding box alone."""
        box = ndimage.find_objects(region.astype(np.uint8))
        if not box:
            return
        margin = self.radius + 2  # the Sobel kernel reaches one voxel further; one more keeps the crop's own edge out
        window = tuple(
            slice(max(side.start - margin, 0), min(side.stop + margin, size))
            for side, size in zip(box[0], region.shape, strict=True)
        )
        inside = region[window].astype(np.int16)
        surface = np.zeros(inside.shape, dtype=bool)
        for axis in range(3):
            surface |= ndimage.sobel(inside, axis=axis, mode="reflect") != 0
        # A cube is separable: three passes of one axis each.
        for axis in range(3):
            surface = ndimage.maximum_filter1d(surface, 2 * self.radius + 1, axis=axis, mode="constant")
        border[window] |= surface


class SamplePoints(Randomizable, Transform):
    """Draws training points: shares near the borders of the regions, for the network to choose, and uniformly.

    Args:
        num_points: points that are to be answered a call, N.
        border_balance: share of border points, drawn without replacement; 0 is uniform sampling (published for BraTS),
            0.5 is published for LiTS. Where there are fewer border voxels all are taken, and the rest is uniform. Of a
            map with a border for each region, each that has one gives the same number: by its own size, that of a small
            tumour would give next to none.
        uncertain_share: share of points left to the network, which keeps those it is least certain about. For each,
            `oversampling` uniform candidates are drawn; they come last.
        oversampling: candidates for each of these points; 3 in PointRend.

    Source: OSS-Net, section 3.4 (unlike the published code, the last index of each axis is drawn too); PointRend
    (Kirillov et al., CVPR 2020, section 3.1).
    """

    def __init__(
        self,
        num_points: int = 2**14,
        border_balance: float = 0.5,
        uncertain_share: float = 0.0,
        oversampling: int = 3,
    ) -> None:
        if num_points < 1 or oversampling < 1:
            msg = f"num_points and oversampling must be at least 1, got {num_points} and {oversampling}"
            raise InputError(msg)
        if min(border_balance, uncertain_share) < 0 or border_balance + uncertain_share > 1:
            msg = (
                "border_balance and uncertain_share must be shares that add up to at most 1, got "
                f"{border_balance} and {uncertain_share}"
            )
            raise InputError(msg)
        self.num_points = num_points
        self.border_balance = border_balance
        self.num_uncertain = int(num_points * uncertain_share)
        self.num_candidates = oversampling * self.num_uncertain

    def __call__(self, shape: Sequence[int], border: NdarrayOrTensor | None = None) -> torch.Tensor:
        """Draws points.

        Args:
            shape: of the volume, `(H, W, D)`.
            border: border map `[1, H, W, D]`, or one for each region `[R, H, W, D]`; None when there is none.

        Returns:
            Integer voxel indices `[N, 3]`, shuffled; with candidates `[N + (oversampling - 1) * uncertain, 3]`, of
            which the last oversampling * uncertain are the candidates.
        """
        chosen = np.empty(0, dtype=np.int64)
        wanted = int(self.num_points * self.border_balance)
        if wanted and border is not None:
            chosen = self._near_borders(border, wanted)
        fixed = self.num_points - self.num_uncertain
        voxels = int(np.prod(shape))
        flat = np.concatenate([chosen, self.R.randint(0, voxels, size=fixed - len(chosen), dtype=np.int64)])
        self.R.shuffle(flat)
        if self.num_candidates:
            flat = np.concatenate([flat, self.R.randint(0, voxels, size=self.num_candidates, dtype=np.int64)])
        return torch.from_numpy(np.stack(np.unravel_index(flat, tuple(shape)), axis=-1))

    def _near_borders(self, border: NdarrayOrTensor, wanted: int) -> np.ndarray:
        """Draws flat indices of border voxels, in equal numbers for each region that has a border."""
        voxels = [indices for indices in map(_flat_nonzero, border) if len(indices)]
        share = wanted // max(len(voxels), 1)
        parts = [own[self.R.choice(len(own), share, replace=False)] if len(own) > share else own for own in voxels]
        return np.concatenate([convert_to_numpy(part) for part in parts]) if parts else np.empty(0, dtype=np.int64)


def _flat_nonzero(mask: NdarrayOrTensor) -> NdarrayOrTensor:
    """Flat indices of what is set; found on the device where the mask is, whose copy would be the whole volume."""
    if isinstance(mask, torch.Tensor) and not mask.is_cpu:
        return mask.as_subclass(torch.Tensor).flatten().nonzero()[:, 0]
    return np.flatnonzero(convert_to_numpy(mask))


class BorderMapd(MapTransform):
    """Dictionary form of `BorderMap`: reads the regions of `keys`, writes the map to `border_key`."""

    def __init__(
        self,
        keys: KeysCollection = "label",
        border_key: str = "border",
        radius: int = 6,
        allow_missing_keys: bool = False,
        per_region: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.border_key = border_key
        self.border_map = BorderMap(radius, per_region)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item[self.border_key] = self.border_map(item[key])
        return item


class SamplePointsd(Randomizable, MapTransform):
    """Draws points and looks up their labels, so that a loader item carries points instead of dense targets.

    Args:
        keys: the dense regions `[R, H, W, D]`.
        border_key: border map of `BorderMapd`; may be missing when `border_balance` is 0.
        num_points: see `SamplePoints`.
        border_balance: see `SamplePoints`.
        uncertain_share: see `SamplePoints`; `PreparePointsBatch` is to be told the same numbers.
        oversampling: see `SamplePoints`.

    Writes `points` (int64 `[N, 3]`), `point_labels` (float32 `[N, R]`) and `image_size` (int64 `[3]`, voxels).
    """

    def __init__(
        self,
        keys: KeysCollection = "label",
        num_points: int = 2**14,
        border_balance: float = 0.5,
        border_key: str = "border",
        allow_missing_keys: bool = False,
        uncertain_share: float = 0.0,
        oversampling: int = 3,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.border_key = border_key
        self.sampler = SamplePoints(num_points, border_balance, uncertain_share, oversampling)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> SamplePointsd:
        """Seeds the sampler."""
        self.sampler.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            regions = convert_to_tensor(item[key], track_meta=False)
            points = self.sampler(regions.shape[1:], item.get(self.border_key)).to(regions.device)
            item["points"] = points
            item["image_size"] = torch.tensor(regions.shape[1:])
            item["point_labels"] = regions[:, points[:, 0], points[:, 1], points[:, 2]].T.float().contiguous()
        return item


class AuxiliaryTarget(Transform):
    """Max-pools regions `[R, H, W, D]` for the auxiliary segmentation: float32 `[R, h, w, d]`.

    `OccupancyLoss` pools it further to the grid of the network's auxiliary logits.

    Args:
        size: the target's grid; None: as `cell` makes it.
        cell: voxels a side that become one of the target, for images of varying size.

    Raises: InputError unless just one of `size` and `cell` is given.
    """

    def __init__(self, size: Sequence[int] | None = None, cell: int | None = None) -> None:
        if (size is None) == (cell is None):
            msg = f"give either size or cell, got size={size} and cell={cell}"
            raise InputError(msg)
        self.size = None if size is None else tuple(size)
        self.cell = cell

    def __call__(self, regions: NdarrayOrTensor) -> torch.Tensor:
        return self._pool(convert_to_tensor(regions, track_meta=False)).float()

    def _pool(self, regions: torch.Tensor) -> torch.Tensor:
        sides = regions.shape[1:]
        cells = [self.cell or 1] * 3 if self.size is None else [s // n for s, n in zip(sides, self.size, strict=True)]
        grid = [side // max(cell, 1) for side, cell in zip(sides, cells, strict=True)]
        fits = [cell * number == side for cell, number, side in zip(cells, grid, sides, strict=True)]
        if all(fits) and self.size in (None, tuple(grid)):
            return _largest_of_cells(regions, cells)
        if self.size is None:
            return torch.nn.functional.max_pool3d(regions.float(), cells, ceil_mode=True)
        return torch.nn.functional.adaptive_max_pool3d(regions.float(), self.size)


class AuxiliaryTargetd(MapTransform):
    """Dictionary form of `AuxiliaryTarget`; writes `auxiliary_target`.

    Args:
        keys: the dense regions.
        size: see `AuxiliaryTarget`.
        cell: likewise.
        allow_missing_keys: whether an item may lack the regions.
    """

    def __init__(
        self,
        keys: KeysCollection = "label",
        size: Sequence[int] | None = None,
        allow_missing_keys: bool = False,
        cell: int | None = None,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.pool = AuxiliaryTarget(size, cell)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item["auxiliary_target"] = self.pool(item[key])
        return item


def _largest_of_cells(regions: torch.Tensor, cells: Sequence[int]) -> torch.Tensor:
    """Max-pools `[R, H, W, D]` by cells that fit, axis by axis and in its own dtype.

    PyTorch's pooling has one thread of a GPU for each cell, which reads its voxels (32768, as published) one by one,
    and takes no integers.
    """
    for axis, cell in reversed(list(enumerate(cells, start=1))):
        regions = regions.unflatten(axis, (-1, cell)).amax(axis + 1)
    return regions

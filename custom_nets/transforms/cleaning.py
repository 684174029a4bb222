"""Cleaning of predicted regions: holes are filled, a region too small to be believed is dropped."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_numpy, ensure_tuple
from scipy import ndimage

from custom_nets.errors import InputError
from custom_nets.transforms.meshes import affine_of, bounding_box
from custom_nets.transforms.volumes import voxel_millilitres

_ROUNDING = 1e-5
"""Relative error of a volume that the float32 affine of a turned grid may cause."""


def _check_names(names: Sequence[str], regions: Sequence[str]) -> None:
    unknown = [name for name in names if name not in regions]
    if unknown:
        msg = f"region '{unknown[0]}' is unknown; expected any of {', '.join(regions)}"
        raise InputError(msg)


def _masks(regions: torch.Tensor, names: Sequence[str], threshold: float, source: str) -> np.ndarray:
    """Returns regions `[R, H, W, D]` as booleans, after checking that they are as many as their names."""
    if regions.ndim != 4 or len(regions) != len(names):
        msg = (
            f"{source} has shape {tuple(regions.shape)}; expected [{len(names)}, H, W, D], one channel for each of the "
            f"regions {', '.join(names)}: name as many regions as there are channels"
        )
        raise InputError(msg)
    return convert_to_numpy(regions) > threshold


def _holes(mask: np.ndarray) -> np.ndarray:
    """Returns the background voxels that no path along faces joins to the border of the volume `[H, W, D]`."""
    holes = np.zeros_like(mask)
    box = bounding_box(mask)
    if box is not None:
        holes[box] = ndimage.binary_fill_holes(mask[box]) & ~mask[box]
    return holes


class FillRegionHoles(Transform):
    """Fills the holes of nested regions `[R, H, W, D]`, probabilities or binary: background enclosed in 3D by faces.

    A filled voxel becomes 1, all others stay as they are.

    ET is not filled unless `fill` names it: the hole of an enhancing ring is the necrotic core. (The published
    post-processing filled it on the first passes only.) What is filled in a region is added to the outer ones as well,
    so that nested regions stay nested. Type, device and metadata stay.

    Args:
        regions: name of each channel, outermost first.
        fill: those whose holes are filled.
        threshold: a region holds the voxels above it.

    Raises: InputError when `fill` names no region.
    """

    def __init__(
        self,
        regions: Sequence[str] = ("WT", "TC", "ET"),
        fill: Sequence[str] | str = ("WT", "TC"),
        threshold: float = 0.5,
    ) -> None:
        self.regions = tuple(regions)
        self.threshold = threshold
        self.fill = ensure_tuple(fill)
        _check_names(self.fill, self.regions)

    def __call__(self, regions: torch.Tensor, source: str = "the regions") -> torch.Tensor:
        """Fills one prediction.

        Args:
            regions: `[R, H, W, D]`.
            source: how an error names the tensor.

        Raises:
            InputError: for another number of channels.
        """
        masks = _masks(regions, self.regions, self.threshold, source)
        filled = regions.clone()
        added = np.zeros(masks.shape[1:], dtype=bool)
        for index in reversed(range(len(masks))):
            if self.regions[index] in self.fill:
                added |= _holes(masks[index])
            filled[index, torch.from_numpy(added).to(filled.device)] = 1
        return filled


class FillRegionHolesd(MapTransform):
    """Dictionary form of `FillRegionHoles`."""

    def __init__(
        self,
        keys: KeysCollection,
        regions: Sequence[str] = ("WT", "TC", "ET"),
        fill: Sequence[str] | str = ("WT", "TC"),
        threshold: float = 0.5,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.filler = FillRegionHoles(regions, fill, threshold)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.filler(item[key], f"case {item.get('case', 'without a name')}: '{key}'")
        return item


class DropSmallRegion(Transform):
    """Empties a region of nested regions `[R, H, W, D]`, probabilities or binary, whose total volume is below a limit.

    Its voxels stay in the outer regions: a dropped ET is written as tumour core. The regions inside a dropped one are
    emptied with it. A case without enhancing tumour scores a Dice of 0 for a single false voxel. Type, device and
    metadata stay.

    Args:
        regions: name of each channel, outermost first.
        region: the one that may be dropped.
        min_ml: it is kept from this volume on, in millilitres; 0 drops nothing. The post-processing of BraTS entries
            used 500 voxels of 1 mm3, 0.5 ml.
        threshold: a region holds the voxels above it.

    Raises: InputError when `region` is no region, or for a negative volume.
    """

    def __init__(
        self,
        regions: Sequence[str] = ("WT", "TC", "ET"),
        region: str = "ET",
        min_ml: float = 0.5,
        threshold: float = 0.5,
    ) -> None:
        self.regions = tuple(regions)
        self.threshold = threshold
        _check_names([region], self.regions)
        if not min_ml >= 0:
            msg = f"min_ml is {min_ml}; expected a volume in millilitres, 0 to drop nothing"
            raise InputError(msg)
        self.region = region
        self.min_ml = min_ml

    def __call__(self, regions: torch.Tensor, source: str = "the regions") -> torch.Tensor:
        """Cleans one prediction.

        Args:
            regions: MetaTensor `[R, H, W, D]` on the grid whose affine it carries.
            source: how an error names the tensor.

        Raises:
            InputError: for a tensor without affine, or another number of channels.
        """
        affine = affine_of(regions, self.regions, source)
        masks = _masks(regions, self.regions, self.threshold, source)
        index = self.regions.index(self.region)
        kept = regions.clone()
        if np.count_nonzero(masks[index]) * voxel_millilitres(affine) < self.min_ml * (1 - _ROUNDING):
            kept[index:] = 0
        return kept


class DropSmallRegiond(MapTransform):
    """Dictionary form of `DropSmallRegion`."""

    def __init__(
        self,
        keys: KeysCollection,
        regions: Sequence[str] = ("WT", "TC", "ET"),
        region: str = "ET",
        min_ml: float = 0.5,
        threshold: float = 0.5,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.dropper = DropSmallRegion(regions, region, min_ml, threshold)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.dropper(item[key], f"case {item.get('case', 'without a name')}: '{key}'")
        return item

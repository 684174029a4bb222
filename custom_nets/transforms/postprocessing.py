"""Cleaning of predicted regions: holes filled, regions and parts too small to be believed and stray parts dropped."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.utils import ensure_tuple
from scipy import ndimage

from custom_nets.errors import InputError
from custom_nets.transforms.regions import check_names, dataset_of, relations
from custom_nets.transforms.saving.meshes import affine_of, as_array, region_in_box
from custom_nets.transforms.saving.volumes import label_parts, voxel_millilitres

_ROUNDING = 1e-5
"""Relative error of a volume that the float32 affine of a turned grid may cause."""


def _check_volume(min_ml: float) -> None:
    if not min_ml >= 0:
        msg = f"min_ml is {min_ml}; expected a volume in millilitres, 0 to drop nothing"
        raise InputError(msg)


def _check_channels(regions: torch.Tensor, names: Sequence[str], source: str) -> None:
    """Checks that regions `[R, H, W, D]` are as many as their names."""
    if regions.ndim != 4 or len(regions) != len(names):
        msg = (
            f"{source} has shape {tuple(regions.shape)}; expected [{len(names)}, H, W, D], one channel for each of the "
            f"regions {', '.join(names)}: name as many regions as there are channels"
        )
        raise InputError(msg)


def _write(channels: torch.Tensor, box: tuple[slice, ...], mask: np.ndarray, value: int) -> None:
    """Writes a value into all channels `[R, H, W, D]` where a mask `[h, w, d]` of a box is True."""
    place = (slice(None), *box)
    channels.as_subclass(torch.Tensor)[place].masked_fill_(torch.from_numpy(mask).to(channels.device), value)


class _Cleand(MapTransform):
    """Applies `self.cleaner` to its keys."""

    cleaner: Callable[[torch.Tensor, str], torch.Tensor]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            source = f"case {item.get('case', 'without a name')}: '{key}'"
            item[key] = self.cleaner_of(item)(item[key], source)
        return item

    def cleaner_of(self, item: Mapping[Hashable, Any]) -> Callable[[torch.Tensor, str], torch.Tensor]:
        """Returns what cleans this item."""
        return self.cleaner


class _RecordCleand(_Cleand):
    """A cleaner that asks the record of the item, where it has the regions, how these lie to each other."""

    cleaner: FillRegionHoles | DropSmallParts
    dataset: str | None

    def cleaner_of(self, item: Mapping[Hashable, Any]) -> Callable[[torch.Tensor, str], torch.Tensor]:
        """Returns what cleans this item, by its own record."""
        if self.dataset is None:
            return self.cleaner
        own = copy(self.cleaner)
        own.relations = relations(dataset_of(item.get("dataset"), self.dataset, own.regions), own.regions)
        return own


class FillRegionHoles(Transform):
    """Fills the holes of regions `[R, H, W, D]`, probabilities or binary: background enclosed in 3D by faces.

    A filled voxel becomes 1, all others stay as they are. What is a region that shares no voxel with the filled one
    (a tumour beside its organ) is no hole.

    ET is not filled unless `fill` names it: the hole of an enhancing ring is the necrotic core. (The published
    post-processing filled it on the first passes only.) What is filled in a region is added to those around it as well,
    so that nested regions stay nested. Type, device and metadata stay.

    Args:
        regions: name of each channel.
        fill: those whose holes are filled.
        threshold: a region holds the voxels above it.
        in_place: writes into the given tensor and not into a copy.
        dataset: record that tells how the regions lie; None: each lies within the one before it.

    Raises: InputError when `fill` names no region.
    """

    def __init__(
        self,
        regions: Sequence[str],
        fill: Sequence[str] | str,
        threshold: float = 0.5,
        in_place: bool = False,
        dataset: str | None = None,
    ) -> None:
        self.regions = tuple(regions)
        self.threshold = threshold
        self.in_place = in_place
        self.fill = ensure_tuple(fill)
        check_names(self.fill, self.regions)
        self.relations = relations(dataset, self.regions)

    def __call__(self, regions: torch.Tensor, source: str = "the regions") -> torch.Tensor:
        """Fills one prediction.

        Args:
            regions: `[R, H, W, D]`.
            source: how an error names the tensor.

        Raises:
            InputError: for another number of channels.
        """
        _check_channels(regions, self.regions, source)
        filled = regions if self.in_place else regions.clone()
        for index in reversed(range(len(self.regions))):
            if self.regions[index] in self.fill:
                around, _, rivals = self.relations[index]
                mask, box = region_in_box(as_array(filled[index]), self.threshold)
                hole = ndimage.binary_fill_holes(mask) & ~mask
                for rival in rivals:
                    hole &= as_array(filled[rival])[box] <= self.threshold
                for channel in (*around, index):
                    _write(filled[channel : channel + 1], box, hole, 1)
        return filled


class FillRegionHolesd(_RecordCleand):
    """Dictionary form of `FillRegionHoles`."""

    def __init__(
        self,
        keys: KeysCollection,
        regions: Sequence[str],
        fill: Sequence[str] | str,
        threshold: float = 0.5,
        allow_missing_keys: bool = False,
        in_place: bool = False,
        dataset: str | None = None,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.cleaner = FillRegionHoles(regions, fill, threshold, in_place, dataset)
        self.dataset = dataset


class DropSmallParts(Transform):
    """Drops the connected parts of regions `[R, H, W, D]`, probabilities or binary, that are smaller than a volume.

    Their voxels become 0, in the regions within as well; regions around keep them, and so do neighbours. Voxels that
    share a corner are connected. Type, device and metadata stay.

    Args:
        regions: name of each channel.
        min_ml: parts are kept from this volume on, millilitres; 0 drops nothing.
        threshold: a region holds the voxels above it.
        dataset: record that tells how the regions lie; None: each lies within the one before it.

    Raises: InputError for a negative volume.
    """

    def __init__(
        self, regions: Sequence[str], min_ml: float, threshold: float = 0.5, dataset: str | None = None
    ) -> None:
        _check_volume(min_ml)
        self.regions = tuple(regions)
        self.min_ml = min_ml
        self.threshold = threshold
        self.relations = relations(dataset, self.regions)

    def __call__(self, regions: torch.Tensor, source: str = "the regions") -> torch.Tensor:
        """Cleans one prediction.

        Args:
            regions: MetaTensor `[R, H, W, D]` on the grid whose affine it carries.
            source: how an error names the tensor.

        Raises:
            InputError: for a tensor without affine, or another number of channels.
        """
        millilitres = voxel_millilitres(affine_of(regions, self.regions, source))
        _check_channels(regions, self.regions, source)
        kept = regions.clone()
        for index in range(len(self.regions)):
            mask, box = region_in_box(as_array(kept[index]), self.threshold)
            parts, sizes = label_parts(mask)
            small = np.flatnonzero(sizes * millilitres < self.min_ml * (1 - _ROUNDING)) + 1
            if len(small):
                for channel in (index, *self.relations[index][1]):
                    _write(kept[channel : channel + 1], box, np.isin(parts, small), 0)
        return kept


class DropSmallPartsd(_RecordCleand):
    """Dictionary form of `DropSmallParts`."""

    def __init__(
        self,
        keys: KeysCollection,
        regions: Sequence[str],
        min_ml: float,
        threshold: float = 0.5,
        allow_missing_keys: bool = False,
        dataset: str | None = None,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.cleaner = DropSmallParts(regions, min_ml, threshold, dataset)
        self.dataset = dataset


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
        regions: Sequence[str],
        region: str,
        min_ml: float = 0.5,
        threshold: float = 0.5,
    ) -> None:
        self.regions = tuple(regions)
        self.threshold = threshold
        check_names([region], self.regions)
        _check_volume(min_ml)
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
        index = self.regions.index(self.region)
        kept = regions.clone()
        voxels = np.count_nonzero(region_in_box(as_array(regions[index]), self.threshold)[0])
        if voxels * voxel_millilitres(affine) < self.min_ml * (1 - _ROUNDING):
            kept[index:] = 0
        return kept


class DropSmallRegiond(_Cleand):
    """Dictionary form of `DropSmallRegion`."""

    def __init__(
        self,
        keys: KeysCollection,
        regions: Sequence[str],
        region: str,
        min_ml: float = 0.5,
        threshold: float = 0.5,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.cleaner = DropSmallRegion(regions, region, min_ml, threshold)


class KeepLargestRegion(Transform):
    """Keeps the largest connected part of a region of nested regions `[R, H, W, D]`, probabilities or binary.

    The voxels of its other parts become 0, in the inner regions too: a false liver elsewhere in the body goes with its
    tumours. The largest has the most voxels; voxels that share a corner are connected. Nothing happens where there is
    one part. What lies below the threshold stays, so that the surface of the kept part stays as smooth as it was.
    Type, device and metadata stay.

    Args:
        regions: name of each channel, outermost first.
        region: the one whose largest part is kept.
        threshold: a region holds the voxels above it.
        in_place: writes into the given tensor and not into a copy.

    Raises: InputError when `region` is no region.
    """

    def __init__(
        self,
        regions: Sequence[str],
        region: str,
        threshold: float = 0.5,
        in_place: bool = False,
    ) -> None:
        self.regions = tuple(regions)
        check_names([region], self.regions)
        self.region = region
        self.threshold = threshold
        self.in_place = in_place

    def __call__(self, regions: torch.Tensor, source: str = "the regions") -> torch.Tensor:
        """Cleans one prediction.

        Args:
            regions: `[R, H, W, D]`, nested (see `NestRegions`).
            source: how an error names the tensor.

        Raises:
            InputError: for another number of channels.
        """
        _check_channels(regions, self.regions, source)
        index = self.regions.index(self.region)
        kept = regions if self.in_place else regions.clone()
        mask, box = region_in_box(as_array(regions[index]), self.threshold)
        parts, sizes = label_parts(mask)
        if len(sizes) > 1:
            _write(kept[index:], box, mask & (parts != sizes.argmax() + 1), 0)
        return kept


class KeepLargestRegiond(_Cleand):
    """Dictionary form of `KeepLargestRegion`."""

    def __init__(
        self,
        keys: KeysCollection,
        regions: Sequence[str],
        region: str,
        threshold: float = 0.5,
        allow_missing_keys: bool = False,
        in_place: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.cleaner = KeepLargestRegion(regions, region, threshold, in_place)
